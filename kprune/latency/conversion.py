"""Convert a model at several widths to learn which operators it runs.

A converter may fuse, fold and add operators, so operators are read from converted
files, never guessed from layers. The model is converted unpruned, and again with random
channels removed. How the length of an axis changes from file to file shows which groups
of channels it belongs to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator
from collections.abc import Sequence
from fractions import Fraction

import keras
import numpy as np

from kprune.export.formats import Job
from kprune.export.formats import check_backend
from kprune.export.formats import format_for
from kprune.export.formats.tflite import convert
from kprune.export.precision import float32_compute
from kprune.export.samples import random_samples
from kprune.export.signature import ModelSignature
from kprune.graph import ChannelGraph
from kprune.graph import trace
from kprune.graph.values import read
from kprune.latency.layout import Layout
from kprune.latency.layout import Placed
from kprune.latency.layout import Width
from kprune.latency.probes import functions
from kprune.latency.probes import probes
from kprune.masking import TemporaryMasks
from kprune.masking import masks
from kprune.masking.state import WeightSnapshot
from kprune.rebuild.api import rebuild
from kprune.tflite import Operator
from kprune.tflite import OperatorFile
from kprune.tflite import Place

KERNELS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
"""Operators that can be resized to any width, because their tensors define it."""

_CALIBRATION = 4

Lengths = tuple[int, ...]
"""Lengths of one axis, file by file."""


@dataclasses.dataclass(frozen=True)
class _Shape:
    """An operator and its axes that vary.

    Args:
        placed: The operator in the layout.
        reads: Axes that follow `placed.reads` -> their length per unit of width.
        writes: The same for `placed.writes`.
        units: Width read and width written in each file.
    """

    placed: Placed
    reads: dict[Place, Fraction]
    writes: dict[Place, Fraction]
    units: tuple[tuple[int, int], ...]


class Conversion:
    """A masked model as `.tflite` files.

    Args:
        masked: A model made by `kprune.wrap`.
        dtype: `"float32"` or `"int8"`.
        io_dtype: Number format of inputs and outputs.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.
        ValueError: The model cannot be converted.
    """

    def __init__(
        self, masked: keras.Model, dtype: str, io_dtype: str = "float32"
    ) -> None:
        check_backend(format_for("model.tflite"))
        self._masked = masked
        self._graph: ChannelGraph = trace(masked)
        self.dtypes = dtype, io_dtype
        self._functions = functions(self._graph)
        self.kept = probes(self._graph, self._functions)
        self.contents = [self._convert(kept) for kept in self.kept]
        self.files = [OperatorFile(content) for content in self.contents]
        kinds = [[op.kind for op in f.operators] for f in self.files]
        if any(kind != kinds[0] for kind in kinds):
            raise ValueError(
                f"Model '{masked.name}' is converted into other operators once "
                "channels are removed, so its latency cannot be predicted. "
                "Reduce its MACs instead."
            )
        self._shapes = [
            self._shape([file.operators[position] for file in self.files])
            for position in range(len(kinds[0]))
        ]
        self.layout = Layout(tuple(shape.placed for shape in self._shapes))

    def whole(self, kept: np.ndarray) -> bytes:
        """Return a file of the whole model with given channels per group.

        Args:
            kept: `(groups,)` channels that each group keeps.
        """
        return self._resized(kept) if self._resizes else self._convert(kept)

    def tensor_axes(self) -> dict[int, dict[int, Width]]:
        """Return the axes that vary: index of a tensor -> axis -> width.

        Raises:
            ValueError: A length does not follow from the channels that groups keep.
        """
        if self._axes is None:
            raise ValueError(
                f"The tensors of model '{self._masked.name}' do not follow from the "
                "channels that its groups keep, so its memory cannot be predicted. "
                "Reduce its MACs instead."
            )
        found: dict[int, dict[int, Width]] = {}
        for (position, (slot, axis)), width in self._axes.items():
            index = self.files[0].index(position, slot)
            found.setdefault(index, {})[axis] = width
        return found

    @functools.cached_property
    def _axes(self) -> dict[tuple[int, Place], Width] | None:
        """All axes that vary; None if one does not follow from kept channels."""
        found = {}
        for position in range(len(self._shapes)):
            seen = [file.operators[position] for file in self.files]
            for place, lengths in _varying(seen).items():
                width = self._width({place: lengths})
                if width is None:
                    return None
                found[position, place] = width[0]
        return found

    @functools.cached_property
    def _resizes(self) -> bool:
        """Whether resizing the file gives the same result as converting again."""
        return self._axes is not None and all(
            _alike(OperatorFile(self._resized(kept)), file)
            for kept, file in zip(self.kept, self.files, strict=True)
        )

    def _resized(self, kept: np.ndarray) -> bytes:
        axes = self._axes or {}
        return self.files[0].resized(
            {place: int(width.of(kept)) for place, width in axes.items()}
        )

    def _convert(self, kept: np.ndarray) -> bytes:
        vectors = {
            group.name: np.arange(group.size) < count
            for group, count in zip(self._graph.prunable, kept, strict=True)
        }
        with (
            self._filled(),
            TemporaryMasks(self._masked, self._graph)(vectors),
        ):
            # Weights may be equal, for example 0, which must not merge channels.
            compact = rebuild(self._masked, merge=None)
        return file_of(compact, *self.dtypes)

    @contextlib.contextmanager
    def _filled(self) -> Iterator[None]:
        """Return a context in which removed channels have the weights of others.

        Their own are 0, which compilers compress: what was removed in earlier rounds
        would seem to cost less than it did.
        """
        before = WeightSnapshot(self._masked.variables)
        rng = np.random.default_rng(0)
        alive = masks(self._masked, self._graph)
        try:
            for group in self._graph.prunable:
                removed = np.flatnonzero(alive[group.name] == 0)
                donors = np.flatnonzero(alive[group.name])
                if not (removed.size and donors.size):
                    continue
                chosen = rng.choice(donors, removed.size)
                for member in group.members:
                    variable = member.variable
                    value = np.array(read(variable))
                    channels = np.moveaxis(value, member.axis, 0)
                    donated = channels[member.index[chosen]]
                    channels[member.index[removed]] = donated
                    variable.assign(value)
            yield
        finally:
            before.restore()

    # -- what varies ---------------------------------------------------------

    def _shape(self, seen: Sequence[Operator]) -> _Shape:
        """Find the widths of an operator from its shapes in all files."""
        found: dict[tuple[Fraction, ...], dict[Place, Lengths]] = {}
        for place, lengths in _varying(seen).items():
            # Axes whose lengths stay in proportion belong to one width.
            direction = tuple(Fraction(n, lengths[0]) for n in lengths)
            found.setdefault(direction, {})[place] = lengths
        widths = [self._width(places) for places in found.values()]
        if seen[0].kind in KERNELS and len(widths) <= 2 and all(widths):
            return self._kernel(seen, [w for w in widths if w])
        return self._other(seen)

    def _width(
        self, places: dict[Place, Lengths]
    ) -> tuple[Width, dict[Place, Fraction], Lengths] | None:
        """Return the width of axes in proportion, their ratios, and its lengths."""
        firsts = [lengths[0] for lengths in places.values()]
        unit = math.gcd(*firsts)
        ratios = {
            place: Fraction(lengths[0], unit)
            for place, lengths in places.items()
        }
        lengths = next(iter(places.values()))
        own = tuple(int(Fraction(n, lengths[0]) * unit) for n in lengths)
        width = self._match(own)
        return None if width is None else (width, ratios, own)

    def _match(self, lengths: Lengths) -> Width | None:
        """Return the function of kept channels that gives these lengths."""
        constants, slopes = self._functions
        values = constants + np.array(self.kept) @ slopes
        alike = np.isclose(
            values / values[0],
            np.array(lengths)[:, None] / lengths[0],
            rtol=1e-9,
        ).all(axis=0)
        if not alike.any():
            return None
        number = int(alike.argmax())
        factor = lengths[0] / values[0, number]
        return Width(
            float(constants[number] * factor),
            {
                group: float(slope * factor)
                for group, slope in enumerate(slopes[:, number])
                if slope
            },
        )

    def _kernel(
        self,
        seen: Sequence[Operator],
        widths: list[tuple[Width, dict[Place, Fraction], Lengths]],
    ) -> _Shape:
        output = _last_output(seen[0])
        written = [w for w in widths if output in w[1]]
        read = [w for w in widths if output not in w[1]]
        if not written:  # A single width is treated like that of an output.
            written, read = read[:1], read[1:]
        key = _key(
            seen[0],
            {
                **{p: f"{r}r" for w in read for p, r in w[1].items()},
                **{p: f"{r}w" for w in written for p, r in w[1].items()},
            },
        )
        reads = read[0] if read else (None, {}, (0,) * len(seen))
        writes = written[0] if written else (None, {}, (0,) * len(seen))
        return _Shape(
            Placed(key, reads[0], writes[0]),
            reads[1],
            writes[1],
            tuple(zip(reads[2], writes[2], strict=True)),
        )

    def _other(self, seen: Sequence[Operator]) -> _Shape:
        """Return the shape of an operator that cannot be resized.

        The last axis that varies stands for all of them.
        """
        varying = _varying(seen)
        chosen = None
        for place in sorted(varying, reverse=True):
            if (width := self._width({place: varying[place]})) is not None:
                chosen = width
                break
        key = _key(seen[0], dict.fromkeys(varying, "*"))
        if chosen is None:
            return _Shape(Placed(key), {}, {}, ((0, 0),) * len(seen))
        return _Shape(
            Placed(key, None, chosen[0]),
            {},
            {},
            tuple((0, n) for n in chosen[2]),
        )

    # -- what to measure -----------------------------------------------------

    def kind(self, position: int) -> str:
        """Return the kind of an operator, for example `"CONV_2D"`."""
        return self.files[0].operators[position].kind

    def resizable(self, position: int) -> bool:
        """Return whether an operator can be cut out at any width."""
        shape = self._shapes[position]
        return bool(shape.writes)

    def widths(self, position: int) -> tuple[int, int]:
        """Return the widths read and written in the unpruned model, 0 if fixed."""
        return self._shapes[position].units[0]

    def fitting(self, position: int, read: int, write: int) -> bool:
        """Return whether all axes have integer lengths at these widths."""
        return all(
            n.denominator == 1
            for n in self._lengths(position, read, write).values()
        )

    def cut(self, position: int, read: int, write: int) -> bytes:
        """Return a file that holds one kernel at these widths."""
        lengths = self._lengths(position, read, write)
        return self.files[0].cut(
            position, {place: int(n) for place, n in lengths.items()}
        )

    def _lengths(
        self, position: int, read: int, write: int
    ) -> dict[Place, Fraction]:
        shape = self._shapes[position]
        return {
            **{p: r * read for p, r in shape.reads.items()},
            **{p: r * write for p, r in shape.writes.items()},
        }

    def nothing(self) -> bytes | None:
        """Return a file with a kernel on a single number; None without kernels.

        Its time is the overhead of running anything.
        """
        for position, op in enumerate(self.files[0].operators):
            if op.kind in KERNELS:
                ones = {
                    (slot, axis): 1
                    for slot, tensor in enumerate(op.tensors)
                    for axis in range(len(tensor.shape))
                }
                return self.files[0].cut(position, ones)
        return None

    def observed(self, position: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield the converted widths of one operator, with a file at each."""
        done = set()
        for file, widths in zip(
            self.files, self._shapes[position].units, strict=True
        ):
            if widths not in done:
                done.add(widths)
                yield (*widths, file.cut(position))


