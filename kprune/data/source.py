"""Draw batches from data in any form that users pass it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kprune.arguments import whole
from kprune.data import arrays as cuts
from kprune.data.arrays import Batch
from kprune.data.inputs import SAMPLE
from kprune.data.inputs import ModelInputs
from kprune.data.targets import check_targets
from kprune.data.targets import check_weights

ENDLESS_LIMIT = 64
"""Batches drawn from data that may have no end, unless `steps` says otherwise."""

_log = logging.getLogger("kprune")


class Source:
    """Samples that can be iterated over repeatedly.

    All data passed to kprune follows these rules:

    - A tuple is `(x,)`, `(x, y)` or `(x, y, sample_weight)`. Anything else that
      holds arrays is `x`. Each part is an array or a structure of arrays, with
      samples along axis 0.
    - A `tf.data.Dataset`, a `keras.utils.PyDataset`, a PyTorch `DataLoader`, a
      generator or another iterable yields batches, or single samples, which are
      collected into batches. Each is `x`, or a tuple or list `(x,)`, `(x, y)`
      or `(x, y, sample_weight)`. What a generator yields is kept in memory,
      since a generator can be read only once.
    - A function without arguments returns any of these. It is called for each
      pass.

    Where this is ambiguous, the inputs of `model` decide:

    - A list with one array per input is `x`. Any other list holds batches or
      samples. Without a model, a list of arrays is `x`.
    - A tuple or list is `x` without targets if it fits the inputs as a whole
      and its first part alone does not.
    - Arrays without a batch axis are single samples.

    With a model, `x` is returned in the structure of the model's inputs, and
    samples that do not fit them raise an error: arrays at once, batches when
    they are drawn.

    Args:
        data: Samples. See above.
        batch_size: Samples per batch, for arrays and single samples.
        model: Functional or Sequential model that takes the samples.
        argument: Name of the argument, for messages.

    Raises:
        TypeError: `data` is of an unsupported type.
        ValueError: `model` cannot take the samples: a structure, shape or dtype
            does not fit, or the outputs are NaN or infinite.

    Example:

    >>> source = Source((x_train[:256], y_train[:256]))
    >>> [len(x) for x, y, weight in source.batches(steps=2)]
    [32, 32]
    """

    def __init__(
        self,
        data: Any,
        batch_size: int = 32,
        model: keras.Model | None = None,
        argument: str = "data",
    ) -> None:
        self.batch_size = batch_size
        self.model = model
        self.argument = argument
        self._takes = _inputs_of(model)
        self._values_checked = False
        self._replaces = False
        self._whole: Batch | None = None
        self._data: Any = _Replay(data) if isinstance(data, Iterator) else data
        if self._holds_arrays():
            self._whole = self._matched(self._parts(data, top=True))
            # Without a model, a list may hold batches of different sizes.
            if self._takes is not None or not isinstance(data, list):
                cuts.count(self._whole, argument)
            self._check_whole()
        elif not _is_stream(data):
            raise TypeError(
                f"`{argument}` must be arrays `x` or `(x, y)`, a tf.data.Dataset, a "
                "keras.utils.PyDataset, a generator or a list of batches, or a "
                f"function that returns one. Received: {data!r} of type "
                f"{type(data).__name__}."
            )
        elif self._takes is not None and hasattr(data, "element_spec"):
            self._check_spec(data.element_spec)

    @property
    def size(self) -> int | None:
        """Number of samples; None for streams."""
        return None if self._whole is None else cuts.count(self._whole)

    @property
    def arrays(self) -> Batch | None:
        """All samples as `(x, y, sample_weight)`; None for streams."""
        return self._whole

    @property
    def endless(self) -> bool:
        """Whether the data is known to have no end."""
        if _is_pydataset(self._data):
            return self._data.num_batches is None
        if hasattr(self._data, "cardinality"):
            # tf.data says -1 for endless and -2 for unknown.
            return int(self._data.cardinality()) == -1
        return False

    def batches(
        self, steps: int | None = None, samples: int = 0
    ) -> Iterator[Batch]:
        """Yield `(x, y, sample_weight)` batches of NumPy arrays.

        Args:
            steps: Maximum number of batches. Defaults to all of them, or to the
                first 64 if the data may have no end.
            samples: Number of samples that this default must not cut off.

        Raises:
            ValueError: The data is empty, or a batch does not fit the model.
        """
        if _is_function(self._data):
            yield from self._like(self._data()).batches(steps, samples)
            return
        found: Iterator[Batch] = itertools.islice(self._all(), steps)
        if steps is None and (self.endless or isinstance(self._data, _Replay)):
            found = self._first(samples)
        empty = True
        for batch in found:
            empty = False
            yield batch
        if empty:
            raise ValueError(
                f"`{self.argument}` of type {type(self._data).__name__} is empty: it "
                "holds no batch. Pass at least one sample."
            )

    def labelled(
        self, owner: str, steps: int | None = None, loss: Any = None
    ) -> Iterator[Batch]:
        """Yield batches whose targets fit the loss.

        Args:
            owner: What needs the targets, for messages.
            steps: See `batches`.
            loss: Loss that takes the targets. Defaults to the model's loss.

        Raises:
            ValueError: There are no targets, or the loss cannot take them.
        """
        for batch in self.batches(steps):
            if batch[1] is None:
                raise ValueError(
                    f"{owner} needs targets, but `{self.argument}` has inputs and "
                    "no targets. Pass (x, y)."
                )
            if self.model is not None:
                check_targets(batch[1], self.model, loss, self.argument)
            yield batch

    def check_targets(self) -> None:
        """Raise if arrays hold targets that the model's loss cannot take.

        Targets of other data are checked when they are drawn. See `labelled`.

        Raises:
            ValueError: The loss cannot take the targets.
        """
        whole = self._whole
        if self.model is None or whole is None or whole[1] is None:
            return
        targets = cuts.to_numpy(whole[1])
        check_targets(targets, self.model, None, self.argument)

    def inputs(self, samples: int) -> Any:
        """Return the inputs of the first `samples` samples as one structure."""
        parts: list[Any] = []
        taken = 0
        for x, _, _ in self.batches(samples=samples):
            parts.append(x)
            taken += cuts.count(x)
            if taken >= samples:
                break
        return cuts.cut(cuts.concatenate(parts), 0, samples)

    def sample(self, count: int, seed: Any = 0) -> Source:
        """Return `count` random samples, held in memory.

        Samples are drawn without replacement. If there are fewer than `count`,
        all of them are returned, shuffled.

        Args:
            count: Number of samples.
            seed: A number or a sequence of numbers. The same seed gives the same
                samples.

        Raises:
            ValueError: `count` is not a whole number above 0, or samples differ in
                shape and cannot be stacked.
        """
        whole(count, "A random draw", "count", of="samples")
        rng = np.random.default_rng(seed)
        if self._whole is not None:
            chosen = rng.permutation(cuts.count(self._whole))[:count]
            return self._like(cuts.take(self._whole, chosen))
        drawn: Batch | None = None
        keys = np.empty(0)
        for batch in self.batches(samples=count):
            size = cuts.count(batch)
            keys = np.concatenate([keys, rng.random(size)])
            together = batch if drawn is None else cuts.join(drawn, batch)
            chosen = np.argsort(keys)[:count]
            drawn, keys = cuts.take(together, chosen), keys[chosen]
        return self._like(drawn)

    def fit(self, model: keras.Model) -> Source:
        """Return a source of the same samples that fits `model`.

        Raises:
            ValueError: `model` cannot take the samples. See `Source`.
        """
        if self.model is model:
            return self
        return Source(self._data, self.batch_size, model, self.argument)

    def _like(self, data: Any) -> Source:
        return Source(data, self.batch_size, self.model, self.argument)

    def _holds_arrays(self) -> bool:
        """Return whether `data` holds arrays, rather than a stream of batches."""
        data = self._data
        if not isinstance(data, dict | list | tuple) or not data:
            return cuts.is_array(data) and not _is_pydataset(data)
        leaves = keras.tree.flatten(data)
        arrays = all(leaf is None or cuts.is_array(leaf) for leaf in leaves)
        if isinstance(data, list) and self._takes is not None:
            return arrays and self._takes.reading(data) is not None
        return arrays

    def _parts(self, item: Any, top: bool = False) -> Batch:
        """Return `data` or one item of a stream as `(x, y, sample_weight)`."""
        # A user's list holds several inputs; loaders yield lists for tuples.
        if not isinstance(item, tuple if top else tuple | list) or not item:
            return item, None, None
        fits = getattr(self._takes, "reading", lambda x: None)
        if fits(item[0]) is None and fits(list(item)) is not None:
            return list(item), None, None
        if len(item) > 3:
            advice = "For several inputs pass a list: ([x1, x2], y)."
            numbers = (bool, int, float)
            if all(isinstance(n, numbers) for n in keras.tree.flatten(item)):
                advice = "Convert lists of numbers to arrays: np.asarray(...)."
            raise ValueError(
                f"A tuple in `{self.argument}` means (x,), (x, y) or (x, y, "
                f"sample_weight). Received a {type(item).__name__} of length "
                f"{len(item)}. {advice}"
            )
        x, y, weight = (*item, None, None)[:3]
        return x, y, weight

    def _matched(self, parts: Batch) -> Batch:
        """Return inputs in the model's structure; make a single sample a batch."""
        x, y, weight = parts
        if self._takes is None:
            return parts
        x = self._takes.match(x, self.argument)
        if self._takes.reading(x) == SAMPLE:
            return cuts.stack([cuts.to_numpy((x, y, weight))])
        return x, y, weight

    def _all(self) -> Iterator[Batch]:
        if self._whole is not None:
            for start in range(0, cuts.count(self._whole), self.batch_size):
                batch = cuts.cut(self._whole, start, start + self.batch_size)
                yield self._checked(self._ranked(batch), start)
            return
        start = 0
        for batch in self._stream():
            yield self._checked(self._ranked(batch), start)
            start += cuts.count(batch[0]) if self._takes else 0

    def _first(self, samples: int) -> Iterator[Batch]:
        """Yield the first `ENDLESS_LIMIT` batches, or more for enough samples."""
        taken = 0
        for number, batch in enumerate(self._all(), 1):
            yield batch
            taken += cuts.count(batch[0]) if samples else 0
            if number >= ENDLESS_LIMIT and taken >= samples:
                _log.info("data may have no end: using %d batches", number)
                return

    def _stream(self) -> Iterator[Batch]:
        """Yield batches; collect single samples into batches."""
        pending: list[Batch] = []
        for item in _items(self._data):
            parts = cuts.to_numpy(self._parts(item))
            if self._takes is None:
                yield parts
                continue
            x, y, weight = parts
            x = self._takes.match(x, self.argument)
            if self._takes.reading(x) != SAMPLE:
                yield x, y, weight
                continue
            pending.append((x, y, weight))
            if len(pending) == self.batch_size:
                yield cuts.stack(pending)
                pending = []
        if pending:
            yield cuts.stack(pending)

    def _ranked(self, batch: Batch) -> Batch:
        x, y, weight = batch
        return (x if self._takes is None else self._takes.ranked(x)), y, weight

    def _checked(self, batch: Batch, start: int) -> Batch:
        """Return a batch after checking its values."""
        x, argument = batch[0], self.argument
        if self._takes is not None:
            parts = [a for a in keras.tree.flatten(batch) if np.ndim(a)]
            cuts.count(parts, argument)
            check_weights(batch[2], argument)
        if self._takes is not None and not self._values_checked:
            self._takes.check_values(x, argument)
            if not self._replaces:
                # Once the model has replaced NaN, later batches need no check.
                finite = self._takes.check_finite(x, argument, start)
                self._replaces = not finite
        return batch

    def _check_whole(self) -> None:
        """Check all values now, unless that would read them from disk."""
        if self._takes is None or self._whole is None:
            return
        leaves = keras.tree.flatten(self._whole[0])
        if all(a is None or _in_memory(a) for a in leaves):
            for start, (x, *_) in enumerate(self._all()):
                if start == 0 and not self._replaces:
                    self._takes.check_outputs(x, self.argument)
            self._values_checked = True

    def _check_spec(self, spec: Any) -> None:
        """Check the shapes that a `tf.data.Dataset` declares."""
        shapes = [getattr(s, "shape", None) for s in keras.tree.flatten(spec)]
        known = all(getattr(s, "rank", None) is not None for s in shapes)
        if self._takes is not None and known:
            self._takes.match(self._parts(spec)[0], self.argument)


