"""Measure the operators of a model on this machine."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from kprune.graph import trace
from kprune.latency import runtimes
from kprune.latency.context import fill_in_context
from kprune.latency.conversion import Conversion
from kprune.latency.curve import find_step
from kprune.latency.device import table_path
from kprune.latency.layout import fingerprint
from kprune.latency.runtimes.base import Runtime
from kprune.latency.table import ONE_BY_ONE
from kprune.latency.table import LatencyTable
from kprune.latency.table import Steps
from kprune.latency.table import check_setting
from kprune.latency.table import load
from kprune.latency.tasks import Task
from kprune.latency.tasks import kernel
from kprune.latency.tasks import tasks
from kprune.latency.tasks import widest
from kprune.masking import is_masked
from kprune.masking import require_prunable
from kprune.masking import wrap
from kprune.outputs import check_file

_log = logging.getLogger("kprune")

RUNS = 10
SECONDS = 0.006
WHOLE_RUNS = 30
WHOLE_SECONDS = 0.3
SAVED_EVERY = 2.0
"""Seconds between two saves of the table while measuring."""

Measure = Callable[[bytes, int, int, float], float]


def profile(
    model: keras.Model,
    runtime: Any = "litert",
    dtype: str | None = None,
    threads: int = 1,
    table: LatencyTable | str | os.PathLike[str] | None = None,
) -> LatencyTable:
    """Measure how long the operators of a model take on this machine.

    The model is converted as the device will run it. Each operator is cut out and
    timed at the widths where its time changes. On most runtimes time falls in steps
    as channels are removed, and the steps depend on the device, runtime and number
    format. Operators that are in the table already are not measured again, so a
    second model takes less time.

    Measuring takes seconds to minutes. Run nothing else on the machine meanwhile.

    Args:
        model: A functional `keras.Model`, masked or not.
        runtime: `"litert"`, the LiteRT interpreter; `"onnxruntime"`; one of Arm's
            Ethos-U by Vela's name, such as `"ethos-u55-128"`, optionally with a
            memory mode, such as `"ethos-u55-128/Sram_Only"`; or an object of
            `kprune.latency.runtimes`.
        dtype: `"float32"`, or `"int8"` for a fully quantised model. Defaults to
            the first that the runtime supports.
        threads: Number of CPU threads.
        table: Where to keep measurements: a `LatencyTable`, or the path of its JSON
            file, which may not exist yet. The file is saved while measuring, so a
            run that was stopped continues where it was. Only one process at a time
            writes to it. Defaults to a file in the user's cache folder, one per
            device, runtime, number format and number of threads.

    Returns:
        The `LatencyTable`. If it came from a file, the file is updated.

    Raises:
        ValueError: The table has other settings, or was measured on another
            device and does not know the model; or the model cannot be pruned or
            converted.
        RuntimeError: Keras runs on another backend than TensorFlow, and the
            table does not know the model.

    Example:

    ```python
    table = kprune.latency.profile(model, dtype="int8", table="laptop.json")
    kprune.latency.predict(model, table)        # ms, of the whole model
    ```
    """
    device = runtimes.get(runtime)
    runtime, dtype = device.name, dtype or device.dtypes[0]
    check_setting(runtime, dtype, threads)
    measure = device.measure
    if isinstance(table, LatencyTable):
        check_table(table, runtime=runtime, dtype=dtype, threads=threads)
        fill(table, model, measure, device)
        return table
    path = Path(table or table_path(runtime, dtype, threads, device.device))
    path.parent.mkdir(parents=True, exist_ok=True)
    check_file(path)
    with one_writer(path):
        table = (
            load(path)
            if path.exists()
            else LatencyTable(device.device, runtime, dtype, threads)
        )
        check_table(table, runtime=runtime, dtype=dtype, threads=threads)
        with _kept(table, path) as timer:
            fill(table, model, timer(measure), device)
    return table


@contextlib.contextmanager
def _kept(
    table: LatencyTable, path: Path
) -> Iterator[Callable[[Measure], Measure]]:
    """Save a table every few seconds of measuring, and when the block ends.

    Yields:
        A decorator of the function that measures.
    """
    saved = time.monotonic()
    measured, size = 0, table.size

    def decorate(measure: Measure) -> Measure:
        def timer(*arguments: Any) -> float:
            nonlocal saved, measured
            # By now the previous measurement is in the table.
            if measured and time.monotonic() - saved > SAVED_EVERY:
                table.save(path)
                saved = time.monotonic()
            measured += 1
            return measure(*arguments)

        return timer

    try:
        yield decorate
    finally:
        if measured or table.size > size:
            table.save(path)


@contextlib.contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """Wait until no other process of this user writes to a table.

    Args:
        path: The table.
    """
    import filelock

    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:16]
    user = getattr(os, "getuid", int)()
    # Not next to the table, because lock files are left behind.
    place = Path(tempfile.gettempdir()) / f"kprune-{user}-{name}.lock"
    lock = filelock.FileLock(place)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        _log.warning("Another process is measuring into %s: waiting", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def fill(
    table: LatencyTable,
    model: keras.Model,
    timer: Measure,
    runtime: Runtime | None = None,
) -> bool:
    """Measure what a table lacks to predict the latency of a model.

    Args:
        table: The table, changed in place.
        model: The model.
        timer: Function `timer(content, threads, runs, seconds) -> milliseconds`.
        runtime: The runtime that is timed, for its properties.

    Returns:
        Whether the table was complete already.
    """
    from rich.progress import track

    masked = model if is_masked(model) else wrap(model)
    graph = trace(masked)
    require_prunable(graph)
    name = fingerprint(graph, table.dtype)
    if table.layout(name) is not None and table.wholes(name):
        return True
    if runtime is not None:
        _check_device(table, runtime.device)
    io_dtype = "float32"
    if runtime is not None and table.dtype == "int8":
        io_dtype = runtime.io_dtype
    conversion = Conversion(masked, table.dtype, io_dtype)
    if runtime is not None and runtime.operators is not None:
        fill_in_context(
            table,
            name,
            conversion,
            runtime.operators,
            runtime.step,
            lambda found: track(
                found, f"Compiling {masked.name}", transient=True
            ),
        )
        return False

    def measure(task: Task) -> None:
        if not table.has(task.key, task.read, task.write):
            table.add(
                task.key,
                task.read,
                task.write,
                timer(task.make(), table.threads, RUNS, SECONDS),
            )

    if table.overhead is None and (nothing := conversion.nothing()):
        table.overhead = timer(nothing, table.threads, RUNS, SECONDS)
    for kind, position in widest(conversion).items():
        if kind not in table.steps:
            table.steps[kind] = _steps(
                table, conversion, position, measure, timer
            )
            _log.info(
                "%s reads and writes in steps of %s", kind, table.steps[kind]
            )
    wanted = [
        task
        for task in tasks(conversion, table.steps)
        if not table.has(task.key, task.read, task.write)
    ]
    for task in track(wanted, f"Measuring {masked.name}", transient=True):
        measure(task)
    for kept, content in zip(conversion.kept, conversion.contents, strict=True):
        table.add_whole(
            name,
            kept,
            timer(content, table.threads, WHOLE_RUNS, WHOLE_SECONDS),
        )
    table.add_model(name, conversion.layout)
    return False


def _steps(
    table: LatencyTable,
    conversion: Conversion,
    position: int,
    measure: Callable[[Task], None],
    timer: Measure,
) -> Steps:
    """Find the numbers of channels that a kernel reads and writes at once."""
    widest_read, widest_write = conversion.widths(position)
    if not conversion.fitting(position, 1, 1):
        return ONE_BY_ONE  # Not every width is possible for a grouped kernel.

    def writing(width: int) -> float:
        task = kernel(conversion, position, widest_read, width)
        measure(task)
        return table.at(task.key, task.read, task.write)

    # These times are not for the table, where each width read needs all widths
    # written.
    @functools.cache
    def reading(width: int) -> float:
        content = conversion.cut(position, width, widest_write)
        return timer(content, table.threads, RUNS, SECONDS)

    return (
        find_step(reading, widest_read),
        find_step(writing, widest_write),
    )


def _check_device(table: LatencyTable, device: str) -> None:
    # A table made by the caller has any name. Older ones lack the runtime's version.
    if table.path is not None and not device.startswith(table.device):
        raise ValueError(
            f"The latency table ({table.described()}) was measured on "
            f"{table.device!r} and does not know this model; this is {device!r}, "
            "whose times must not be mixed in. Choose another `table`, or write "
            "files to time on the table's device: kprune.latency.write_files. If "
            "both are the same device, set `device` of the loaded table and save it."
        )


def check_table(table: LatencyTable, **wanted: Any) -> None:
    """Raise unless a table has the wanted settings.

    Args:
        table: The table.
        **wanted: `runtime`, `dtype` and `threads`. None allows any.

    Raises:
        ValueError: The table has another setting.
    """
    other = {
        k: v
        for k, v in wanted.items()
        if v is not None and getattr(table, k) != v
    }
    if other:
        raise ValueError(
            f"The table has {', '.join(f'{k}={getattr(table, k)!r}' for k in other)}"
            f", not {', '.join(f'{k}={v!r}' for k, v in other.items())}. Use "
            "another table, or the table's own settings."
        )
