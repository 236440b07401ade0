"""Prepare models for quantisation-aware training with TF-MOT."""

from __future__ import annotations

import contextlib
import warnings
from collections import defaultdict
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np

from kprune.export.tfmot.embedded import embedded_class
from kprune.export.tfmot.packages import packages

PREFIX = "quant_"
_FOLDED_INTO = ("Conv2D", "DepthwiseConv2D", "Dense")
_BATCH = 64


@contextlib.contextmanager
def tfmot_scope() -> Iterator[None]:
    """Allow TF-MOT to copy models with embedded layers."""
    custom = {embedded_class().__name__: embedded_class()}
    with (
        packages().tf_keras.utils.custom_object_scope(custom),
        warnings.catch_warnings(),
    ):
        # The notes of the report already name the kernels that are too small.
        warnings.filterwarnings("ignore", message="Layer .* not have enough")
        yield


def annotated(model: Any) -> set[str]:
    """Choose the layers that quantisation-aware training covers.

    Args:
        model: Flat functional tf_keras model.

    Returns:
        Their names, including batch normalisation that is folded into the layer
        before it.
    """
    registry = _default_registry()
    network = _network(model)
    readers: dict[str, int] = defaultdict(int)
    for calls in network.values():
        for node in calls:
            for layer in _inbound(node):
                readers[layer.name] += 1
    for tensor in model.outputs:
        readers[tensor._keras_history.layer.name] += 1

    def folded(name: str) -> bool:
        """Return whether a layer is batch normalisation that can be folded."""
        if type(network[name][0].layer).__name__ != "BatchNormalization":
            return False
        before = _inbound(network[name][0])[0]
        return (
            type(before).__name__ in _FOLDED_INTO
            and before.activation.__name__ == "linear"
            and readers[before.name] == len(network[before.name]) == 1
            and len(network[name]) == 1
        )

    return {
        name
        for name, calls in network.items()
        if registry.supports(calls[0].layer) or folded(name)
    }


def quantization_aware(
    model: Any, chosen: set[str], samples: Sequence[np.ndarray], clustered: bool
) -> Any:
    """Make a model that imitates int8 arithmetic while it trains.

    TF-MOT starts every range at -6 to 6 and moves it by a thousandth per step, so
    short training would end far from the true ranges. Ranges are measured on
    `samples` instead.

    Args:
        model: Flat functional tf_keras model.
        chosen: Names of the layers to cover.
        samples: One array per input.
        clustered: Whether the kernels are clustered and must stay so.

    Returns:
        The tf_keras model to train.
    """
    tf_keras, tfmot = packages()
    annotate = tfmot.quantization.keras.quantize_annotate_layer
    ranges = _ranges(model, chosen, samples)
    with tfmot_scope():
        marked = tf_keras.models.clone_model(
            model,
            clone_function=lambda layer: (
                annotate(layer) if layer.name in chosen else layer
            ),
        )
        scheme = _cluster_scheme() if clustered else _default_scheme()
        aware = tfmot.quantization.keras.quantize_apply(
            marked, scheme, quantized_layer_name_prefix=PREFIX
        )
    for layer in aware.layers:
        found = ranges.get(layer.name.removeprefix(PREFIX))
        if found is not None and layer.name.startswith(PREFIX):
            _start_at(layer, *found)
    return aware


def _start_at(wrapper: Any, low: float, high: float) -> None:
    variables = [getattr(wrapper, "_output_quantizer_vars", None)]
    for activation in wrapper._quantize_activations:
        if hasattr(activation, "_post_activation_vars"):
            variables.append(activation._post_activation_vars)
    for pair in filter(None, variables):
        pair["min_var"].assign(low)
        pair["max_var"].assign(high)


def _ranges(
    model: Any, chosen: set[str], samples: Sequence[np.ndarray]
) -> dict[str, tuple[float, float]]:
    """Return the range of each layer's outputs; every range includes zero."""
    import tensorflow as tf

    outputs = {
        name: [tensor for node in calls for tensor in _outputs(node)]
        for name, calls in _network(model).items()
        if name in chosen
    }
    probe = packages().tf_keras.Model(model.inputs, outputs)

    @tf.function(autograph=False)
    def measure(*batch: Any) -> Any:
        values = probe(batch[0] if len(batch) == 1 else list(batch))
        return {
            name: (
                tf.reduce_min([tf.reduce_min(t) for t in tf.nest.flatten(v)]),
                tf.reduce_max([tf.reduce_max(t) for t in tf.nest.flatten(v)]),
            )
            for name, v in values.items()
        }

    found = {name: (0.0, 0.0) for name in outputs}
    for start in range(0, len(samples[0]), _BATCH):
        part = [tf.constant(a[start : start + _BATCH]) for a in samples]
        for name, (low, high) in measure(*part).items():
            before = found[name]
            found[name] = (
                min(before[0], float(low)),
                max(before[1], float(high)),
            )
    return found


def _network(model: Any) -> dict[str, list[Any]]:
    """Return the calls of each layer in `model`; inputs are left out."""
    calls: dict[str, list[Any]] = defaultdict(list)
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if not node.is_input:
                calls[node.layer.name].append(node)
    return calls


def _inbound(node: Any) -> list[Any]:
    import tensorflow as tf

    return list(tf.nest.flatten(node.inbound_layers))


def _outputs(node: Any) -> list[Any]:
    import tensorflow as tf

    return list(tf.nest.flatten(node.outputs))


def _default_scheme() -> Any:
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (  # noqa: E501
        default_8bit_quantize_scheme as schemes,
    )

    return schemes.Default8BitQuantizeScheme()


def _default_registry() -> Any:
    return _default_scheme().get_quantize_registry()


def _cluster_scheme() -> Any:
    combine = packages().tfmot.experimental.combine
    base: Any = combine.Default8BitClusterPreserveQuantizeScheme
    default = _default_registry()

    class Scheme(base):
        """TF-MOT's scheme, which wrongly supports any layer without weights."""

        def get_quantize_registry(self) -> Any:
            registry = super().get_quantize_registry()
            registry.supports = default.supports
            return registry

    return Scheme(preserve_sparsity=False)
