"""Reading and copying the values of variables on any backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


def read(variable: Any) -> np.ndarray:
    """Return the value of a variable or tensor as an array, which may be a view."""
    value = getattr(variable, "value", variable)
    if not len(value.shape):
        value = variable  # NumPy cannot read a scalar that is mirrored.
    return np.asarray(keras.ops.convert_to_numpy(value))


def copy_value(source: Any, target: Any) -> None:
    """Assign the value of one variable to another.

    The value is copied: on JAX both variables would otherwise share a buffer,
    which the first training step of one of them donates.
    """
    target.assign(np.array(read(source)))


def copy_traits(source: Any, target: Any) -> None:
    """Let a variable be trained like another, whatever their layers say of it."""
    target.trainable = source.trainable
    for name in ("regularizer", "constraint"):
        trait = getattr(source, name, None)
        # A penalty that training attached, see `kprune.regularizers`, is left out.
        trait = getattr(trait, "former", trait)
        setattr(target, name, trait)


def paired(old: Sequence[Any], new: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Pair the variables of a layer with those of its copy.

    Variables are paired by position, or by name if the order differs: layers
    quantised to float8 get some variables after they are built.
    """
    names = [v.name for v in old]
    found = {v.name: v for v in new}
    if [v.name for v in new] != names and len({*names, *found}) == len(old):
        new = [found[name] for name in names]
    return list(zip(old, new, strict=True))
