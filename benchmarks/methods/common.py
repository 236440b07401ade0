"""Options, tasks and files that all series of runs share."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import json
import os
import sys
import traceback
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from typing import Protocol

import keras

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class Task(Protocol):
    """One run and its result file."""

    @property
    def path(self) -> Path: ...

    def done(self, setting: Any) -> bool: ...


def done(path: Path, wanted: dict[str, Any]) -> bool:
    """Return whether a result exists; raise if it has another setting."""
    if not path.exists():
        return False
    there = json.loads(path.read_text())["setting"]
    other = {k: there.get(k) for k, v in wanted.items() if there.get(k) != v}
    if other:
        raise ValueError(
            f"{path} was made with {other}, not "
            f"{ {k: wanted[k] for k in other} }. Use the same options, or "
            "another folder as --results."
        )
    return True


def missing_runs(
    wanted: list[Any],
    setting: Any,
    series: str | None = None,
    names: bool = False,
) -> list[Any]:
    """Return the tasks without a result, and print how many there are.

    Args:
        wanted: List of `Task`.
        setting: Setting that the tasks share.
        series: Name of the series for the output.
        names: Whether to print the name of each missing run.
    """
    missing = [task for task in wanted if not task.done(setting)]
    start = "" if series is None else f"{series}: "
    print(f"{start}{len(missing)} of {len(wanted)} runs are missing")
    for task in missing if names else ():
        print(f"  {task.path.stem}")
    return missing


def run_missing(
    missing: list[Any], setting: Any, run: Callable[[Any], dict[str, Any]]
) -> int:
    """Run the tasks one after the other, and return the number of failed ones.

    Args:
        missing: List of `Task`.
        setting: Setting that the tasks share.
        run: Function that runs a task and returns the result to write.
    """
    finished = failed = 0
    for number, task in enumerate(missing, start=1):
        if task.done(setting):  # another process ran it meanwhile
            continue
        print(f"{number} of {len(missing)}: {task.path.stem}", flush=True)
        try:
            result = run(task)
        except Exception:
            # One failure must not cost the other runs of a long series.
            traceback.print_exc()
            failed += 1
            continue
        write(task.path, result)
        finished += 1
        print(f"  final: {result['final']}", flush=True)
        gc.collect()
    print(f"{finished} runs done, {failed} failed")
    return failed


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; on success that file replaces `path` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Keras chooses the format by the suffix.
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp{path.suffix}")
    yield temporary
    os.replace(temporary, path)


def write(path: Path, result: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")


RESNET8 = "mlperf_tiny_ic_resnet8.h5"


def quicken(model: keras.Model) -> None:
    """Let batch normalisation follow changes within a short run.

    At 0.99, Keras' default momentum, the statistics need 300 steps to follow a change
    to 95 %, which would dominate the result.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9


def pretrained(depth: int, weights: Path) -> keras.Model:
    """Return a pretrained network that outputs logits.

    Args:
        depth: 20, 32, 44 or 56; 8 for the network of MLPerf Tiny, which takes
            pixels from 0 to 255.
        weights: Path of the file or of its folder.
    """
    if depth == 8:
        path = weights / RESNET8 if weights.is_dir() else weights
        model = keras.models.load_model(path, compile=False)
        model.layers[-1].activation = keras.activations.linear
        logits = keras.models.clone_model(model)
        logits.set_weights(model.get_weights())
        # As in the other networks.
        quicken(logits)
        return logits
    if str(EXAMPLES) not in sys.path:
        sys.path.append(str(EXAMPLES))
    import cifar10_resnet as example

    if weights.is_dir():
        weights = weights / f"cifar10_resnet{depth}.npz"
    model = example.build_resnet(depth)
    example.load_weights(model, weights)
    return model


def add_fields(parser: argparse.ArgumentParser, kind: Any) -> None:
    """Add an option for each numeric field of a dataclass."""
    for field in dataclasses.fields(kind):
        number = {"int": int, "float": float}.get(str(field.type))
        if number is not None:
            name = f"--{field.name.replace('_', '-')}"
            parser.add_argument(name, type=number, default=field.default)


def from_options(kind: Any, options: argparse.Namespace) -> Any:
    """Return an instance of a dataclass with its fields taken from the options."""
    names: Iterable[str] = {field.name for field in dataclasses.fields(kind)}
    return kind(**{k: v for k, v in vars(options).items() if k in names})


def add_places(parser: argparse.ArgumentParser, results: Path) -> None:
    """Add the options for the places of images, weights and results."""
    add = parser.add_argument
    add("--data-dir", help="folder of TensorFlow Datasets with cifar10/")
    add("--images-npz", type=Path, nargs="+", default=[], metavar="FILE")
    add("--weights", type=Path, help="an .npz file or its folder")
    add("--results", type=Path, default=results)
    add("--list", action="store_true", help="say what is missing; run nothing")
