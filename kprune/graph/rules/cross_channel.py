"""Normalisation across channels.

Its statistics must exclude removed channels. If whole normalisation groups are
removed, they do. Otherwise `Rule.masked_call` computes them over the alive
channels only.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers
from keras import ops

from kprune.graph.call import SCALE
from kprune.graph.call import STATISTIC
from kprune.graph.call import Axis
from kprune.graph.call import Call
from kprune.graph.kept import Kept
from kprune.graph.labels import Labels
from kprune.graph.labels import varying
from kprune.graph.record import Visit
from kprune.graph.registry import Rule
from kprune.graph.registry import find_rule
from kprune.graph.registry import register_rule
from kprune.graph.rules.contraction import masked_axis
from kprune.graph.rules.contraction import untangle


def _normalised_axes(layer: Any, rank: int) -> list[int]:
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    return [a % rank for a in axes]


def _need_axes(
    call: Call, x: Labels, axes: Sequence[int]
) -> dict[int, list[Any]]:
    """Ask for the masks of all labelled `axes`; return their labels."""
    found = {}
    for axis in axes:
        labels = call.one_axis(x, axis)
        if labels:
            found[axis] = labels
            call.need(f"axis{axis}", labels)
    return found


def _weights(
    masks: dict[str, Any], x: Any, axes: Sequence[int]
) -> tuple[Any, Any]:
    """Return weights of a masked mean, and the mask.

    Args:
        masks: `"axis<n>"` -> mask of axis n.
        x: The input.
        axes: The normalised axes.

    Returns:
        `w` such that `sum(w * x, axes)` is the mean over the alive channels,
        and the product of the masks; both broadcast to `x`.
    """
    weight = mask = ops.ones([1] * len(x.shape), x.dtype)
    for axis in axes:
        vector = masks.get(f"axis{axis}")
        if vector is None:
            weight = weight / ops.cast(ops.shape(x)[axis], x.dtype)
            continue
        shape = [1] * len(x.shape)
        shape[axis] = -1
        vector = ops.reshape(ops.cast(vector, x.dtype), shape)
        mask = mask * vector
        weight = weight * vector / ops.sum(vector)
    return weight, mask


def _full_precision(x: Any) -> Any:
    return ops.cast(x, keras.backend.result_type(x.dtype, "float32"))


def _spread(variable: Any, axes: Sequence[int], x: Any) -> Any:
    """Return a parameter of the normalised axes, reshaped to broadcast to `x`."""
    shape = [1] * len(x.shape)
    for axis, size in zip(axes, variable.shape, strict=True):
        shape[axis] = size
    return ops.reshape(ops.cast(variable, x.dtype), shape)


class _AxisNormRule(Rule):
    """Normalisation along some axes of each sample."""

    @abc.abstractmethod
    def parameters(self, layer: Any) -> list[Any]:
        """Return the layer's variables, which have the normalised axes."""

    def shifts(self, layer: Any) -> bool:
        """Return whether an input of 0 may give another output."""
        return False

    def fits(self, axes: list[int], rank: int) -> bool:
        """Return whether the parameters lie along the normalised axes."""
        return True

    def trace(self, call: Call) -> Labels | list[Labels]:
        layer, x = call.layer, call.input
        axes = _normalised_axes(layer, x.rank)
        if axes != sorted(axes):
            return call.pin_all(f"{call!r} mixes positive and negative axes")
        if not self.fits(axes, x.rank):
            return call.pin_all(
                f"{call!r} scales another axis than it normalises"
            )
        if 0 in axes:
            return call.pin_all(f"{call!r} normalises across samples")
        x = untangle(call, x, axes[::-1])
        found = _need_axes(call, x, axes)
        for variable in self.parameters(layer):
            bound = {
                n: Axis(found[a], SCALE)
                for n, a in enumerate(axes)
                if a in found
            }
            call.bind(variable, bound)
        passing = [f for f in x.factors if not set(varying(f)) & set(axes)]
        zero = not passing or (x.zero and not self.shifts(layer))
        return x.replace(zero=zero)


