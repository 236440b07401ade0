"""Batch normalisation and input normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers
from keras.config import image_data_format
from keras.saving import serialize_keras_object

from kprune.graph.call import SCALE
from kprune.graph.call import STATISTIC
from kprune.graph.call import Axis
from kprune.graph.call import Call
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.record import Visit
from kprune.graph.registry import Rule
from kprune.graph.registry import register_rule


@register_rule(layers.BatchNormalization)
class BatchNormalizationRule(Rule):
    batch_norm = True

    def trace(self, call: Call) -> Labels:
        layer = call.layer
        axis = layer.axis % call.input.rank
        others = [a for a in range(call.input.rank) if a != axis]
        x = call.settle(call.input, others, f"{call!r} averages over this axis")
        labels = call.one_axis(x, axis)
        scales = [v for v in (layer.gamma, layer.beta) if v is not None]
        call.bind_all(scales, labels, SCALE)
        statistics = [layer.moving_mean, layer.moving_variance]
        call.bind_all(statistics, labels, STATISTIC)
        # Statistics are never masked, so without gamma the output is not 0.
        return x.replace(shape=call.output_shape, zero=layer.gamma is not None)


def _cut(given: Any, axes: Sequence[int], x: Labels, kept: Kept) -> Any:
    """Return the part of a constant that meets kept channels of `x`.

    Args:
        given: The constant: a number, list or array.
        axes: The axis of `x` that each of its axes meets.
        x: Labels of the tensor it is combined with.
        kept: The kept channels.
    """
    value = whole = np.asarray(given)
    for n, axis in enumerate(axes):
        index = kept.positions(x, axis)
        if index is not None and whole.shape[n] > 1:
            value = value.take(index, axis=n)
    if value is whole:
        return given
    # Keras rounds lists to float32 but keeps arrays, and NumPy numbers in lists.
    exact = any(isinstance(n, np.generic) for n in keras.tree.flatten(given))
    listed = isinstance(given, list | tuple) and not exact
    return value.tolist() if listed else value


@register_rule(layers.Rescaling)
class RescalingRule(Rule):
    def trace(self, call: Call) -> Labels:
        x = call.input
        return x.replace(zero=x.zero and not np.any(call.layer.offset))

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        layer, x = visit.operation, visit.inputs[0]
        config = layer.get_config()
        for name in ("scale", "offset"):
            given = getattr(layer, name)
            rank, end = np.ndim(given), x.rank
            if name == "scale" and image_data_format() == "channels_first":
                end -= max(3 - rank, 0)  # As in `Rescaling.call`.
            new = _cut(given, range(end - rank, end), x, kept)
            config[name] = serialize_keras_object(new)
        return config

    def arrange(self, layer: Any, new: Any) -> None:
        # A configuration makes Python numbers of NumPy's, which Keras rounds.
        for name in ("scale", "offset"):
            if np.shape(getattr(layer, name)) == np.shape(getattr(new, name)):
                setattr(new, name, getattr(layer, name))


@register_rule(layers.Normalization)
class NormalizationRule(Rule):
    def trace(self, call: Call) -> Labels:
        layer, x = call.layer, call.input
        if layer.input_mean is None:
            axes = {
                n: Axis(call.one_axis(x, axis), STATISTIC)
                for n, axis in enumerate(layer._keep_axis)
            }
            call.bind(layer.adapt_mean, axes)
            call.bind(layer.adapt_variance, axes)
        return x.replace(zero=False)

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        layer, x = visit.operation, visit.inputs[0]
        config = self.copied(layer)
        axes = layer._keep_axis[
            len(layer._keep_axis) - np.ndim(config["mean"]) :
        ]
        for name in ("mean", "variance"):
            config[name] = _cut(config[name], axes, x, kept)
        return config

    def copied(self, operation: Any) -> dict[str, Any]:
        # get_config() makes lists of arrays, which changes their precision.
        config = operation.get_config()
        config["mean"] = operation.input_mean
        config["variance"] = operation.input_variance
        return config

    def arrange(self, layer: Any, new: Any) -> None:
        new.finalize_state()
