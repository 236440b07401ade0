"""Describe the inputs of a model and match samples to them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.data.arrays import repeated

BATCH = "batch"
SAMPLE = "sample"

PROBED = 32
"""Maximum number of samples that are run to check the model's outputs."""


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of a model.

    Args:
        name: Its key in a dictionary of inputs, or the name of its layer.
        shape: Shape of one sample, `None` where any length is accepted.
        dtype: Name of the dtype.
        optional: Whether `None` may be passed.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    optional: bool = False

    def readings(self, shape: tuple[int | None, ...]) -> list[str]:
        """Return whether an array of this shape can be a batch or one sample.

        As in `fit`, a last axis of length 1 may be missing or extra.

        Returns:
            `BATCH`, `SAMPLE` or both, the likelier first. Empty if the array
            does not fit.
        """
        want = self.shape
        found = [
            (BATCH, shape[:1] != () and _same(shape[1:], want)),
            (SAMPLE, _same(shape, want)),
        ]
        if want[-1:] == (1,):
            found += [
                (BATCH, shape[:1] != () and _same(shape[1:], want[:-1])),
                (SAMPLE, _same(shape, want[:-1])),
            ]
        if shape[-1:] == (1,) and len(shape) > 1:
            found.append((BATCH, _same(shape[1:-1], want)))
        return list(dict.fromkeys(kind for kind, fits in found if fits))

    def ranked(self, array: np.ndarray) -> np.ndarray:
        """Return a batch with a last axis of length 1 added or removed as needed."""
        missing = len(self.shape) + 1 - array.ndim
        if missing > 0:
            return array[..., None]
        return array[..., 0] if missing < 0 else array

    def check_values(self, array: np.ndarray, argument: str) -> None:
        """Raise unless an array holds the kind of values that the input takes.

        Raises:
            ValueError: The array holds text or complex numbers where numbers are
                expected, numbers where text is, or fractions where whole numbers
                are.
        """
        text = array.dtype.kind in "OSU"
        wrong = text != (self.dtype == "string") or (
            array.dtype.kind == "c" and "complex" not in self.dtype
        )
        if not wrong and "int" in self.dtype and array.dtype.kind == "f":
            whole = np.isfinite(array) & (array == np.trunc(array))
            wrong = not whole.all()
        if wrong:
            raise ValueError(
                f"`{argument}` has values of dtype {array.dtype} for input "
                f"'{self.name}', which takes {self.dtype}. Convert them first."
            )


