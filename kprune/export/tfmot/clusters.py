"""Weight clustering: few different values per kernel, so that files compress well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kprune.export.signature import ModelSignature
from kprune.export.tfmot.annotate import tfmot_scope
from kprune.export.tfmot.packages import packages
from kprune.export.tfmot.training import train

# TF-MOT does not cluster depthwise kernels: they are small and lose too much.
_CLUSTERED = ("Conv1D", "Conv2D", "Conv2DTranspose", "Conv3D", "Dense")
_LLOYD_STEPS = 100


def clusterable(model: Any, clusters: int) -> set[str]:
    """Choose the layers to cluster.

    Args:
        model: tf_keras model.
        clusters: Number of different weights to leave in a kernel.

    Returns:
        Names of the convolutions and Dense layers with more weights than that.
    """
    return {
        layer.name
        for layer in model.layers
        if type(layer).__name__ in _CLUSTERED
        and len(np.unique(layer.kernel)) > clusters
    }


def clustered(
    model: Any,
    chosen: set[str],
    signature: ModelSignature,
    options: Mapping[str, Any],
) -> Any:
    """Cluster the kernels of a model, and train it if there is data.

    Args:
        model: tf_keras model. It cannot be used afterwards.
        chosen: Names of the layers to cluster.
        signature: The Keras 3 model that it stands for.
        options: `clusters`, and the options for training.

    Returns:
        A tf_keras model with the same layers, whose chosen kernels have at most
        `clusters` different values.
    """
    tf_keras, tfmot = packages()
    clustering = tfmot.clustering.keras
    start = clustering.CentroidInitialization.KMEANS_PLUS_PLUS

    def wrap(layer: Any) -> Any:
        if layer.name not in chosen:
            return layer
        return clustering.cluster_weights(layer, options["clusters"], start)

    with tfmot_scope():
        wrapped = tf_keras.models.clone_model(model, clone_function=wrap)
        _settle(wrapped)
        if options["data"] is not None:
            train(wrapped, signature, options)
        return clustering.strip_clustering(wrapped)


def _settle(wrapped: Any) -> None:
    """Run k-means from the k-means++ starting points of each kernel.

    TF-MOT uses the starting points as drawn, and leaves the rest to training.
    """
    for layer in wrapped.layers:
        for name, centroids in getattr(layer, "cluster_centroids", {}).items():
            weights = layer.original_clusterable_weights[name].numpy()
            centroids.assign(k_means(weights.ravel(), centroids.numpy()))


def k_means(weights: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Improve centroids with Lloyd's algorithm in one dimension.

    Args:
        weights: Values `(n,)`.
        centroids: Starting points `(k,)`.

    Returns:
        Centroids `(k,)` in ascending order. Their mean squared distance from the
        weights is at most that of the starting points.
    """
    weights = np.sort(weights.astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(weights)])
    centroids = np.sort(centroids.astype(np.float64))
    for _ in range(_LLOYD_STEPS):
        borders = (centroids[1:] + centroids[:-1]) / 2
        ends = np.concatenate(
            [[0], np.searchsorted(weights, borders), [len(weights)]]
        )
        counts = np.diff(ends)
        # An empty cluster stays where it is.
        means = np.diff(sums[ends]) / np.maximum(counts, 1)
        moved = np.where(counts > 0, means, centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids.astype(np.float32)
