"""One way to draw batches from whatever the user calls data."""

from __future__ import annotations

import itertools
import logging
import numbers
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

ENDLESS_LIMIT = 64
"""Batches drawn from data that may have no end, unless `steps` says otherwise."""

_log = logging.getLogger("kprune")

Batch = tuple[Any, Any, Any]
"""Inputs, targets or None, sample weights or None; NumPy arrays in each."""


class Source:
    """Samples that can be gone through again and again.

    Args:
        data: Arrays `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)` (each may be
            a dictionary or list of arrays), a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a generator of batches, or any other iterable
            of batches. What a generator yields is kept, since it yields once.
        batch_size: Samples per batch; for arrays only.

    Example:

    >>> source = Source((x_train[:256], y_train[:256]))
    >>> [len(x) for x, y, weight in source.batches(steps=2)]
    [32, 32]
    """

    def __init__(self, data: Any, batch_size: int = 32) -> None:
        self.batch_size = batch_size
        self._data = data
        self._kept: list[Batch] = []
        self._arrays = _is_arrays(data)
        if self._arrays:
            self._data = _unpack(data)
            self._size = _count(self._data)
        elif isinstance(data, str | bytes) or not (
            hasattr(data, "__iter__") or _is_pydataset(data)
        ):
            raise TypeError(
                "`data` must be arrays `x` or `(x, y)`, a tf.data.Dataset, a "
                "keras.utils.PyDataset or a generator of batches. "
                f"Received: {data!r} (of type {type(data).__name__})."
            )

    def batches(self, steps: int | None = None) -> Iterator[Batch]:
        """Yield `(x, y, sample_weight)` batches of NumPy arrays.

        Args:
            steps: How many batches at most; `None` for all, or for the first 64
                where the data may have no end.

        Raises:
            ValueError: There is no batch at all.
        """
        if steps is None and self._may_be_endless():
            steps = ENDLESS_LIMIT
            _log.info("data may have no end: using %d batches of it", steps)
        empty = True
        for batch in itertools.islice(self._all(), steps):
            empty = False
            yield batch
        if empty:
            raise ValueError(
                f"`data` holds no batch (of type {type(self._data).__name__}). A "
                "generator yields once only: hand over a fresh one, or arrays."
            )

    def sample(self, count: int, seed: Any = 0) -> Source:
        """Return `count` samples drawn at random, held in memory.

        Without replacement; all of them, shuffled, where there are no more.

        Args:
            count: How many.
            seed: A number or a sequence of numbers; the same draw for the same
                seed.

        Raises:
            ValueError: `count` is not a whole number above 0, or samples differ in
                shape and cannot be put together.
        """
        check_samples(count, "A random draw", "count")
        rng = np.random.default_rng(seed)
        if self._arrays:
            chosen = rng.permutation(self._size)[:count]
            return Source(_take(self._data, chosen), self.batch_size)
        drawn: Batch | None = None
        keys = np.empty(0)
        for batch in self.batches():
            size = _count(batch)
            keys = np.concatenate([keys, rng.random(size)])
            together = batch if drawn is None else _join(drawn, batch)
            chosen = np.argsort(keys)[:count]
            drawn, keys = _take(together, chosen), keys[chosen]
        return Source(drawn, self.batch_size)

    def inputs(self, samples: int) -> Any:
        """Return the inputs of the first `samples` samples as one structure."""
        parts: list[Any] = []
        count = 0
        for x, _, _ in self.batches():
            parts.append(x)
            count += _count(x)
            if count >= samples:
                break
        return keras.tree.map_structure(
            lambda *arrays: np.concatenate(arrays)[:samples], *parts
        )

    def _all(self) -> Iterator[Batch]:
        if self._arrays:
            for start in range(0, self._size, self.batch_size):
                yield _slice(self._data, start, start + self.batch_size)
        elif isinstance(self._data, Iterator):
            yield from self._kept
            for batch in self._data:
                self._kept.append(_to_numpy(batch))
                yield self._kept[-1]
        elif _is_pydataset(self._data):
            count = self._data.num_batches
            for i in itertools.count() if count is None else range(count):
                yield _to_numpy(self._data[i])
        else:
            yield from map(_to_numpy, self._data)

    def _may_be_endless(self) -> bool:
        if self._arrays:
            return False
        if isinstance(self._data, Iterator):
            return True
        if _is_pydataset(self._data):
            return self._data.num_batches is None
        if hasattr(self._data, "cardinality"):
            # tf.data says -1 for endless and -2 for unknown.
            return int(self._data.cardinality()) == -1
        return False


