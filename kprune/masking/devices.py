"""Where the variables of a copy are placed, if there are several devices."""

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
    """Let new variables be placed as those of a model that is copied.

    On TensorFlow, a scope of `tf.distribute` that is entered already is the
    user's choice, and stays. Outside of one it is that of the strategy the
    model was made in. On JAX, the distribution that is set goes on, but for
    variables that it cannot split: one warning names them.

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
    """Split a variable over devices as another is, as far as its size allows.

    Takes effect with the next value that is assigned. Layouts go by the path
    of a variable, and a copy may have another one.

    Args:
        source: The variable of the model that is copied.
        target: The variable of the copy, made inside `placed_like`.
    """
    fitting = keras.distribution.distribution()
    layout = getattr(source, "_layout", None)
    if isinstance(fitting, _Fitting) and layout is not None:
        target._layout = fitting.adopt(layout, target)


@contextlib.contextmanager
def undivided() -> Iterator[None]:
    """Let batches of any size run on JAX: every device computes all samples.

    A `keras.distribution` splits batches evenly, or raises.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


class _Fitting:
    """A `keras.distribution` that splits only what can be split.

    Args:
        distribution: The distribution in whose place it is set.
    """

    def __init__(self, distribution: Any) -> None:
        self._distribution = distribution
        # By path, what was to be split and is not; over how many devices.
        self._whole: dict[str, str] = {}
        self._parts: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._distribution, name)

    def get_variable_layout(self, variable: Any) -> Any:
        layout = self._distribution.get_variable_layout(variable)
        return _fitted(layout, variable.shape)

    def adopt(self, layout: Any, variable: Any) -> Any:
        """Return the layout as far as it fits; note where it does not."""
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
        """Warn of what is not split."""
        if not self._whole:
            return
        mesh = self._distribution.device_mesh
        logger.warning(
            "The copy of model '%s' holds whole on every device what does not "
            "divide evenly over %s: %s. Keep multiples of the number of devices "
            "to have it split, as kprune.allocation.Global(round_to=%d) does.",
            model.name,
            dict(zip(mesh.axis_names, mesh.shape, strict=True)),
            ", ".join(f"'{p}' {why}" for p, why in self._whole.items()),
            math.lcm(*self._parts),
        )


def _fitted(layout: Any, shape: tuple[int, ...]) -> Any:
    """Return the layout, without the axes along which a shape is not split.

    One of another rank is meant for other variables, and one of JAX itself
    stays as it is.
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
    """Return over how many devices each axis of the mesh goes."""
    mesh = layout.device_mesh
    return dict(zip(mesh.axis_names, mesh.shape, strict=True))
