"""Damaged files of every kind: refused by name in one line, or read.

    python tests/fuzz_files.py --count 5000 --seed 1 [--kind tflite] [--keep FOLDER]

Each file is read by another process, so that one that ends or hangs is noticed. What
that says of a file is `accepted`, `refused` (an error of one line that names it), or a
fault: `raw` (any other error), `crash` or `hang`.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import io
import json
import os
import pathlib
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from collections.abc import Iterator

KINDS = ("table", "manifest", "log", "npz", "npy", "tflite", "onnx")
FAULTS = ("raw", "crash", "hang")
SECONDS = 60
"""After which reading one file counts as hanging."""

ODD = [
    "-1",
    "0",
    "1e999",
    "NaN",
    "1" * 40,
    "null",
    '"a"',
    "[]",
    "{}",
    "true",
    "2.5",
]
BYTES = [b"\x00", b"\xff", b"\x7f", b"\x80", b"\x01", b"\n", b'"', b"}"]


# -- files that are in order ------------------------------------------------


def model():
    import keras

    return keras.Sequential(
        [
            keras.Input((6, 6, 2), name="image"),
            keras.layers.Conv2D(4, 3, name="a"),
            keras.layers.Conv2D(3, 3, name="b"),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )


def table():
    import kprune
    from kprune.latency import LatencyTable
    from kprune.latency.layout import Layout
    from kprune.latency.layout import Placed
    from kprune.latency.layout import Width
    from kprune.latency.layout import fingerprint

    graph = kprune.trace(kprune.wrap(model()))
    made = LatencyTable("a board", threads=2)
    made.overhead = 0.001
    made.steps = {"CONV_2D": (1, 4)}
    a, b = (Width(0.0, {number: 1.0}) for number in (0, 1))
    for read, write in ((0, 2), (0, 4), (4, 1), (4, 3), (2, 3), (2, 1)):
        made.add(
            "CONV_2D(a)" if not read else "CONV_2D(b)", read, write, 0.1 + write
        )
    made.add("FULLY_CONNECTED(c)", 0, 12, 0.25)
    placed = (
        Placed("CONV_2D(a)", None, a),
        Placed("CONV_2D(b)", a, b),
        Placed("FULLY_CONNECTED(c)", None, Width(0.0, {1: 4.0})),
    )
    name = fingerprint(graph, "float32")
    made.add_model(name, Layout(placed))
    made.add_whole(name, [4, 3], 9.5)
    return made


LOG = """INFO: Initialized session in 3.2ms.
INFO: Inference timings in us: Init: 500, First inference: 90, Warmup (avg): 80, """
LOG += "Inference (avg): 61.5\n"


def write_good(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Write a file of each kind that is in order."""
    import numpy as np

    import kprune
    from kprune.latency.manifest import Manifest

    known = table()
    known.save(folder / "table.json")
    (name,) = known.models
    logs = folder / "device"
    (logs / "logs" / "threads-1").mkdir(parents=True)
    points = {
        "a.tflite": ("CONV_2D(a)", 0, 4),
        "b.tflite": ("CONV_2D(b)", 4, 3),
    }
    layout = known.layout(name)
    manifest = Manifest(
        name,
        "float32",
        layout,
        known.steps,
        None,
        {"model.tflite": (4, 3)},
        points,
    )
    manifest.save(logs)
    for file in manifest.files():
        log = logs / "logs" / "threads-1" / f"{pathlib.Path(file).stem}.log"
        log.write_text(LOG)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6, 6, 2)).astype("float32")
    np.savez(folder / "x.npz", x=x, y=rng.integers(0, 2, 40))
    np.save(folder / "x.npy", x)
    kprune.export(model(), folder / "float.tflite")
    kprune.export(model(), folder / "int8.tflite", "int8", calibration=x)
    (folder / "a.onnx").write_bytes(onnx_content())
    return {
        "table": [folder / "table.json"],
        "manifest": [logs / "manifest.json"],
        "log": [logs / "logs" / "threads-1" / "a.log"],
        "npz": [folder / "x.npz"],
        "npy": [folder / "x.npy"],
        "tflite": [folder / "float.tflite", folder / "int8.tflite"],
        "onnx": [folder / "a.onnx"],
    }


