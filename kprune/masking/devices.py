"""Placement of a copy's variables on several devices."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
from collections.abc import Iterator
from typing import Any

import keras

logger = logging.getLogger("kprune")


@contextlib.contextmanager
def placed_like(model: keras.Model) -> Iterator[None]:
    """Return a context in which new variables are placed like those of a model.

    On TensorFlow, a `tf.distribute` scope that the user has entered stays in
    effect; outside of one, the scope of the strategy the model was made in is
    entered. On JAX, the current distribution stays in effect, except for
    variables that it cannot split, which a warning names.

    Args:
        model: The model that is copied.
    """
    with contextlib.ExitStack() as stack:
        strategy = getattr(model, "_distribute_strategy", None)
        if strategy is not None and not _has_strategy():
            stack.enter_context(strategy.scope())
        fitting = None
        distribution = keras.distribution.distribution()
        if distribution is not None:
            fitting = _Fitting(distribution)
            stack.callback(keras.distribution.set_distribution, distribution)
            keras.distribution.set_distribution(fitting)
        yield
        if fitting is not None:
            fitting.report(model)


def _has_strategy() -> bool:
    return bool(importlib.import_module("tensorflow").distribute.has_strategy())


def place_like(source: Any, target: Any) -> None:
    """Split a variable over devices like another one, as far as its size allows.

    Takes effect at the next assignment. Layouts are defined by the path of a
    variable, which may be different in a copy.

    Args:
        source: The variable of the original model.
        target: The variable of the copy, made inside `placed_like`.
    """
    fitting = keras.distribution.distribution()
    layout = getattr(source, "_layout", None)
    if isinstance(fitting, _Fitting) and layout is not None:
        target._layout = fitting.adopt(layout, target)


@contextlib.contextmanager
def undivided() -> Iterator[None]:
    """Return a context in which JAX accepts batches of any size.

    Every device computes all samples. A `keras.distribution` would raise for
    batches that it cannot split evenly.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def predict_batch(model: keras.Model, x: Any) -> Any:
    """Return `model.predict_on_batch(x)` for a batch of any size.

    Within a `tf.distribute.Strategy`, each replica computes all samples, and Keras
    returns the outputs of one after the other.

    Args:
        model: The model.
        x: Inputs.
    """
    size = len(keras.tree.flatten(x)[0])
    with undivided():
        outputs = model.predict_on_batch(x)
    return keras.tree.map_structure(lambda y: y[:size], outputs)


class _Fitting:
    """A `keras.distribution` that splits only variables of divisible size.

    Args:
        distribution: The distribution it replaces.
    """

    def __init__(self, distribution: Any) -> None:
        self._distribution = distribution
        # Path -> why it is not split, and the device counts that do not divide.
        self._whole: dict[str, str] = {}
        self._parts: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._distribution, name)

    def get_variable_layout(self, variable: Any) -> Any:
        layout = self._distribution.get_variable_layout(variable)
        return _fitted(layout, variable.shape)

    def adopt(self, layout: Any, variable: Any) -> Any:
        """Return the layout as far as it fits, and record where it does not."""
        fitted = _fitted(layout, variable.shape)
        if fitted is not layout:
            devices = _devices(layout)
            lost = [n for n in layout.axes if n and n not in fitted.axes]
            self._whole[variable.path] = (
                f"{tuple(variable.shape)} over '{lost[0]}'"
            )
            self._parts.update(devices[n] for n in lost)
        return fitted

    def report(self, model: keras.Model) -> None:
        """Warn about variables that are not split."""
        if not self._whole:
            return
        mesh = self._distribution.device_mesh
        logger.warning(
            "In the copy of model '%s', every device holds all of the variables "
            "that do not divide evenly over %s: %s. To have them split, keep "
            "multiples of the number of devices, as "
            "kprune.allocation.Global(round_to=%d) does.",
            model.name,
            dict(zip(mesh.axis_names, mesh.shape, strict=True)),
            ", ".join(f"'{p}' {why}" for p, why in self._whole.items()),
            math.lcm(*self._parts),
        )


def _fitted(layout: Any, shape: tuple[int, ...]) -> Any:
    """Return the layout without the axes along which `shape` cannot be split.

    A layout of higher rank is for other variables, and splits nothing here. JAX'
    own layouts are returned as they are.
    """
    if not isinstance(layout, keras.distribution.TensorLayout):
        return layout
    axes: list[str | None] = [None] * len(shape)
    if len(layout.axes) <= len(shape):
        devices = _devices(layout)
        axes = [
            None if name is None or size % devices[name] else name
            for name, size in zip(layout.axes, shape, strict=False)
        ]
    if tuple(axes) == layout.axes:
        return layout
    return keras.distribution.TensorLayout(axes, layout.device_mesh)


def _devices(layout: Any) -> dict[str, int]:
    """Return the number of devices along each axis of the mesh."""
    mesh = layout.device_mesh
    return dict(zip(mesh.axis_names, mesh.shape, strict=True))