class ModelInputs:
    """The inputs of one model, in the order of `keras.tree.flatten`.

    Args:
        model: A functional or Sequential model.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._batch = fixed_batch(model)
        self._probed = self._batch or PROBED
        sequential = isinstance(model, keras.Sequential)
        self._structure = model.inputs[0] if sequential else model.input
        keys: dict[int, str] = {}
        if isinstance(self._structure, dict):
            keys = {id(v): str(k) for k, v in self._structure.items()}
        self.inputs = []
        for tensor in keras.tree.flatten(self._structure):
            layer = tensor._keras_history.operation
            self.inputs.append(
                Input(
                    keys.get(id(tensor), layer.name),
                    tuple(tensor.shape[1:]),
                    keras.backend.standardize_dtype(tensor.dtype),
                    bool(getattr(layer, "optional", False)),
                )
            )

    @property
    def names(self) -> str:
        """The names of all inputs, for messages."""
        return ", ".join(each.name for each in self.inputs)

    def reading(self, x: Any) -> str | None:
        """Return whether `x` is a batch or one sample; None if neither."""
        leaves = self._leaves(x)
        if leaves is None:
            return None
        readings = [
            each.readings(tuple(leaf.shape))
            for each, leaf in zip(self.inputs, leaves, strict=True)
            if leaf is not None
        ]
        if not all(readings):
            return None
        common = [
            kind
            for kind in (readings[0] if readings else [BATCH])
            if all(kind in other for other in readings)
        ]
        return common[0] if common else None

    def match(self, x: Any, argument: str) -> Any:
        """Return `x` in the structure of the model's own inputs.

        Raises:
            ValueError: An input is missing, or an array does not fit it.
        """
        leaves = self._leaves(x)
        model = self._model.name
        if leaves is None and isinstance(x, dict):
            raise ValueError(
                f"`{argument}` has no entry for the inputs {self._missing(x)} of "
                f"model '{model}'. Received the keys {sorted(map(str, x))}."
            )
        if leaves is None:
            received = [np.shape(leaf) for leaf in keras.tree.flatten(x)]
            several = len(self.inputs) > 1
            raise ValueError(
                f"Model '{model}' has {len(self.inputs)} "
                f"input{'s' if several else ''} ({self.names}). `{argument}` has "
                f"{len(received)} array{'' if len(received) == 1 else 's'} for "
                f"{'them' if several else 'it'}, of shapes {received}."
                + (" Pass a list or a dictionary of arrays." if several else "")
            )
        for each, leaf in zip(self.inputs, leaves, strict=True):
            if leaf is not None and not each.readings(tuple(leaf.shape)):
                expected = ", ".join(map(str, ("samples", *each.shape)))
                raise ValueError(
                    f"`{argument}` has shape {tuple(leaf.shape)} for input "
                    f"'{each.name}' of model '{model}'. Expected ({expected})."
                )
        if self.reading(x) is None:
            shapes = [tuple(leaf.shape) for leaf in leaves if leaf is not None]
            raise ValueError(
                f"`{argument}` mixes batches and single samples: shapes {shapes} "
                f"for the inputs {self.names} of model '{model}'."
            )
        return keras.tree.pack_sequence_as(self._structure, leaves)

    def ranked(self, x: Any) -> Any:
        """Return matched inputs with exactly the ranks that the model takes."""
        leaves = [
            leaf if leaf is None else each.ranked(leaf)
            for each, leaf in zip(
                self.inputs, keras.tree.flatten(x), strict=True
            )
        ]
        return keras.tree.pack_sequence_as(self._structure, leaves)

    def check_values(self, x: Any, argument: str) -> None:
        """Raise unless matched inputs hold the kind of values that the model takes.

        Raises:
            ValueError: See `Input.check_values`.
        """
        for each, leaf in zip(self.inputs, keras.tree.flatten(x), strict=True):
            if leaf is not None:
                each.check_values(leaf, argument)

    def check_finite(self, x: Any, argument: str, start: int = 0) -> bool:
        """Raise if inputs hold NaN or infinity that the model cannot take.

        A model may replace such values itself. They are accepted if its outputs
        are finite.

        Args:
            x: Matched inputs.
            argument: Name of the argument they come from.
            start: Index of the first sample, for messages.

        Returns:
            Whether all inputs are finite.

        Raises:
            ValueError: An output is not finite. The message names the input and
                the sample.
        """
        leaves = keras.tree.flatten(x)
        for each, leaf in zip(self.inputs, leaves, strict=True):
            where = None if leaf is None else first_not_finite(leaf)
            if leaf is None or where is None:
                continue
            if self._finite_outputs(leaves, self._doubtful(leaves)):
                return False
            raise ValueError(
                f"`{argument}` holds {leaf[where]} in sample {start + where[0]} of "
                f"input '{each.name}' (at {list(where[1:])}), and the outputs of model "
                f"'{self._model.name}' are not finite for it. Leave such samples "
                "out, or replace the values, for example with numpy.nan_to_num."
            )
        return True

    def check_outputs(self, x: Any, argument: str) -> None:
        """Raise if finite inputs give outputs that are not finite.

        Outputs can overflow if samples lack the scaling that the model was
        trained with. Only the first samples are checked.

        Args:
            x: Matched inputs.
            argument: Name of the argument they come from.

        Raises:
            ValueError: An output is not finite.
        """
        leaves = keras.tree.flatten(x)
        size = min(len(a) for a in leaves if a is not None)
        if not self._finite_outputs(leaves, np.arange(size)[: self._probed]):
            raise ValueError(
                f"Model '{self._model.name}' gives NaN or infinite outputs for the "
                f"first samples of `{argument}`, whose inputs are finite. Scale and "
                "preprocess them as in training. If they already are, check the "
                "weights of the model."
            )

    def _doubtful(self, leaves: Sequence[Any]) -> np.ndarray:
        arrays = [leaf for leaf in leaves if leaf is not None]
        doubtful = np.zeros(len(arrays[0]), bool)
        for array in arrays:
            if array.dtype.kind in "fV":
                bad = ~np.isfinite(array.astype("float32", copy=False))
                doubtful |= bad.reshape(len(bad), -1).any(axis=1)
        return np.flatnonzero(doubtful)[: self._probed]

    def _finite_outputs(self, leaves: Sequence[Any], rows: np.ndarray) -> bool:
        if self._batch is not None:
            rows = repeated(rows, self._batch)
        x = keras.tree.pack_sequence_as(
            self._structure, [a if a is None else a[rows] for a in leaves]
        )
        # The check must not advance counters or seeds of the model.
        with keras.StatelessScope():
            outputs = keras.tree.flatten(self._model(x, training=False))
        return all(
            first_not_finite(keras.ops.convert_to_numpy(y)) is None
            for y in outputs
        )

    def _leaves(self, x: Any) -> list[Any] | None:
        """Return one array or None per input; None if `x` does not fit them."""
        if (
            isinstance(x, dict)
            and all(isinstance(key, str) for key in x)
            and not self._nested(x)
        ):
            if self._missing(x):
                return None
            by_name = _by_name(x)
            leaves = [by_name.get(_plain(each.name)) for each in self.inputs]
        else:
            leaves = keras.tree.flatten(x)
        fits = len(leaves) == len(self.inputs) and all(
            each.optional if leaf is None else hasattr(leaf, "shape")
            for each, leaf in zip(self.inputs, leaves, strict=True)
        )
        return leaves if fits else None

    def _nested(self, x: dict[str, Any]) -> bool:
        return any(
            isinstance(value, dict | list | tuple) for value in x.values()
        )

    def _missing(self, x: dict[str, Any]) -> list[str]:
        known = _by_name(x)
        return [
            each.name
            for each in self.inputs
            if _plain(each.name) not in known and not each.optional
        ]


def fixed_batch(model: keras.Model) -> int | None:
    """Return the batch size in the inputs of a model; None if it has none."""
    inputs = getattr(model, "inputs", None)
    return inputs[0].shape[0] if inputs else None


def first_not_finite(array: np.ndarray) -> tuple[int, ...] | None:
    """Return the index of the first NaN or infinity; None if there is none."""
    if array.dtype.kind not in "fcV" or not array.size:
        return None
    if array.dtype.kind == "V":  # bfloat16 and the like
        array = array.astype("float32")
    # In the usual case, avoid a boolean array as large as the samples.
    if (
        array.dtype.kind == "f"
        and np.isfinite([array.min(), array.max()]).all()
    ):
        return None
    bad = np.flatnonzero(~np.isfinite(array))
    if not bad.size:
        return None
    return tuple(map(int, np.unravel_index(bad[0], array.shape)))


def _same(shape: Sequence[int | None], expected: Sequence[int | None]) -> bool:
    return len(shape) == len(expected) and all(
        n is None or m is None or n == m
        for n, m in zip(shape, expected, strict=True)
    )


def _plain(name: str) -> str:
    """Return a name as exported files spell it."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def _by_name(x: dict[str, Any]) -> dict[str, Any]:
    return {_plain(key): value for key, value in x.items()}
