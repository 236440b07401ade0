"""The wrapper that multiplies a layer's variables with masks and factors."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from kprune.graph.registry import find_rule
from kprune.graph.values import read
from kprune.graph.walk import Transparent
from kprune.masking.arguments import call_signature
from kprune.masking.axis_vectors import AxisVectors
from kprune.masking.gate import GatedInput
from kprune.masking.gate import restored

_Vectors = UserDict[tuple[int, int], keras.Variable]


@keras.saving.register_keras_serializable(package="kprune")
class FilterMask(AxisVectors, Transparent, keras.layers.Wrapper):
    """Holds a mask and an attenuation factor for the filters of a layer.

    The wrapped layer computes with its variables multiplied by 0/1 masks, one
    vector per masked axis, and (on output axes of producers) by a factor per
    filter. The variables themselves do not change, masked entries get no
    gradient, and masks are saved with the model because they are weights.

    `attenuation` records, per filter, how `AttenuateCallback` has scaled the
    variables in place. It is saved too, and has no effect on the outputs.

    `kprune.wrap` creates these wrappers. Create one yourself only to mask a
    single layer.

    Args:
        layer: The `keras.layers.Layer` to wrap.
        axes: `[weight index, axis]` pairs that get a mask, where the index
            refers to `layer.weights`. Defaults to every axis longer than 1 of
            every trainable weight.
        filters: The `[weight index, axis]` pairs that are output axes of a
            producer, and are multiplied with `factor` too. Defaults to the last
            axis of every trainable weight, kernels and biases alike.
        tensors: `{name: size}` of further masks, on axes of the layer's
            tensors. Layers that compute across channels need them.
        gates: Gates of groups that the layer reads. See
            `kprune.masking.add_gates`.
        **kwargs: See `keras.layers.Layer`.

    Example:

    ```python
    layer = kprune.FilterMask(keras.layers.Conv2D(8, 3))
    y = layer(x)
    layer.mask = [1, 1, 0, 1, 1, 1, 1, 1]      # filter 2 is gone
    ```
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        axes: Iterable[Iterable[int]] | None = None,
        filters: Iterable[Iterable[int]] | None = None,
        tensors: dict[str, int] | None = None,
        gates: Iterable[Any] = (),
        **kwargs: Any,
    ):
        kwargs.setdefault("name", getattr(layer, "name", None))
        kwargs.setdefault("dtype", getattr(layer, "dtype_policy", None))
        super().__init__(layer, **kwargs)
        self._axes = None if axes is None else _pairs(axes)
        self._filters = None if filters is None else _pairs(filters)
        self._tensors = dict(tensors or {})
        # Not dict: TensorFlow tracks these, and cannot save keys that are not str.
        self._masks: _Vectors = UserDict()
        self._factors: _Vectors = UserDict()
        self._attenuations: _Vectors = UserDict()
        self._tensor_masks: dict[str, keras.Variable] = {}
        self.gates: list[GatedInput] = restored(gates)
        self.supports_masking = layer.supports_masking
        # Some layers need their inputs in full precision.
        self.autocast = layer.autocast
        self._call_signature = call_signature(layer)
        # Weight index -> function that converts the masked weight, used while
        # training simulates another number format.
        self.forms: UserDict[int, Callable[[Any], Any]] = UserDict()
        # Called with the layer's input after gates, in eager forward passes.
        self.observer: Callable[[Any], None] | None = None

    # -- building ----------------------------------------------------------

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        self._add_masks()
        self.built = True

    def get_build_config(self) -> dict[str, Any]:
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config: dict[str, Any]) -> None:
        if not self.layer.built and config.get("layer") is not None:
            self.layer.build_from_config(config["layer"])
            self.layer.built = True
        if not self.built:
            self._add_masks()
            self.built = True

    def _add_masks(self) -> None:
        weights = self.layer.weights
        for part in self.layer._flatten_layers():
            # Model.quantize() calls it of the innermost layers.
            part.quantize = self.quantize
        if self._axes is None:
            self._axes = [
                (n, a)
                for n, w in enumerate(weights)
                for a, size in enumerate(w.shape)
                if w.trainable and size > 1
            ]
        if self._filters is None:
            self._filters = [
                (n, len(w.shape) - 1)
                for n, w in enumerate(weights)
                if w.trainable and len(w.shape) and w.shape[-1] > 1
            ]
        for n, a in self._axes:
            size = weights[n].shape[a]
            self._masks[n, a] = self._add_vector(size, f"mask_{n}_{a}")
        for n, a in self._filters:
            size = weights[n].shape[a]
            self._factors[n, a] = self._add_vector(size, f"factor_{n}_{a}")
            if len(weights[n].shape) > 1:
                name = f"attenuation_{n}_{a}"
                self._attenuations[n, a] = self._add_vector(size, name)
        for name, size in self._tensors.items():
            self._tensor_masks[name] = self._add_vector(size, f"mask_{name}")

    def _add_vector(self, size: int, name: str) -> keras.Variable:
        return self.add_weight(
            shape=(size,),
            initializer="ones",
            trainable=False,
            autocast=False,
            name=name,
        )

    # -- masks -------------------------------------------------------------

    @property
    def mask(self) -> np.ndarray:
        """0/1 vector over the layer's filters (or channels)."""
        return read(self._masks[self._main_axis()])

    @mask.setter
    def mask(self, value: Any) -> None:
        main = self._main_axis()
        size = self._masks[main].shape[0]
        vector = _vector(value, size, f"mask of layer '{self.name}'")
        same = [p for p in self._filters or [] if p in self._masks]
        for pair in same if main in same else [main]:
            if self._masks[pair].shape[0] == size:
                self._masks[pair].assign(vector)

    @property
    def factor(self) -> np.ndarray | None:
        """Attenuation factor per filter; None if the layer has no filters."""
        return read(self._main_factor()) if self._factors else None

    @factor.setter
    def factor(self, value: Any) -> None:
        if not self._factors:
            raise ValueError(
                f"Layer '{self.name}' ({type(self.layer).__name__}) produces no "
                "filters, so it has no attenuation factor. Set the factor of "
                "the layer that produces its channels."
            )
        size = self._main_factor().shape[0]
        vector = _vector(value, size, f"factor of layer '{self.name}'")
        for factor in self._factors.values():
            if factor.shape[0] == size:
                factor.assign(vector)

    @property
    def attenuation(self) -> np.ndarray | None:
        """Recorded factor by which each filter was scaled in place.

        It is the product of the factors of consecutive steps, and 1 again once a
        filter is no longer attenuated. None if the layer has no filters.
        """
        vectors = self._attenuations.values()
        return read(next(iter(vectors))) if vectors else None

    def _main_factor(self) -> keras.Variable:
        return next(iter(self._factors.values()))

    def _main_axis(self) -> tuple[int, int]:
        for pair in [*(self._filters or []), *(self._axes or [])]:
            if pair in self._masks:
                return pair
        if self.built:
            kind = type(self.layer).__name__
            raise ValueError(
                f"Layer '{self.name}' ({kind}) has no weight that is masked."
            )
        raise ValueError(
            f"FilterMask '{self.name}' has no masks yet: call the layer (or "
            "build the model) first."
        )

    def inner(self) -> keras.layers.Layer:
        return self.layer

    def masked_axes(self) -> set[tuple[int, Any]]:
        weights = self.layer.weights
        axes: set[tuple[int, Any]] = {
            (id(weights[n]), a) for n, a in self._masks
        }
        return axes | {(id(self.layer), name) for name in self._tensor_masks}

    # -- computing ---------------------------------------------------------

    def effective(self, index: int) -> Any:
        """Return weight `index` as a tensor, with masks and factor applied."""
        value = self.layer.weights[index].value
        scale = self._scale(index, value.dtype)
        value = value if scale is None else value * scale
        form = self.forms.get(index)
        return value if form is None else form(value)

    def _scale(self, index: int, dtype: Any) -> Any:
        """Return the tensor that weight `index` is multiplied with, or None."""
        rank = len(self.layer.weights[index].shape)
        scale = None
        for axis in range(rank):
            for vectors in (self._masks, self._factors):
                vector = vectors.get((index, axis))
                if vector is not None:
                    vector = keras.ops.cast(vector.value, dtype)
                    if axis < rank - 1:  # the last one needs no reshape
                        shape = (-1, *[1] * (rank - 1 - axis))
                        vector = keras.ops.reshape(vector, shape)
                    scale = vector if scale is None else scale * vector
        return scale

    def unscaled(self, index: int, value: Any) -> Any:
        """Return the weight whose value with masks and factors is `value`.

        Needed for layers that assign to a masked weight in their call (spectral
        normalisation). Masked entries keep their old value.
        """
        old = self.layer.weights[index].value
        scale = self._scale(index, value.dtype)
        if scale is None:
            return value
        dead = keras.ops.equal(scale, 0)
        safe = keras.ops.where(dead, keras.ops.ones_like(scale), scale)
        return keras.ops.where(
            dead, keras.ops.cast(old, value.dtype), value / safe
        )

    def folded(self, index: int) -> np.ndarray:
        """Return weight `index` with the attenuation factor, but not the masks.

        A rebuild cuts masked entries away, so it need not multiply them. A weight
        with a form has the value that it acts as.
        """
        variable = self.layer.weights[index]
        if index in self.forms:
            return read(self.effective(index))
        value = read(variable)
        for axis in range(len(variable.shape)):
            factor = self._factors.get((index, axis))
            if factor is not None:
                shape = [1] * value.ndim
                shape[axis] = -1
                value = value * read(factor).reshape(shape)
        return value.astype(variable.dtype, copy=False)

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = self.gated(inputs)
        if self.observer is not None:
            self.observer(inputs)
        masked = {n for n, _ in self._masks}
        before = self.effective_values()
        # The inner scope hides the outer one, where JAX keeps the values of masks. So
        # these are passed in, and variables that the layer updates (moving statistics,
        # seeds) and losses that it adds are passed on.
        masks = [(m, m.value) for m in self._tensor_masks.values()]
        scope = keras.StatelessScope(
            state_mapping=[*before, *masks], collect_losses=True
        )
        start = {id(v): scope.get_current_value(v) for v, _ in before}
        with scope:
            outputs = self.compute_masked(inputs, *args, **kwargs)
        for n, (variable, _) in enumerate(before):
            value = scope.get_current_value(variable)
            if value is not start[id(variable)]:
                variable.assign(
                    self.unscaled(n, value) if n in masked else value
                )
        for loss in scope.losses:
            outer = scope.original_scope
            self.add_loss(loss) if outer is None else outer.add_loss(loss)
        return outputs

    def gated(self, inputs: Any) -> Any:
        """Return what the gates leave of the layer's input."""
        for gate in self.gates:
            place = gate.mask
            if place is None:
                inputs = gate(inputs)
            else:
                inputs = gate(inputs, self._masks[place].value)
        return inputs

    def effective_values(self) -> list[tuple[keras.Variable, Any]]:
        """Return all variables of the layer with their effective values.

        Weights come first, in the order of `layer.weights`.
        """
        masked = {n for n, _ in self._masks}
        weights = self.layer.weights
        known = {id(v) for v in weights}
        others = [v for v in self.layer.variables if id(v) not in known]
        return [
            *(
                (v, self.effective(n) if n in masked else v.value)
                for n, v in enumerate(weights)
            ),
            *((v, v.value) for v in others),
        ]

    def compute_masked(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the layer while its variables have their `effective_values`."""
        rule = find_rule(self.layer)
        if rule is None and not self._tensor_masks:
            return self.layer(inputs, *args, **kwargs)
        if rule is None:
            kind = type(self.layer).__name__
            raise ValueError(
                f"Layer '{self.name}' ({kind}) was wrapped with a rule that is "
                "not registered. Import the module that calls "
                f"@kprune.register_rule({kind}) before loading the model."
            )
        masks = {name: mask.value for name, mask in self._tensor_masks.items()}
        return rule.masked_call(self.layer, masks, inputs, *args, **kwargs)

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Raise, because masks do not fit the variables of quantised layers."""
        raise ValueError(
            f"Layer '{self.name}' is masked, so it cannot be quantized. Rebuild "
            "first, quantise after: kprune.rebuild(model).quantize(...)."
        )

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_mask(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_mask(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config["axes"] = (
            None if self._axes is None else [list(p) for p in self._axes]
        )
        config["filters"] = (
            None if self._filters is None else [list(p) for p in self._filters]
        )
        config["tensors"] = dict(self._tensors)
        if self.gates:
            save = keras.saving.serialize_keras_object
            config["gates"] = [save(gate) for gate in self.gates]
        return config


def _pairs(pairs: Iterable[Iterable[int]]) -> list[tuple[int, int]]:
    return [(int(n), int(a)) for n, a in pairs]


def _vector(value: Any, size: int, what: str) -> np.ndarray:
    vector = np.asarray(value, dtype="float32")
    if vector.shape != (size,):
        raise ValueError(
            f"The {what} must have shape ({size},). Received shape {vector.shape}."
        )
    if not ((vector >= 0) & (vector <= 1)).all():
        raise ValueError(
            f"The {what} must lie between 0 (removed) and 1 (kept). "
            f"Received values from {vector.min()} to {vector.max()}."
        )
    return vector
