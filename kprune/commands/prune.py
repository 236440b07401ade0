"""`kprune prune`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated
from typing import Any

import typer

from kprune.commands.choices import ROUNDED
from kprune.commands.choices import check_allocation
from kprune.commands.choices import check_targets_given
from kprune.commands.choices import check_training
from kprune.commands.line import CommandLine
from kprune.commands.needs import check_needs
from kprune.commands.options import FORMS
from kprune.commands.options import NONE
from kprune.commands.options import DataDir
from kprune.commands.options import Debug
from kprune.commands.options import DtypeOption
from kprune.commands.options import ImageSize
from kprune.commands.options import Json
from kprune.commands.options import ModelOut
from kprune.commands.options import Overwrite
from kprune.commands.options import Pixels
from kprune.commands.options import RuntimeOption
from kprune.commands.options import TrainedModel
from kprune.commands.options import Validation
from kprune.commands.options import complete
from kprune.commands.options import known
from kprune.commands.options import listed
from kprune.commands.options import one_line_errors
from kprune.commands.paths import check_inputs
from kprune.commands.paths import check_model_output
from kprune.commands.resume import Resumable
from kprune.commands.samples import find_data
from kprune.commands.start import start_keras
from kprune.commands.targets import check_device
from kprune.commands.targets import device_allocation
from kprune.commands.targets import parse_reduce
from kprune.outputs import check_root

EPOCHS = 20
"""Epochs of training with a method, where none are given."""


Criterion = Annotated[
    str | None,
    typer.Option(
        help=f"How filters are scored: {listed('criteria')}. By default "
        "reconstruction with --data and l1 without, or what the method has.",
        callback=known("criteria"),
        autocompletion=complete("criteria"),
    ),
]
Allocation = Annotated[
    str | None,
    typer.Option(
        help=f"How the cut is shared out: {listed('allocation')}. By default "
        "output_error with --data and global without, or what the method has.",
        callback=known("allocation"),
        autocompletion=complete("allocation"),
    ),
]
RoundTo = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Keep multiples of so many channels in each group, for example 8. "
        f"With the allocations {', '.join(ROUNDED)}.",
    ),
]
LatencyTable = Annotated[
    Path | None,
    typer.Option(
        help="With --reduce latency=...: the table of the device, written by "
        "`kprune latency`. By default that of this machine, which is measured "
        "where it lacks the model."
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        help="Samples to choose filters and repair layers by, to train on with "
        f"--method, and to measure accuracy on: {FORMS}."
    ),
]
Recover = Annotated[
    str | None,
    typer.Option(
        help="How to repair what removing filters breaks, without labels: "
        f"{listed('recovery')}; several with commas, or none. By default "
        "what goes with the criterion: reconstruct, with --data alone.",
        callback=known("recovery", several=True),
        autocompletion=complete("recovery", several=True),
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        help=f"Train with a published method: {listed('recipes')}. Needs --data "
        "with x and y.",
        callback=known("recipes"),
        autocompletion=complete("recipes"),
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        min=1, help=f"Epochs of training with --method; {EPOCHS} by default."
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        help="With --method: a constant learning rate, instead of what the model "
        "was saved with."
    ),
]


RunDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder in which to make a folder for this run: a record, the models "
        "and report.html."
    ),
]


@one_line_errors
def prune(  # noqa: PLR0913  options of a command
    model: TrainedModel,
    out: ModelOut,
    reduce: Annotated[
        list[str] | None,
        typer.Option(
            help="What to remove: macs=0.5, params=0.5, latency=0.5 or ram=0.5 "
            "(the most memory of activations at any moment); once for each. By "
            "default macs=0.5, or what the recipe of --method does.",
            show_default=False,
        ),
    ] = None,
    criterion: Criterion = None,
    allocation: Allocation = None,
    round_to: RoundTo = None,
    latency_table: LatencyTable = None,
    runtime: RuntimeOption = None,
    dtype: DtypeOption = None,
    data: DataOption = None,
    validation: Validation = None,
    data_dir: DataDir = None,
    image_size: ImageSize = None,
    pixels: Pixels = None,
    recover: Recover = None,
    method: Method = None,
    epochs: Epochs = None,
    learning_rate: LearningRate = None,
    run_dir: RunDir = None,
    as_json: Json = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Remove filters from a trained model and write the smaller model.

    Without `--method`, there is no training on labels: pass a few hundred
    unlabelled samples as `--data`, to choose filters and repair layers. With it,
    the model trains on `--data` with the loss and optimizer that it was saved
    with, while filters are removed. If it is interrupted or fails, the same
    command continues from the last saved epoch.

    With labels, the accuracy before and after is shown; without, how often the
    pruned model agrees with the original.

    Example: `kprune prune model.keras small.keras --reduce macs=0.5
    --data photos`

    Example: `kprune prune model.keras small.keras --reduce latency=0.5`

    Example: `kprune prune model.keras small.keras --reduce latency=0.5 --reduce
    ram=0.4 --runtime ethos-u55-128`

    Example: `kprune prune model.keras small.keras --method attenuation
    --data train.npz --epochs 30`
    """
    # Without a target, recipes have their own: some remove no filter.
    target = parse_reduce(*reduce) if reduce else None
    asked = target or {}
    check_training(method, data, epochs, learning_rate)
    check_allocation(asked, method, allocation, round_to, latency_table)
    check_device(asked, method and not allocation, runtime, dtype)
    given = {
        "--reduce": reduce or None,
        "--criterion": criterion,
        "--allocation": allocation,
        "--round-to": round_to,
        "--latency-table": latency_table,
        "--runtime": runtime,
        "--dtype": dtype and dtype.value,
        "--data": data,
        "--validation": validation,
        "--data-dir": data_dir,
        "--image-size": image_size,
        "--pixels": pixels,
        "--recover": recover,
        "--method": method,
        "--epochs": epochs,
        "--learning-rate": learning_rate,
        "--run-dir": run_dir,
        "--overwrite": overwrite or None,
    }
    command = CommandLine(("prune", model, out), given)
    check_inputs(model, latency_table)
    found = find_data(data, validation, data_dir, image_size, pixels)
    check_targets_given(method is not None, found)
    named = {
        "criteria": criterion,
        "allocation": allocation,
        "recovery": recover,
    }
    check_needs(named, found)
    if run_dir is not None:
        check_root(run_dir)
    check_model_output(out, (model, *found.files, latency_table), overwrite)
    resumable = None
    if method is not None:
        begins = [model, *found.files, latency_table]
        resumable = Resumable(
            out, str(command), [path for path in begins if path is not None]
        )
    start_keras()
    from kprune.commands.outcome import advise
    from kprune.commands.outcome import lines_table
    from kprune.commands.outcome import print_json
    from kprune.commands.outcome import print_table
    from kprune.commands.pruning import Pruning
    from kprune.export.formats import check_writable

    chosen: dict[str, Any] = {
        "criterion": criterion,
        "allocation": device_allocation(
            asked, allocation, latency_table, runtime, dtype
        )
        if latency_table or runtime or dtype
        else _allocation(allocation, round_to),
        "recover": None if recover is None else _recover(recover),
    }
    chosen["run_dir"] = run_dir
    parts = {k: v for k, v in chosen.items() if v is not None}
    check_writable(out)
    work = Pruning(model, out, found, command)
    check_writable(out, work.original)
    with contextlib.nullcontext() if resumable is None else resumable.kept():
        masked = work.prune(
            target, parts, method, epochs or EPOCHS, learning_rate, resumable
        )
        result = work.finish(masked)
    if as_json:
        print_json(result.to_dict())
    else:
        print_table(lines_table(result.lines))
        print(f"wrote {out}")
    advise(result.warnings)


def _recover(names: str) -> Any:
    """Return the recovery for `kprune.prune`."""
    parts = [] if names == NONE else names.split(",")
    return parts[0] if len(parts) == 1 else parts


def _allocation(name: str | None, round_to: int | None) -> Any:
    """Return the allocation for `kprune.prune`, None for the default."""
    if round_to is None:
        return name
    from kprune.allocation.base import registry

    return registry.get(name or "global", round_to=round_to)
