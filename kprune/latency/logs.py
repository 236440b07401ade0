"""Make a latency table from the output of `benchmark_model`."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from kprune.latency.manifest import load_manifest
from kprune.latency.table import LatencyTable
from kprune.latency.table import check_setting

LOGS = "logs"
_SHOWN = 20

_TIMINGS = "nference timings in us:"
# Newer versions print several averages, older ones a single one.
_TIME = re.compile(
    r"(?:Inference \(avg\)|Inference|no stats): *"
    r"([0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?)(?![\w.])"
)


def read_logs(
    folder: str | os.PathLike[str], device: str, threads: int = 1
) -> LatencyTable:
    """Make a latency table from logs measured on another device.

    Args:
        folder: A folder from `write_files` in which `measure.sh` was run.
        device: Name of the device, for example `"Pixel 8"`.
        threads: Number of CPU threads that `measure.sh` was run with (`THREADS`).

    Returns:
        A `LatencyTable`. Write it with `table.save(path)`.

    Raises:
        FileNotFoundError: The folder has no manifest.
        ValueError: Logs are missing, or hold no time. The message names them.

    Example:

    ```python
    table = kprune.latency.read_logs("for_the_phone", "Pixel 8")
    table.save("pixel8.json")
    ```
    """
    manifest = load_manifest(folder)
    check_setting("litert", manifest.dtype, threads)
    logs = Path(folder) / LOGS / f"threads-{threads}"
    found = {file: _time(logs / _log_name(file)) for file in manifest.files()}
    times = {file: ms for file, ms in found.items() if ms is not None}
    if missing := [file for file in found if file not in times]:
        raise ValueError(_missing(folder, threads, missing, len(found)))
    table = LatencyTable(device, "litert", manifest.dtype, threads)
    table.steps = dict(manifest.steps)
    if manifest.overhead is not None:
        table.overhead = times[manifest.overhead]
    for file, (key, read, write) in manifest.operators.items():
        table.add(key, read, write, times[file])
    table.add_model(manifest.model, manifest.layout)
    for file, kept in manifest.whole.items():
        table.add_whole(manifest.model, kept, times[file])
    return table


def parse_log(text: str) -> float | None:
    """Return the mean time of a run in milliseconds; None if there is none.

    Args:
        text: Output of `benchmark_model`, or of the benchmark app in `adb logcat`.
    """
    # Each line is searched only once: a log may be long, and be a single line.
    for line in reversed(text.splitlines()):
        _, timings, averages = line.partition(_TIMINGS)
        times = _TIME.findall(averages) if timings else []
        if times:
            mean = float(times[-1]) / 1000
            return mean if 0 < mean < math.inf else None
    return None


def _log_name(file: str) -> str:
    return f"{Path(file).stem}.log"


def _time(log: Path) -> float | None:
    if not log.is_file():
        return None
    return parse_log(log.read_text("utf-8", "replace"))


def _missing(
    folder: str | os.PathLike[str], threads: int, missing: list[str], total: int
) -> str:
    names = ", ".join(_log_name(file) for file in missing[:_SHOWN])
    more = len(missing) - _SHOWN
    return (
        f"Of {total} logs in {os.fspath(folder)!r} for {threads} "
        f"thread{'' if threads == 1 else 's'}, {len(missing)} are missing or hold "
        f"no time: {names}{f' and {more} more' if more > 0 else ''}. Delete those "
        f"that hold no time, and run `THREADS={threads} sh measure.sh` there again: "
        "it measures the files that have no log. If benchmark_model cannot run a "
        "file, its output is in the file of the same name that ends in .failed."
    )
