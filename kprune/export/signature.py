"""View a Keras model as one flat list of named inputs and outputs."""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kprune.arguments import model as check_model
from kprune.data.arrays import count
from kprune.data.arrays import cut
from kprune.data.arrays import repeated

_BATCH_SIZE = 32


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of an input or output.

    Args:
        name: Unique name, made of letters, digits and underscores.
        shape: Axis lengths, batch axis first; None where unknown.
        dtype: Name of the dtype, for example `"float32"`.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    @property
    def integer(self) -> bool:
        """Whether the dtype is a signed or unsigned integer."""
        return "int" in self.dtype


class ModelSignature:
    """Flat view of a functional or Sequential model.

    Lists, dictionaries and deeper structures of inputs and outputs are
    flattened in the order of `keras.tree.flatten`.

    Args:
        model: Built functional or Sequential model.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: The model has no symbolic inputs.
    """

    def __init__(self, model: keras.Model) -> None:
        check_model(model, "export()")
        if not getattr(model, "inputs", None):
            raise ValueError(
                f"Model {model.name!r} has no symbolic inputs, so it cannot be "
                "exported. Build it, or wrap a subclassed model: "
                "`x = keras.Input(shape); keras.Model(x, model(x))`."
            )
        self.model = model
        sequential = isinstance(model, keras.Sequential)
        self._structure = model.inputs[0] if sequential else model.input
        taken: set[str] = set()
        # TensorFlow takes inputs whose names differ only in case for the same.
        self.inputs = _specs(model.inputs, self._structure, taken, str.lower)
        taken = {spec.name for spec in self.inputs}
        outputs = model.outputs[0] if sequential else model.output
        self.outputs = _specs(model.outputs, outputs, taken, str)

    @property
    def batch_size(self) -> int | None:
        """The only number of samples that the model takes; None for any."""
        return self.inputs[0].shape[0]

    def call(self, flat: Sequence[Any]) -> list[Any]:
        """Run the model in inference mode on a flat list of tensors.

        Args:
            flat: One tensor per input, in the order of `inputs`.

        Returns:
            One tensor per output, in the order of `outputs`.
        """
        return keras.tree.flatten(self.model(self.pack(flat), training=False))

    def pack(self, flat: Sequence[Any]) -> Any:
        """Arrange a flat list of tensors in the structure of the model's inputs.

        Args:
            flat: One tensor per input, in the order of `inputs`.

        Returns:
            A tensor, list or dictionary of tensors.
        """
        return keras.tree.pack_sequence_as(self._structure, list(flat))

    def predict(
        self, flat: Sequence[np.ndarray | None], call: Any = None
    ) -> list[np.ndarray]:
        """Run the model on NumPy arrays, batch by batch.

        Args:
            flat: One array per input, samples along axis 0; None for an optional
                input that is left out.
            call: Function from a batch of each input to a batch of each output.
                Defaults to `self.call`.

        Returns:
            One array per output.
        """
        call = call or self.call
        size = self.batch_size or _BATCH_SIZE
        batches = []
        for start in range(0, count(list(flat)), size):
            part = cut(list(flat), start, start + size)
            taken = count(part)
            if self.batch_size is not None:
                part = [a if a is None else repeated(a, size) for a in part]
            batches.append(
                [keras.ops.convert_to_numpy(t)[:taken] for t in call(part)]
            )
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def _specs(
    tensors: Iterable[Any],
    structure: Any,
    taken: set[str],
    key: Callable[[str], str],
) -> tuple[TensorSpec, ...]:
    tensors = list(tensors)
    if isinstance(structure, dict) and len(structure) == len(tensors):
        # By position, since one tensor may be listed under several keys.
        names = keras.tree.flatten({name: str(name) for name in structure})
    else:
        names = [tensor._keras_history.operation.name for tensor in tensors]
    return tuple(
        TensorSpec(
            _unique(name, taken, key),
            tuple(tensor.shape),
            _dtype_name(tensor.dtype),
        )
        for name, tensor in zip(names, tensors, strict=True)
    )


def _dtype_name(dtype: Any) -> str:
    return keras.backend.standardize_dtype(dtype)


def identifier(name: str) -> str:
    """Turn a name into one that every format accepts.

    Args:
        name: Any name.

    Returns:
        The name with everything but ASCII letters, digits and underscores replaced.
    """
    base = re.sub(r"\W", "_", name, flags=re.ASCII)
    return base if base[:1].isalpha() else f"t_{base}"


def _unique(name: str, taken: set[str], key: Callable[[str], str]) -> str:
    base = unique = identifier(name)
    number = 0
    while key(unique) in taken:
        number += 1
        unique = f"{base}_{number}"
    taken.add(key(unique))
    return unique
