"""The command `kprune sweep`."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated
from typing import Any

import typer

from kprune.arguments import did_you_mean
from kprune.commands.choices import check_targets_given
from kprune.commands.options import FORMS
from kprune.commands.options import DataDir
from kprune.commands.options import Debug
from kprune.commands.options import ImageSize
from kprune.commands.options import Json
from kprune.commands.options import Pixels
from kprune.commands.options import TrainedModel
from kprune.commands.options import one_line_errors
from kprune.commands.paths import check_inputs
from kprune.commands.paths import check_not_read
from kprune.commands.paths import check_output
from kprune.commands.samples import find_data
from kprune.commands.samples import note
from kprune.commands.start import start_keras
from kprune.commands.targets import parse_reduce
from kprune.outputs import check_root
from kprune.registry import modules

if TYPE_CHECKING:
    import optuna


def _known_methods(value: str | None) -> str | None:
    """Check the names of `--methods` before anything is loaded."""
    names = ["default", *modules("recipes"), *modules("criteria")]
    for method in [] if value is None else value.split(","):
        if method not in names:
            raise typer.BadParameter(
                f"received {method!r}. {did_you_mean(method, names)}"
            )
    return value


@one_line_errors
def sweep(  # noqa: PLR0913  options of a command
    model: TrainedModel,
    data: Annotated[
        Path,
        typer.Option(help=f"Samples to prune and train with: {FORMS}."),
    ],
    validation: Annotated[
        Path | None,
        typer.Option(
            help="Samples to compare results on, in any form of --data. Defaults to "
            "the validation part of --data."
        ),
    ] = None,
    data_dir: DataDir = None,
    image_size: ImageSize = None,
    pixels: Pixels = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Recipes and criteria, separated by commas; default stands for what "
            "kprune prune does without a method.",
            callback=_known_methods,
        ),
    ] = None,
    reduce: Annotated[
        str, typer.Option(help="Shares to remove, such as macs=0.3,0.5,0.7.")
    ] = "macs=0.3,0.5,0.7",
    hours: Annotated[
        float, typer.Option(help="Time after which no trial starts.")
    ] = 1.0,
    epochs: Annotated[
        int,
        typer.Option(
            min=0,
            help="Epochs that each method trains for; 0 compares criteria without "
            "training.",
        ),
    ] = 10,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Learning rate of the first epoch; it falls to 0. Defaults to that "
            "of the model, unless that has decayed."
        ),
    ] = None,
    run_dir: Annotated[
        Path, typer.Option(help="Folder of the runs, one for each trial.")
    ] = Path("runs"),
    storage: Annotated[
        str | None,
        typer.Option(
            help="URL of an Optuna storage, which several machines can share. "
            "Defaults to study.db in the folder of the runs."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the study in the storage.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every trial.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Copy the best model to this .keras file; with several targets, "
            "to one file each, with the target in its name."
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Try methods and targets on one model, and compare the results.

    Run the command again to continue. Run it in several processes with the same
    storage to share the work.

    Example: `kprune sweep model.keras --data train.npz --validation val.npz
    --methods default,l1,attenuation --reduce macs=0.3,0.5 --hours 1`
    """
    key, _, shares = reduce.partition("=")
    wanted = [parse_reduce(f"{key}={part}")[key] for part in shares.split(",")]
    check_inputs(model)
    found = find_data(data, validation, data_dir, image_size, pixels)
    check_targets_given(epochs > 0, found)
    if not found.apart:
        raise typer.BadParameter(
            f"{str(data)!r} has no validation part to compare on; pass one.",
            param_hint="--validation",
        )
    if out is not None:
        read = (model, *found.files)
        each = [_named(out, {key: share}) for share in wanted]
        for path in (out, *(each if len(each) > 1 else ())):
            check_output(path, (".keras",), "The best model", read)
    check_root(run_dir)
    start_keras()
    import kprune
    from kprune.commands.files import load_model
    from kprune.commands.outcome import print_json
    from kprune.commands.outcome import print_table
    from kprune.report.comparison import summaries
    from kprune.report.comparison import write_comparison
    from kprune.report.progress import progress
    from kprune.report.sweeps import TrialProgress
    from kprune.report.sweeps import sweep_table
    from kprune.report.sweeps import targets
    from kprune.sweep import finished

    original = load_model(model)
    samples = found.samples(original)
    pairs = [
        None if one is None else (one.x, one.y)
        for one in (samples, found.checked(original, samples))
    ]
    with progress() as bars:
        study = kprune.sweep(
            original,
            None if methods is None else methods.split(","),
            {key: wanted},
            pairs[0],
            pairs[1],
            hours=hours,
            epochs=epochs,
            learning_rate=learning_rate,
            run_dir=run_dir,
            storage=storage,
            name=name,
            seed=seed,
            callbacks=[TrialProgress(bars)],
        )
    if not as_json:
        print_table(sweep_table(study))
    if not finished(study):
        raise ValueError(
            "no trial has finished. The warnings above say why trials failed; if the "
            "time ran out, run the command again with more --hours."
        )
    wrote = [] if out is None else _copy(study, out, (model, *found.files))
    for share in wanted if out else ():
        if {key: share} not in targets(study):
            note(f"no trial has finished with {key}={share:g}: no model for it")
    runs: list[dict[str, Any]] = []
    try:
        runs = summaries(run_dir)
        wrote.append(write_comparison(run_dir, runs))
    except (ImportError, FileNotFoundError) as error:
        note(f"no report was written. {error}")
    if as_json:
        print_json({"runs": runs, "wrote": wrote})
        return
    for path in wrote:
        print(f"wrote {path}")


def _named(out: Path, target: dict[str, float]) -> Path:
    """Return the file for one of several targets."""
    words = "-".join(f"{k}{v:g}" for k, v in target.items())
    return out.with_stem(f"{out.stem}-{words}")


def _copy(
    study: optuna.Study, out: Path, read: Iterable[Path | None]
) -> list[Path]:
    """Copy the best model of each target; return the files.

    Raises:
        ValueError: One would be an input. The study may have further targets.
    """
    from kprune.outputs import atomic_file
    from kprune.report.sweeps import targets
    from kprune.sweep import best_model

    found = targets(study)
    paths = [
        out if len(found) == 1 else _named(out, target) for target in found
    ]
    for path in paths:
        check_not_read(path, read)
    for path, target in zip(paths, found, strict=True):
        with atomic_file(path) as temporary:
            shutil.copyfile(best_model(study, target), temporary)
    return paths
