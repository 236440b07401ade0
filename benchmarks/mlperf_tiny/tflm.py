"""Compare kprune's estimate of the arena with TensorFlow Lite Micro itself."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import suite

sys.path.append(str(Path(__file__).resolve().parents[1] / "methods"))

import common

import kprune
from kprune.export.micro.arena import ALIGNMENT
from kprune.export.micro.arena import estimate_arena
from kprune.latency.conversion import file_of

WAYS = {"unpruned": None, "half of the MACs": {"macs": 0.5}}


@dataclasses.dataclass(frozen=True)
class Task:
    """One network and its result file."""

    network: str
    path: Path

    def done(self, setting: Any) -> bool:
        return common.done(self.path, {"network": self.network})


def tasks(networks: list[str], results: Path) -> list[Task]:
    """Return the runs."""
    return [Task(name, results / f"arena-{name}.json") for name in networks]


def run(task: Task, folder: Path) -> dict[str, Any]:
    """Return the figures of both for one network, unpruned and pruned, in bytes."""
    model = suite.build(task.network, folder)
    rows = {}
    for way, reduce in WAYS.items():
        network = model
        if reduce is not None:
            masked = kprune.prune(model, "l2", reduce, recover=None)
            network = kprune.rebuild(masked)
        rows[way] = compared(file_of(network, "int8", "int8"))
    return {
        "setting": {"network": task.network},
        "title": suite.NETWORKS[task.network][0],
        "final": rows,
    }


def compared(content: bytes) -> dict[str, int]:
    """Return the arena of a `.tflite` file by kprune and the interpreter, in bytes."""
    arena = estimate_arena(content)
    activations, used = reported(content, 2 * arena.total)
    return {
        "planned": arena.planned,
        "activations": activations,
        "estimate": arena.used,
        "used": used,
        "total": arena.total,
        "smallest": smallest(content, used // 2, 2 * arena.total),
    }


def reported(content: bytes, size: int) -> tuple[int, int]:
    """Return the interpreter's figures for activations and for all, in bytes."""
    interpreter = _start(content, size)
    with _heard() as heard:
        interpreter.print_allocations()
    head, total = (
        int(found)
        for word in ("head", "total")
        for found in re.findall(
            rf"allocation {word} (\d+) bytes", heard.getvalue()
        )
    )
    return head, total


def smallest(content: bytes, low: int, high: int) -> int:
    """Return the smallest arena in which the interpreter starts."""
    low, high = low // ALIGNMENT, high // ALIGNMENT
    while high - low > 1:
        middle = (low + high) // 2
        if starts(content, ALIGNMENT * middle):
            high = middle
        else:
            low = middle
    return ALIGNMENT * high


def starts(content: bytes, size: int) -> bool:
    """Return whether the interpreter starts. It runs in its own process.

    With too little memory the package terminates the process.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for number in (1, 2):
                os.dup2(nowhere, number)
            _start(content, size)
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def _start(content: bytes, size: int) -> Any:
    try:
        import tflite_micro
    except ImportError as error:
        raise ImportError(
            "TensorFlow Lite Micro is missing: pip install tflite-micro (Linux)."
        ) from error
    return tflite_micro.runtime.Interpreter.from_bytes(content, arena_size=size)


@contextlib.contextmanager
def _heard() -> Iterator[io.StringIO]:
    """Capture what C++ code prints."""
    heard = io.StringIO()
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as file:
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield heard
        finally:
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
            file.seek(0)
            heard.write(file.read().decode(errors="replace"))