def onnx_content() -> bytes:
    import numpy as np
    import onnx
    from onnx import helper
    from onnx import numpy_helper

    rng = np.random.default_rng(0)
    kernel = numpy_helper.from_array(
        rng.normal(size=(4, 2, 3, 3)).astype("f"), "k"
    )
    matrix = numpy_helper.from_array(rng.normal(size=(64, 2)).astype("f"), "m")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "k"], ["c"]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("Flatten", ["r"], ["f"]),
            helper.make_node("MatMul", ["f", "m"], ["y"]),
        ],
        "net",
        [
            helper.make_tensor_value_info(
                "x", onnx.TensorProto.FLOAT, [1, 2, 6, 6]
            )
        ],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2])],
        [kernel, matrix],
    )
    opset = helper.make_opsetid("", 15)
    return helper.make_model(
        graph, opset_imports=[opset], ir_version=8
    ).SerializeToString()


# -- damage -----------------------------------------------------------------


def damaged(content: bytes, kind: str, rng: random.Random) -> bytes:
    """Return a file with one to three kinds of damage."""
    ways = [*WAYS]
    if kind in ("table", "manifest"):
        ways += [odd_value] * len(WAYS)
    if kind in ("table", "manifest", "log"):
        ways += [odd_number, odd_number, lost_token]
    if kind == "npz":
        ways += [inside_archive] * len(WAYS)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        content = rng.choice(ways)(content, rng)
    return content


def flipped(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 4, 32])):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwritten(content: bytes, rng: random.Random) -> bytes:
    start, length = _span(content, rng)
    filling = rng.choice([*BYTES, None])
    new = rng.randbytes(length) if filling is None else filling * length
    return content[:start] + new + content[start + length :]