def file_of(compact: keras.Model, dtype: str, io_dtype: str) -> bytes:
    """Return the `.tflite` file of a model, calibrated on random samples.

    Args:
        compact: A plain model.
        dtype: `"float32"` or `"int8"`.
        io_dtype: Number format of inputs and outputs.
    """
    signature = ModelSignature(compact)
    int8 = dtype == "int8"
    samples = random_samples(signature, _CALIBRATION) if int8 else None
    batch_size = signature.batch_size or 1
    options = {"batch_size": batch_size, "io_dtype": io_dtype}
    with float32_compute(compact):
        return convert(
            Job(signature, "int8" if int8 else None, samples, options)
        )


def _varying(seen: Sequence[Operator]) -> dict[Place, Lengths]:
    """Return the axes whose length differs between files."""
    found = {}
    for slot, tensor in enumerate(seen[0].tensors):
        for axis in range(len(tensor.shape)):
            lengths = tuple(op.tensors[slot].shape[axis] for op in seen)
            if len(set(lengths)) > 1:
                found[slot, axis] = lengths
    return found


def _alike(one: OperatorFile, other: OperatorFile) -> bool:
    """Return whether operators, their shapes and their constant integers agree."""
    return one.operators == other.operators and all(
        one.integers(position) == other.integers(position)
        for position, op in enumerate(one.operators)
        if op.kind not in KERNELS
    )


def _last_output(op: Operator) -> Place:
    slot = next(n for n, tensor in enumerate(op.tensors) if tensor.output)
    return slot, len(op.tensors[slot].shape) - 1


def _key(op: Operator, names: dict[Place, str]) -> str:
    """Return an operator as text, with names instead of varying lengths."""
    tensors = []
    for slot, tensor in enumerate(op.tensors):
        axes = ",".join(
            names.get((slot, axis), str(length))
            for axis, length in enumerate(tensor.shape)
        )
        role = "=" if tensor.output else "#" if tensor.constant else ""
        tensors.append(f"{role}{tensor.dtype}[{axes}]")
    return f"{op.kind}({op.options}) {' '.join(tensors)}"