class _Replay:
    """An iterator that keeps its items, so that it can be read repeatedly."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self._kept: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        yield from self._kept
        for item in self._iterator:
            self._kept.append(item)
            yield item


def as_source(
    data: Any, model: keras.Model | None = None, argument: str = "data"
) -> Source:
    """Return `data` as a `Source`; a `Source` is returned unchanged.

    Args:
        data: Samples. See `Source`.
        model: The model that takes the samples. Without it they are not checked.
        argument: Name of the argument, for messages.
    """
    if not isinstance(data, Source):
        return Source(data, model=model, argument=argument)
    return data if model is None else data.fit(model)


def _inputs_of(model: Any) -> ModelInputs | None:
    return ModelInputs(model) if getattr(model, "inputs", None) else None


def _in_memory(array: Any) -> bool:
    plain = isinstance(array, np.ndarray) and not isinstance(array, np.memmap)
    return plain or keras.ops.is_tensor(array)


def _is_pydataset(data: Any) -> bool:
    return isinstance(data, keras.utils.PyDataset)


def _is_function(data: Any) -> bool:
    iterable = hasattr(data, "__iter__") or _is_pydataset(data)
    return callable(data) and not iterable


def _is_stream(data: Any) -> bool:
    if isinstance(data, str | bytes | dict | tuple):
        return False
    iterable = hasattr(data, "__iter__") or _is_pydataset(data)
    return iterable or _is_function(data)


def _items(data: Any) -> Iterator[Any]:
    if _is_pydataset(data):
        total = data.num_batches
        for i in itertools.count() if total is None else range(total):
            yield data[i]
    else:
        yield from data