def cut_short(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def removed(content: bytes, rng: random.Random) -> bytes:
    start, length = _span(content, rng)
    return content[:start] + content[start + length :]


def repeated(content: bytes, rng: random.Random) -> bytes:
    start, length = _span(content, rng)
    piece = content[start : start + length] * rng.choice([2, 3, 50])
    return content[:start] + piece + content[start + length :]


def large_number(content: bytes, rng: random.Random) -> bytes:
    """Replace four aligned bytes, as offsets and lengths are in flatbuffers."""
    if len(content) < 8:
        return content
    start = 4 * rng.randrange(len(content) // 4)
    values = [0, 1, 2, 255, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 4]
    new = rng.choice(values).to_bytes(4, "little")
    return content[:start] + new + content[start + 4 :]


def odd_number(content: bytes, rng: random.Random) -> bytes:
    """Replace a number in a text."""
    import re

    numbers = list(re.finditer(rb"[0-9][0-9.]*", content))
    if not numbers:
        return content
    found = rng.choice(numbers)
    new = rng.choice(ODD).encode()
    return content[: found.start()] + new + content[found.end() :]


def odd_value(content: bytes, rng: random.Random) -> bytes:
    """Replace a value in JSON, leave it out or say it twice."""
    try:
        data = json.loads(content)
    except ValueError:
        return content
    places = [*_places(data)]
    if not places:
        return content
    owner, key = rng.choice(places)
    way = rng.randrange(6)
    if way == 0:
        del owner[key]
    elif way == 1 and isinstance(owner, list):
        owner.append(owner[key])
    elif way == 2 and isinstance(owner[key], int | float):
        owner[key] *= rng.choice([-1, 2, 3.5, 1000, 10**9])
    else:
        owner[key] = json.loads(rng.choice(ODD))
    return json.dumps(data).encode()


def _places(data) -> Iterator[tuple]:
    """Yield every list or object in it with each of its keys."""
    keys = range(len(data)) if isinstance(data, list) else [*data]
    for key in keys:
        yield data, key
        if isinstance(data[key], list | dict):
            yield from _places(data[key])


def lost_token(content: bytes, rng: random.Random) -> bytes:
    import re

    tokens = list(re.finditer(rb'"[^"]*"|[\[\]{},:]', content))
    if not tokens:
        return content
    found = rng.choice(tokens)
    return content[: found.start()] + content[found.end() :]


def inside_archive(content: bytes, rng: random.Random) -> bytes:
    """Damage a member, and write the archive as if nothing had happened."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:
        return content
    name = rng.choice([*members])
    head, tail = members[name][:160], members[name][160:]
    members[name] = rng.choice(WAYS)(head, rng) + tail
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return file.getvalue()


def _span(content: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(content) + 1)
    return start, min(rng.choice([1, 2, 4, 16, 256]), len(content) - start)


WAYS = [
    flipped,
    flipped,
    overwritten,
    cut_short,
    removed,
    repeated,
    large_number,
    large_number,
]


# -- reading, in a process of its own ----------------------------------------


def readers() -> dict[str, Callable[[pathlib.Path], object]]:
    import kprune
    from kprune.data.files import load_arrays
    from kprune.data.source import Source
    from kprune.latency import load
    from kprune.latency import predict
    from kprune.latency import read_logs

    masked = kprune.wrap(model())

    def arrays(path):
        x, y = load_arrays(path)
        Source(x if y is None else (x, y), model=masked)

    def logs(path):
        folder = next(p for p in path.parents if (p / "manifest.json").exists())
        read_logs(folder, "a board")

    return {
        "table": lambda path: predict(masked, load(path)),
        "manifest": lambda path: read_logs(path.parent, "a board"),
        "log": logs,
        "npz": arrays,
        "npy": arrays,
        "tflite": lambda path: kprune.benchmark(path, runs=1, seconds=0.0),
        "onnx": lambda path: kprune.benchmark(path, runs=1, seconds=0.0),
    }


def outcome(
    read: Callable[[pathlib.Path], object], path: pathlib.Path
) -> list[str]:
    try:
        read(path)
    except Exception as error:
        text = str(error)
        expected = isinstance(error, ValueError | OSError)
        # Of samples whose values do not fit, the argument is named.
        names = (
            path.name,
            f"{path.parent.name!r}",
            f"{path.parent.name}'",
            "`data`",
        )
        named = any(name in text for name in names)
        clear = "\n" not in text and len(text) < 700
        result = "refused" if expected and named and clear else "raw"
        return [result, f"{type(error).__name__}: {text}"]
    return ["accepted", ""]


def work() -> None:
    """Read what standard input names, and say what came of it."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    known = readers()
    print(json.dumps(["ready", ""]), file=answers, flush=True)
    for line in sys.stdin:
        kind, path = json.loads(line)
        print(
            json.dumps(outcome(known[kind], pathlib.Path(path))),
            file=answers,
            flush=True,
        )


class Worker:
    """The process that reads."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def __call__(self, kind: str, path: pathlib.Path) -> list[str]:
        if self._process is None:
            self._start()
        self._process.stdin.write(json.dumps([kind, str(path)]) + "\n")
        self._process.stdin.flush()
        return self._answer(SECONDS)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._lines = queue.Queue()
        arguments = (self._process.stdout, self._lines)
        threading.Thread(target=_drain, args=arguments, daemon=True).start()
        ready = self._answer(300)
        if ready[0] != "ready":
            raise RuntimeError(f"The reading process does not start: {ready}")

    def _answer(self, seconds: float) -> list[str]:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            self.close()
            return ["hang", f"more than {seconds} s"]
        if line is None:
            code = self._process.wait()
            self._process = None
            return ["crash", f"exit code {code}"]
        return json.loads(line)


def _drain(stream, lines: queue.Queue) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


# -- running ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Result:
    kind: str
    number: int
    outcome: str
    message: str
    content: bytes


def fuzz(
    folder: pathlib.Path,
    count: int,
    seed: int = 0,
    kinds: tuple[str, ...] = KINDS,
) -> Iterator[Result]:
    """Yield what came of `count` damaged files, of all kinds in turn."""
    good = write_good(folder)
    worker = Worker()
    try:
        for kind in kinds:
            for path in good[kind]:
                result = worker(kind, path)
                if result[0] != "accepted":
                    raise RuntimeError(f"{path} is not read: {result}")
        for number in range(count):
            kind = kinds[number % len(kinds)]
            rng = random.Random(f"{seed}-{kind}-{number}")
            path = rng.choice(good[kind])
            before = path.read_bytes()
            content = damaged(before, kind, rng)
            path.write_bytes(content)
            yield Result(kind, number, *worker(kind, path), content)
            path.write_bytes(before)
    finally:
        worker.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--keep", type=pathlib.Path, help="folder for faults")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work()
        return 0
    kinds = tuple(arguments.kind or KINDS)
    folder = pathlib.Path(tempfile.mkdtemp())
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    try:
        for result in fuzz(folder, arguments.count, arguments.seed, kinds):
            counts[result.kind, result.outcome] += 1
            if result.outcome in FAULTS:
                print(
                    result.kind,
                    result.number,
                    result.outcome,
                    result.message[:300],
                )
                if arguments.keep:
                    arguments.keep.mkdir(parents=True, exist_ok=True)
                    file = f"{result.outcome}-{result.number}.{result.kind}"
                    (arguments.keep / file).write_bytes(result.content)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for kind in kinds:
        found = {o: n for (k, o), n in sorted(counts.items()) if k == kind}
        print(kind, found)
    return int(any(counts[k, o] for k in kinds for o in FAULTS))


if __name__ == "__main__":
    sys.exit(main())
