"""Measure the inputs that the matrices of a file multiply."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from kprune.export.int4.matrices import Matrix
from kprune.export.int4.matrices import MatrixFile
from kprune.export.quiet import quiet
from kprune.recovery._linear import COLUMNS

Inputs = Mapping[str, np.ndarray]

_ROOM = 2**30
"""Maximum number of bytes of sums to hold at a time."""


def mean_products(
    file: MatrixFile, samples: Sequence[Inputs]
) -> Iterator[tuple[Matrix, np.ndarray | None]]:
    """Yield each matrix with the mean products of its inputs.

    Args:
        file: The float file.
        samples: Inputs of its signature.

    Yields:
        A matrix, and the mean products `(columns + 1, columns + 1)` of its inputs
        followed by a one for the bias. None if the matrix is too wide to solve for.
    """
    waiting: list[Matrix] = []
    room = 0
    for matrix in file.matrices:
        columns = matrix.weights.shape[1]
        if columns > COLUMNS:
            yield matrix, None
            continue
        size = 8 * (columns + 1) ** 2
        if waiting and room + size > _ROOM:
            yield from _observed(file, waiting, samples)
            waiting, room = [], 0
        waiting.append(matrix)
        room += size
    yield from _observed(file, waiting, samples)


def _observed(
    file: MatrixFile, matrices: Sequence[Matrix], samples: Sequence[Inputs]
) -> Iterator[tuple[Matrix, np.ndarray]]:
    if not matrices:
        return
    run = _Tensors(file.content)
    rng = np.random.default_rng(0)
    sums = [np.zeros((m.weights.shape[1] + 1,) * 2) for m in matrices]
    counts = [0] * len(matrices)
    for sample in samples:
        run(sample)
        for number, matrix in enumerate(matrices):
            for position in matrix.positions:
                rows = _rows(file, run, position, len(samples), rng)
                sums[number] += rows.T @ rows
                counts[number] += len(rows)
    for matrix, total, count in zip(matrices, sums, counts, strict=True):
        yield matrix, total / count


def _rows(
    file: MatrixFile,
    run: _Tensors,
    position: int,
    samples: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return random input rows of an operator, each followed by a one."""
    view = file.view(position)
    values = run.tensor(file.read_by(position))
    alive = np.ones(values.shape[-1], bool)
    total = view.places(values.shape) * len(values)
    wanted = -(-view.enough(len(view.columns_of(alive))) // samples)
    which = np.arange(total)
    if total > wanted:
        # Draw positions again for each sample: images differ at their edges.
        which = np.sort(rng.choice(total, wanted, replace=False))
    rows = view.rows(values, which, alive)
    return np.append(rows, np.ones((len(rows), 1), rows.dtype), axis=1)


class _Tensors:
    """An interpreter that keeps all intermediate tensors."""

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter
        from ai_edge_litert.interpreter import OpResolverType

        kind = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        with quiet(), warnings.catch_warnings():
            # LiteRT warns about the memory that keeping all tensors takes.
            warnings.simplefilter("ignore", UserWarning)
            self._interpreter = Interpreter(
                model_content=content,
                experimental_op_resolver_type=kind,
                experimental_preserve_all_tensors=True,
            )
            self._signature = self._interpreter.get_signature_runner()

    def __call__(self, sample: Inputs) -> None:
        self._signature(**sample)

    def tensor(self, number: int) -> Any:
        return self._interpreter.get_tensor(number)