@register_rule(layers.LayerNormalization)
class LayerNormalizationRule(_AxisNormRule):
    """Layer normalisation (Ba et al., arXiv 1607.06450)."""

    def parameters(self, layer: Any) -> list[Any]:
        return [v for v in (layer.gamma, layer.beta) if v is not None]

    def shifts(self, layer: Any) -> bool:
        return layer.beta is not None or layer.rms_scaling

    def masked_call(
        self,
        layer: Any,
        masks: dict[str, Any],
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if not masks:
            return layer(inputs, *args, **kwargs)
        x = _full_precision(inputs)
        axes = _normalised_axes(layer, len(x.shape))
        weight, mask = _weights(masks, x, axes)
        centred = x - ops.sum(x * weight, axis=axes, keepdims=True)
        variance = ops.sum(
            ops.square(centred) * weight, axis=axes, keepdims=True
        )
        out = x if layer.rms_scaling else centred
        out = out * ops.rsqrt(variance + layer.epsilon) * mask
        if layer.gamma is not None:
            out = out * _spread(layer.gamma, axes, x)
        if layer.beta is not None:
            out = out + _spread(layer.beta, axes, x)
        # Keras rounds to the data type of the input first.
        return ops.cast(ops.cast(out, inputs.dtype), layer.compute_dtype)


@register_rule(layers.RMSNormalization)
class RMSNormalizationRule(_AxisNormRule):
    """Root mean square normalisation (Zhang and Sennrich, arXiv 1910.07467)."""

    def parameters(self, layer: Any) -> list[Any]:
        return [layer.scale]

    def fits(self, axes: list[int], rank: int) -> bool:
        # Keras multiplies with the scale by NumPy broadcasting.
        return axes == list(range(rank - len(axes), rank))

    def masked_call(
        self,
        layer: Any,
        masks: dict[str, Any],
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if not masks:
            return layer(inputs, *args, **kwargs)
        x = _full_precision(inputs)
        axes = _normalised_axes(layer, len(x.shape))
        weight, _ = _weights(masks, x, axes)
        square = ops.sum(ops.square(x) * weight, axis=axes, keepdims=True)
        out = (
            x
            * ops.rsqrt(square + layer.epsilon)
            * _spread(layer.scale, axes, x)
        )
        return ops.cast(out, inputs.dtype)


@register_rule(layers.UnitNormalization)
class UnitNormalizationRule(Rule):
    """Removed channels are masked unless they are 0, which leaves norms as they are."""

    def trace(self, call: Call) -> Labels:
        x = call.input
        axes = _normalised_axes(call.layer, x.rank)
        if x.zero:
            return x
        x = untangle(call, x, axes[::-1])
        _need_axes(call, x, axes)
        return x.replace(
            zero=all(set(varying(f)) & set(axes) for f in x.factors)
        )

    def masked_call(
        self,
        layer: Any,
        masks: dict[str, Any],
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        for name, mask in masks.items():
            inputs = masked_axis(inputs, mask, int(name.removeprefix("axis")))
        return layer(inputs, *args, **kwargs)


@register_rule(layers.GroupNormalization)
class GroupNormalizationRule(Rule):
    """Group normalisation (Wu and He, arXiv 1803.08494).

    If there are at least as many groups as channels per group, whole groups are
    removed. Otherwise the i-th channels of all groups are, and the statistics
    cover the alive channels only.
    """

    def trace(self, call: Call) -> Labels:
        layer, x = call.layer, call.input
        axis = layer.axis % x.rank
        others = [a for a in range(x.rank) if a != axis]
        x = call.settle(x, others, f"{call!r} averages over this axis")
        labels = call.one_axis(x, axis)
        whole = _whole_groups(layer, x.shape[axis])
        for array in labels:
            rows = array.reshape(layer.groups, -1)
            call.union(rows, rows[:, :1] if whole else rows[:1])
        if not whole:
            call.need(f"axis{axis}", labels)
        scales = [v for v in (layer.gamma, layer.beta) if v is not None]
        call.bind_all(scales, labels, SCALE)
        zero = layer.gamma is not None or x.zero or not whole
        return x.replace(zero=zero)

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        layer, x = visit.operation, visit.inputs[0]
        config = layer.get_config()
        axis = layer.axis % x.rank
        old, new = x.shape[axis], kept.shape(x)[axis]
        if _whole_groups(layer, old):
            config["groups"] = layer.groups * new // old
        return config

    def masked_call(
        self,
        layer: Any,
        masks: dict[str, Any],
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        rank = len(inputs.shape)
        axis = layer.axis % rank
        mask = masks.get(f"axis{axis}")
        if mask is None:
            return layer(inputs, *args, **kwargs)
        shape = list(ops.shape(inputs))
        parts = [layer.groups, shape[axis] // layer.groups]
        x = ops.reshape(
            _full_precision(inputs), [*shape[:axis], *parts, *shape[axis + 1 :]]
        )
        flat = [1] * (rank + 1)
        flat[axis : axis + 2] = parts
        mask = ops.reshape(ops.cast(mask, x.dtype), flat)
        weight = mask / ops.sum(mask, axis=axis + 1, keepdims=True)
        space = [a for a in range(1, rank + 1) if a not in (axis, axis + 1)]

        def mean(values: Any) -> Any:
            if space:
                values = ops.mean(values, axis=space, keepdims=True)
            return ops.sum(values * weight, axis=axis + 1, keepdims=True)

        centred = x - mean(x)
        out = (
            centred
            * ops.rsqrt(mean(ops.square(centred)) + layer.epsilon)
            * mask
        )
        if layer.gamma is not None:
            out = out * ops.reshape(ops.cast(layer.gamma, x.dtype), flat)
        if layer.beta is not None:
            out = out + ops.reshape(ops.cast(layer.beta, x.dtype), flat)
        # Keras rounds to the data type of the input first.
        out = ops.cast(ops.reshape(out, shape), inputs.dtype)
        return ops.cast(out, layer.compute_dtype)


def _whole_groups(layer: Any, channels: int) -> bool:
    return layer.groups >= channels // layer.groups


@register_rule(layers.SpectralNormalization)
class SpectralNormalizationRule(Rule):
    """Spectral normalisation (Miyato et al., arXiv 1802.05957).

    Delegates to the rule of the inner layer. Removed filters are 0 in the
    kernel, so they do not affect the estimate of its norm.
    """

    def trace(self, call: Call) -> Labels | Sequence[Labels]:
        layer = call.layer
        rule = find_rule(layer.layer)
        if rule is None:
            kind = type(layer.layer).__name__
            why = f"{call!r} wraps a {kind}, which has no rule: register one"
            return call.pin_all(why)
        within = call.within(layer.layer)
        out = rule.trace(within)
        columns = call.bound(layer.kernel, len(layer.kernel.shape) - 1)
        call.bind(layer.vector_u, {1: Axis(columns, STATISTIC)})
        outputs = [out] if isinstance(out, Labels) else list(out)
        call.inner = Visit(layer.layer, call.args, {}, outputs, rule)
        return out

    def config(self, visit: Visit, kept: Kept) -> dict[str, Any]:
        config = visit.operation.get_config()
        if visit.inner is not None:
            new = visit.inner.rule.shrink(visit.inner, kept)
            config["layer"] = keras.saving.serialize_keras_object(new)
        return config

    def masked_call(
        self,
        layer: Any,
        masks: dict[str, Any],
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        training = kwargs.pop("training", None)
        if training is None:
            training = layer._get_call_context().get_value("training")
        if training:
            self._normalise(layer)
        # The kernel is normalised already.
        return layer(inputs, training=False)

    @staticmethod
    def _normalise(layer: Any) -> None:
        """Assign the normalised kernel as the layer does.

        The kernel's gradient ignores the normalisation, as in the layer without
        a mask, which assigns before it differentiates. JAX is an exception: it
        differentiates through the assignment.
        """
        kernel = layer.kernel.value
        vector, new = ops.cond(
            ops.all(ops.equal(kernel, 0)),
            lambda: (layer.vector_u.value, kernel),
            layer.normalized_weights,
        )
        layer.vector_u.assign(vector)
        if keras.config.backend() != "jax":
            new = kernel + ops.stop_gradient(new - kernel)
        layer.kernel.assign(new)