def as_source(data: Any) -> Source:
    """Return `data` as a `Source`; a `Source` comes back as it is."""
    return data if isinstance(data, Source) else Source(data)


def check_steps(steps: int | None, owner: str) -> int | None:
    """Return `steps` if it is `None` or a whole number above 0.

    Raises:
        ValueError: It is anything else; the message names `owner`.
    """
    whole = isinstance(steps, numbers.Integral) and not isinstance(steps, bool)
    if steps is not None and (not whole or steps < 1):
        raise ValueError(
            f"{owner} needs a whole number of batches above 0 as `steps`, or None "
            f"for all. Received: steps={steps!r}."
        )
    return steps


def check_samples(count: int, owner: str, argument: str = "samples") -> int:
    """Return `count` if it is a whole number above 0.

    Raises:
        ValueError: It is anything else; the message names owner and argument.
    """
    whole = isinstance(count, numbers.Integral) and not isinstance(count, bool)
    if not whole or count < 1:
        raise ValueError(
            f"{owner} needs a whole number of samples above 0. Received: "
            f"{argument}={count!r}."
        )
    return count


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "__getitem__")


def _is_arrays(data: Any) -> bool:
    if isinstance(data, dict | list | tuple) and data:
        leaves = keras.tree.flatten(data)
        return all(leaf is None or _is_array(leaf) for leaf in leaves)
    return _is_array(data) and not _is_pydataset(data)


def _is_pydataset(data: Any) -> bool:
    return isinstance(data, keras.utils.PyDataset)


def _unpack(data: Any) -> Batch:
    # Unlike Keras' helper, a list is a list of inputs: `[x1, x2]`.
    if not isinstance(data, tuple):
        return data, None, None
    if len(data) > 3:
        raise ValueError(
            "A tuple as `data` means (x,), (x, y) or (x, y, sample_weight). Received "
            f"one of length {len(data)}. For several inputs pass a list: "
            "([x1, x2], y)."
        )
    x, y, weight = (*data, None, None)[:3]
    return x, y, weight


def _count(arrays: Any) -> int:
    leaves = filter(_is_array, keras.tree.flatten(arrays))
    sizes = sorted({int(leaf.shape[0]) for leaf in leaves})
    if len(sizes) != 1:
        raise ValueError(
            "All arrays in `data` must hold the same number of samples. Received "
            f"arrays of {' and '.join(map(str, sizes))} samples."
        )
    return sizes[0]


def _slice(arrays: Any, start: int, stop: int) -> Batch:
    cut: Batch = keras.tree.map_structure(
        lambda a: None if a is None else np.asarray(a[start:stop]), arrays
    )
    return cut


def _take(arrays: Any, chosen: np.ndarray) -> Batch:
    taken: Batch = keras.tree.map_structure(
        lambda a: None if a is None else np.asarray(a)[chosen], arrays
    )
    return taken


def _join(first: Batch, second: Batch) -> Batch:
    def join(a: Any, b: Any) -> Any:
        if a is None or b is None:
            return None
        if a.shape[1:] != b.shape[1:]:
            raise ValueError(
                "Samples of different shapes cannot be drawn at random. Received "
                f"batches of shapes {a.shape} and {b.shape}: pad them to one shape, "
                "or give no number of samples, to use all of them."
            )
        return np.concatenate([a, b])

    joined: Batch = keras.tree.map_structure(join, first, second)
    return joined


def _to_numpy(batch: Any) -> Batch:
    parts = keras.utils.unpack_x_y_sample_weight(batch)
    arrays: Batch = keras.tree.map_structure(
        lambda a: None if a is None else np.asarray(a), parts
    )
    return arrays
