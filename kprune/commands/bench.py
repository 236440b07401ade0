"""The command `kprune bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated
from typing import Any

import typer

from kprune.commands.options import FORMS
from kprune.commands.options import DataDir
from kprune.commands.options import Debug
from kprune.commands.options import ImageSize
from kprune.commands.options import Json
from kprune.commands.options import Pixels
from kprune.commands.options import one_line_errors
from kprune.commands.paths import check_inputs
from kprune.commands.samples import find_data
from kprune.commands.start import start_keras

if TYPE_CHECKING:
    from collections.abc import Sequence

    import keras

    from kprune.commands.outcome import Line
    from kprune.commands.samples import Data
    from kprune.commands.scoring import Score
    from kprune.data.places import Place
    from kprune.data.reading import Samples

_KERAS = (".keras", ".h5", ".hdf5")
_ROUNDS = 10
_FIRST_SECONDS = 1.0


@one_line_errors
def bench(  # noqa: PLR0913  options of a command
    files: Annotated[
        list[Path], typer.Argument(help="Models: .tflite, .onnx or .keras.")
    ],
    threads: Annotated[
        int, typer.Option(min=1, help="Threads the runtime may use.")
    ] = 1,
    precision: Annotated[
        float,
        typer.Option(
            min=0.001,
            help="Measure until the ratio's interval is this narrow.",
        ),
    ] = 0.02,
    seconds: Annotated[
        float, typer.Option(min=0, help="Time limit for measuring.")
    ] = 30.0,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            "--validation",
            help=f"Labelled samples to measure accuracy on: {FORMS}.",
        ),
    ] = None,
    data_dir: DataDir = None,
    image_size: ImageSize = None,
    pixels: Pixels = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure the latency of models on LiteRT or ONNX Runtime, and their accuracy.

    Several files are timed in turns, in a new order every round, and compared
    with the first one. Prints medians with their 95 % confidence intervals, and
    whether there is a clear difference. A `.keras` file is converted to float32
    TFLite first; its size is that of its weights in float32.

    Example: `kprune bench original.tflite compact.tflite --threads 2
    --data photos`
    """
    check_inputs(*files)
    found = find_data(data, None, data_dir, image_size, pixels)
    start_keras()
    from rich.console import Console

    from kprune.commands.outcome import lines_table
    from kprune.commands.outcome import print_json
    from kprune.commands.outcome import print_table
    from kprune.report.progress import progress
    from kprune.report.progress import step

    with progress() as bars:
        with step(bars, "loading"):
            models = _load(files)
        scores = _scores(files, models, found)
        with step(bars, "measuring"):
            result = _measure(files, models, threads, precision, seconds)
    for model, score in zip(result["models"], scores, strict=True):
        if score is not None:
            model["score"] = score.to_dict()
    if as_json:
        print_json(result)
        return
    print_table(lines_table(_lines(result, scores)))
    console = Console()
    for sentence in result["verdicts"]:
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def _load(files: list[Path]) -> dict[Path, keras.Model]:
    from kprune.commands.files import load_model

    return {f: load_model(f) for f in files if f.suffix in _KERAS}


def _scores(
    files: list[Path], models: dict[Path, keras.Model], data: Data
) -> list[Score | None]:
    """Return the score of each file; None for all without data."""
    if data.validation is None:
        return [None] * len(files)
    from kprune.commands.pruning import make_scorer
    from kprune.commands.scoring import FileScorer

    model = next(iter(models.values()), None)
    if model is not None:
        scorer, warnings = make_scorer(data.checked(model), model, "--data")
        for warning in warnings:
            warning.print()
    else:
        scorer = FileScorer(
            _samples_of(files[0], data.validation, data), files[0], "--data"
        )
    if scorer is None:
        return [None] * len(files)
    return [
        scorer.model(models[f])
        if f in models
        else scorer.outputs(scorer.run(f), model)
        for f in files
    ]


def _samples_of(file: Path, place: Place, data: Data) -> Samples:
    """Read samples for the inputs of an exported file."""
    import numpy as np

    from kprune.data.inputs import Input
    from kprune.data.places import TRAIN
    from kprune.data.places import VALIDATION
    from kprune.export.runtime import open_runtime

    runtime = open_runtime(file)
    inputs = [Input(s.name, s.shape[1:], s.dtype) for s in runtime.inputs]

    def predict(x: np.ndarray) -> np.ndarray:
        spec = runtime.inputs[0]
        outputs = runtime.run_batched({spec.name: x.astype(spec.dtype)})
        return outputs[runtime.outputs[0].name]

    part = VALIDATION if data.apart else TRAIN
    return data.read(place, part, inputs, predict)


def _measure(
    files: list[Path],
    models: dict[Path, keras.Model],
    threads: int,
    precision: float,
    seconds: float,
) -> dict[str, Any]:
    """Return the result of `Comparison.to_dict`, with the size of each file."""
    import dataclasses

    import kprune
    from kprune.export.original import measure_original

    subjects = [models.get(f, f) for f in files]
    result: dict[str, Any]
    if len(files) == 1:
        alone = kprune.benchmark(subjects[0], threads=threads)
        timed = [{"name": str(files[0]), **alone.to_dict()}]
        result = {"rounds": None, "models": timed, "verdicts": []}
    else:
        found = kprune.compare(
            subjects,
            threads=threads,
            rounds=_ROUNDS,
            seconds=_FIRST_SECONDS,
            precision=precision,
            time_limit=seconds,
        )
        # The name of a file says more than that of the model in it.
        names = tuple(map(str, files))
        result = dataclasses.replace(found, names=names).to_dict()
    for subject, model in zip(subjects, result["models"], strict=True):
        # Not the size of a .keras file, which may hold an optimizer too.
        model["size"] = measure_original(subject).size
    return result


def _lines(
    result: dict[str, Any], scores: Sequence[Score | None]
) -> list[Line]:
    from kprune.commands.outcome import Line
    from kprune.commands.scoring import Score
    from kprune.export.compare import short_names
    from kprune.report import units

    models = result["models"]
    names = short_names([model["name"] for model in models])
    return [
        Line(
            name,
            extra={
                "size": units.size(model["size"]),
                "median": units.milliseconds(model["median"]),
                "95 % interval": _span(model["low"], model["high"]),
                "p10 to p90": _span(model["p10"], model["p90"]),
            },
            score=score or Score(),
        )
        for name, model, score in zip(names, models, scores, strict=True)
    ]


def _span(low: float | None, high: float | None) -> str:
    from kprune.report import units

    ends = map(units.milliseconds, (low, high))
    return "-".join(end.removesuffix(" ms") for end in ends)
