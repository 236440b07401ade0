"""Tables of measured operator times: one small JSON file per device and runtime."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kprune.arguments import choice
from kprune.arguments import number
from kprune.arguments import whole
from kprune.latency import runtimes
from kprune.latency.layout import Layout
from kprune.latency.schema import FORMAT
from kprune.latency.schema import damaged
from kprune.latency.schema import read_json
from kprune.outputs import atomic_file

DTYPES = ("float32", "int8")

Steps = tuple[int, int]
ONE_BY_ONE: Steps = (1, 1)

Point = tuple[int, int, float]
"""Width read, width written (0 where it does not vary), milliseconds."""


class LatencyTable:
    """Times of operators on one device, at the widths that were measured.

    Fill it with `kprune.latency.profile`. Its JSON file can be copied from the
    device that it was measured on. Loading the file runs no code.

    Args:
        device: Name of the device.
        runtime: Name of the runtime, for example `"litert"`.
        dtype: `"float32"` or `"int8"`.
        threads: Number of CPU threads.

    Example:

    ```python
    table = kprune.latency.load("phone.json")
    kprune.prune(
        model,
        reduce={"latency": 0.5},
        allocation=kprune.latency.Latency(table=table),
    )
    ```
    """

    def __init__(
        self,
        device: str = "",
        runtime: str = "litert",
        dtype: str = "float32",
        threads: int = 1,
    ) -> None:
        check_setting(runtime, dtype, threads)
        self.device = device
        self.runtime = runtime
        self.dtype = dtype
        self.threads = threads
        self.overhead: float | None = None
        """Milliseconds that a minimal file takes."""
        self.steps: dict[str, Steps] = {}
        """Operator kind -> numbers of channels that it reads and writes at once."""
        self.path: Path | None = None
        """The file that it was read from."""
        self._points: dict[str, dict[tuple[int, int], float]] = {}
        self._layouts: dict[str, Layout] = {}
        self._wholes: dict[str, list[tuple[list[int], float]]] = {}

    # -- operators -----------------------------------------------------------

    def add(self, key: str, read: int, write: int, milliseconds: float) -> None:
        """Record a measurement; the fastest one counts if there are several."""
        time = _time(milliseconds)
        points = self._points.setdefault(key, {})
        at = (int(read), int(write))
        points[at] = min(time, points.get(at, float("inf")))

    def has(self, key: str, read: int, write: int) -> bool:
        """Return whether there is a measurement."""
        return (read, write) in self._points.get(key, {})

    def at(self, key: str, read: int, write: int) -> float:
        """Return one measurement, in milliseconds."""
        return self._points[key][read, write]

    def points(self, key: str) -> list[Point]:
        """Return all measurements of an operator, sorted by width."""
        found = self._points.get(key, {})
        return [(*at, found[at]) for at in sorted(found)]

    @property
    def keys(self) -> list[str]:
        """The operators that were measured, sorted."""
        return sorted(self._points)

    @property
    def size(self) -> int:
        """Number of measurements."""
        return sum(map(len, self._points.values()))

    # -- models --------------------------------------------------------------

    def add_model(self, name: str, layout: Layout) -> None:
        """Record the operators of a model under its fingerprint."""
        self._layouts[name] = layout

    def layout(self, name: str) -> Layout | None:
        """Return the operators of a model; None if it is unknown."""
        return self._layouts.get(name)

    @property
    def models(self) -> list[str]:
        """The fingerprints of all known models."""
        return list(self._layouts)

    def add_whole(
        self, name: str, kept: Iterable[int], milliseconds: float
    ) -> None:
        """Record the time of a whole model with these kept channels."""
        time = _time(milliseconds)
        counts = [int(count) for count in kept]
        known = self._wholes.setdefault(name, [])
        for place, (other, before) in enumerate(known):
            if other == counts:
                known[place] = (counts, min(before, time))
                return
        known.append((counts, time))

    def wholes(self, name: str) -> list[tuple[list[int], float]]:
        """Return the kept channels and measured times of a whole model."""
        return list(self._wholes.get(name, []))

    # -- files ---------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as JSON. The file appears whole or not at all."""
        text = _lines(self.to_dict())
        with atomic_file(path) as temporary:
            temporary.write_text(text, "utf-8")

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the table's file, for JSON."""
        return {
            "kprune_latency": FORMAT,
            "device": self.device,
            "runtime": self.runtime,
            "dtype": self.dtype,
            "threads": self.threads,
            "overhead": self.overhead,
            "steps": self.steps,
            "operators": {
                key: [[r, w, _rounded(ms)] for r, w, ms in self.points(key)]
                for key in sorted(self._points)
            },
            "models": {
                name: {
                    "operators": layout.to_json(),
                    "whole": [[k, _rounded(ms)] for k, ms in self.wholes(name)],
                }
                for name, layout in self._layouts.items()
            },
        }

    def described(self) -> str:
        """Return what messages call the table, with its file if it has one."""
        return str(self) if self.path is None else f"{str(self.path)!r}: {self}"

    def __str__(self) -> str:
        return (
            f"{self.size} measurements of {len(self._points)} operators: "
            f"{self.device}, {self.runtime}, {self.dtype}, {self.threads} "
            f"thread{'' if self.threads == 1 else 's'}"
        )


