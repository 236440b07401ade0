"""List the measurements needed to predict a model's latency."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping

from kprune.latency.conversion import Conversion
from kprune.latency.curve import anchors
from kprune.latency.curve import grid
from kprune.latency.table import ONE_BY_ONE
from kprune.latency.table import Steps


@dataclasses.dataclass(frozen=True)
class Task:
    """One measurement of one operator.

    Args:
        key: Key of the operator.
        read: Width read, 0 if it does not vary.
        write: Width written, 0 if it does not vary.
        make: Function that returns the `.tflite` file to time.
    """

    key: str
    read: int
    write: int
    make: Callable[[], bytes]


def tasks(conversion: Conversion, steps: Mapping[str, Steps]) -> Iterator[Task]:
    """Yield the measurements that a model needs, without duplicates.

    Args:
        conversion: The model.
        steps: Operator kind -> numbers of channels that it reads and writes at
            once.
    """
    done = set()
    for position, placed in enumerate(conversion.layout.operators):
        for task in _of_operator(conversion, position, steps):
            at = (placed.key, task.read, task.write)
            if at not in done:
                done.add(at)
                yield task


def _of_operator(
    conversion: Conversion, position: int, steps: Mapping[str, Steps]
) -> Iterator[Task]:
    key = conversion.layout.operators[position].key
    if not conversion.resizable(position):
        for read, write, content in conversion.observed(position):
            yield Task(key, read, write, functools.partial(bytes, content))
        return
    widest_read, widest_write = conversion.widths(position)
    read_step, step = steps.get(conversion.kind(position), ONE_BY_ONE)
    for read in anchors(widest_read, read_step) if widest_read else [0]:
        for write in grid(widest_write, step):
            if conversion.fitting(position, read, write):
                yield kernel(conversion, position, read, write)


def kernel(
    conversion: Conversion, position: int, read: int, write: int
) -> Task:
    """Return the measurement of a kernel at one width."""
    return Task(
        conversion.layout.operators[position].key,
        read,
        write,
        lambda: conversion.cut(position, read, write),
    )


def widest(conversion: Conversion) -> dict[str, int]:
    """Return the kernel of each kind that is best suited to find its steps.

    This is one that is wide on both sides, so that all steps can be seen.

    Returns:
        Kind of kernel -> index of the operator.
    """
    chosen: dict[str, int] = {}
    for position in range(len(conversion.layout.operators)):
        if not conversion.resizable(position):
            continue
        kind = conversion.kind(position)
        best = chosen.get(kind)
        if best is None or _effort(conversion, position) > _effort(
            conversion, best
        ):
            chosen[kind] = position
    return chosen


def _effort(conversion: Conversion, position: int) -> tuple[int, int]:
    read, write = conversion.widths(position)
    return min(write, read) if read else 0, write