def load(path: str | os.PathLike[str]) -> LatencyTable:
    """Read a table that `LatencyTable.save` wrote.

    Args:
        path: A JSON file.

    Returns:
        A `LatencyTable`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a latency table, or has another version.
    """
    what = "latency table"
    way_out = (
        "Choose another file; or delete it, and measure again with "
        f"kprune.latency.profile(model, table={os.fspath(path)!r})."
    )
    data = read_json(path, "TABLE", what, way_out)
    try:
        table = LatencyTable(
            data["device"], data["runtime"], data["dtype"], int(data["threads"])
        )
    except ValueError as error:
        raise damaged(path, what, way_out, error) from error
    table.path = Path(path)
    table.overhead = data["overhead"]
    table.steps = {k: (int(r), int(w)) for k, (r, w) in data["steps"].items()}
    for key, points in data["operators"].items():
        for read, write, milliseconds in points:
            table.add(key, read, write, milliseconds)
    for name, model in data["models"].items():
        table.add_model(name, Layout.from_json(model["operators"]))
        for kept, milliseconds in model["whole"]:
            table.add_whole(name, kept, milliseconds)
    return table


def check_setting(runtime: str, dtype: str, threads: int) -> None:
    """Raise unless a table can have these settings.

    Raises:
        ValueError: The runtime is unknown or has no name, does not support the
            number format, or `threads` is below 1.
    """
    if runtime == "":
        raise ValueError(
            "Tables record a runtime by its name, and this one has none. Register "
            'its class or function: kprune.latency.runtimes.register("my-device").'
        )
    found = runtimes.get(runtime)
    choice(dtype, "A table of latencies", "dtype", DTYPES)
    found.check_dtype(dtype)
    whole(threads, "A table of latencies", "threads", exact=True)


def _time(milliseconds: float) -> float:
    return number(milliseconds, "A latency table", "milliseconds", above=0)


def _rounded(milliseconds: float) -> float:
    return max(round(milliseconds, 6), 1e-6)


def _lines(data: Mapping[str, Any]) -> str:
    """Return JSON with one operator per line, so that tables can be compared."""

    def one(key: str, value: Any) -> str:
        if not isinstance(value, Mapping) or key == "steps":
            return json.dumps(value)
        rows: Iterable[str] = (
            f"  {json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}"
            for k, v in value.items()
        )
        return "{\n" + ",\n".join(rows) + "\n }" if value else "{}"

    body = ",\n".join(f" {json.dumps(k)}: {one(k, v)}" for k, v in data.items())
    return "{\n" + body + "\n}\n"
