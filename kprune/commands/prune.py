"""`kprune prune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated
from typing import Any

import typer

from kprune.commands.options import NONE
from kprune.commands.options import Debug
from kprune.commands.options import Overwrite
from kprune.commands.options import known
from kprune.commands.options import listed
from kprune.commands.options import one_line_errors
from kprune.commands.paths import check_inputs
from kprune.commands.paths import check_model_output
from kprune.commands.start import start_keras

if TYPE_CHECKING:
    import keras

KEYS = ("macs", "params", "latency")

ROUNDED = ("global", "similarity", "uniform")
"""Allocations that `--round-to` goes with."""

EPOCHS = 20
"""Epochs of training with a method."""


def parse_reduce(text: str) -> dict[str, float]:
    """Read `macs=0.5` into `{"macs": 0.5}`.

    Args:
        text: Quantity and removed share, joined by `=`.

    Returns:
        Dictionary for the argument `reduce` of `kprune.prune`.

    Raises:
        typer.BadParameter: The text does not read like that.

    Example:

    ```python
    parse_reduce("macs=0.5")  # {"macs": 0.5}
    ```
    """
    key, _, value = text.partition("=")
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if key not in KEYS or not 0 < share < 1:
        raise typer.BadParameter(
            f"received {text!r}, expected the share to remove, above 0 and below "
            "1: macs=0.5, params=0.5 or latency=0.5.",
            param_hint="--reduce",
        )
    return {key: share}


Criterion = Annotated[
    str | None,
    typer.Option(
        help=f"How filters are scored: {listed('criteria')}. By default "
        "reconstruction with --data and l1 without, or what the method has.",
        callback=known("criteria"),
    ),
]
Allocation = Annotated[
    str | None,
    typer.Option(
        help=f"How the cut is shared out: {listed('allocation')}. By default "
        "output_error with --data and global without, or what the method has.",
        callback=known("allocation"),
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
Data = Annotated[
    Path | None,
    typer.Option(
        help="Samples for --method, and to choose filters and repair layers by: "
        ".npz with x (and y, for a method), or .npy."
    ),
]
Recover = Annotated[
    str | None,
    typer.Option(
        help="How to repair what removing filters breaks, without labels: "
        f"{listed('recovery')}; several with commas, or none. By default "
        "what goes with the criterion: reconstruct, with --data alone.",
        callback=known("recovery", several=True),
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        help=f"Train with a published method: {listed('recipes')}. Needs --data "
        "with x and y.",
        callback=known("recipes"),
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
    model: Annotated[
        Path, typer.Argument(help="Trained model, a .keras file.")
    ],
    out: Annotated[
        Path, typer.Argument(help="File to write: .keras, .tflite or .onnx.")
    ],
    reduce: Annotated[
        str,
        typer.Option(
            help="What to remove: macs=0.5, params=0.5 or latency=0.5."
        ),
    ] = "macs=0.5",
    criterion: Criterion = None,
    allocation: Allocation = None,
    round_to: RoundTo = None,
    latency_table: LatencyTable = None,
    data: Data = None,
    recover: Recover = None,
    method: Method = None,
    epochs: Epochs = None,
    learning_rate: LearningRate = None,
    run_dir: RunDir = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Remove filters from a trained model and write the smaller model.

    Without `--method` there is no training on labels: give some hundred
    unlabelled samples as `--data`, by which filters are chosen and layers
    repaired. With it the model trains on `--data`, by the loss and optimizer it
    was saved with, while filters go.

    Example: `kprune prune model.keras small.keras --reduce macs=0.5
    --data images.npy`

    Example: `kprune prune model.keras small.keras --reduce latency=0.5`

    Example: `kprune prune model.keras small.keras --method attenuation
    --data train.npz --epochs 30`
    """
    target = parse_reduce(reduce)
    _check_options(method, data, epochs, learning_rate)
    _check_allocation(target, method, allocation, round_to, latency_table)
    inputs = (model, data, latency_table)
    check_inputs(*inputs)
    check_model_output(out, inputs, overwrite)
    start_keras()
    import kprune
    from kprune.commands.arrays import load_arrays
    from kprune.commands.files import load_model
    from kprune.commands.training import train
    from kprune.export.formats import check_writable
    from kprune.pruning import WITH_DATA
    from kprune.pruning import WITHOUT_DATA
    from kprune.report.progress import progress
    from kprune.report.progress import step

    best = data is not None and criterion in (None, WITH_DATA.criterion)
    default = (WITH_DATA if best else WITHOUT_DATA).allocation
    chosen: dict[str, Any] = {
        "criterion": criterion,
        "allocation": _allocation(allocation, round_to, latency_table, default),
        "recover": None if recover is None else _recover(recover),
    }
    chosen["run_dir"] = run_dir
    parts = {k: v for k, v in chosen.items() if v is not None}
    check_writable(out)
    with progress() as bars:
        with step(bars, "loading"):
            original = load_model(model)
            x, y = (None, None) if data is None else load_arrays(data)
        if method is None:
            with step(bars, "pruning"):
                samples = x if y is None else (x, y)
                masked = kprune.prune(
                    original, reduce=target, data=samples, **parts
                )
        else:
            epochs = epochs or EPOCHS
            recipe = kprune.recipe(method, target, (x, y), epochs, **parts)
            masked = train(original, recipe, bars, learning_rate)
        with step(bars, "rebuilding"):
            compact = kprune.rebuild(masked)
        with step(bars, f"writing {out.name}"):
            kprune.export(compact, out)
    _print({"original": (original, model), out.name: (compact, out)})
    print(f"wrote {out}")


def _print(written: dict[str, tuple[keras.Model, Path]]) -> None:
    """Print a table of models and their files."""
    from rich.console import Console

    import kprune
    from kprune.export.sizes import path_size
    from kprune.report.rows import Row
    from kprune.report.rows import rows_table

    rows = []
    for name, (network, path) in written.items():
        cost = kprune.cost(network)
        rows.append(
            Row(name, cost.macs, cost.params, bytes=path_size(path).plain)
        )
    Console().print(rows_table(rows))


def _check_options(
    method: str | None,
    data: Path | None,
    epochs: int | None,
    learning_rate: float | None,
) -> None:
    """Raise typer.BadParameter for options that do not go together."""
    if method is not None and data is None:
        raise typer.BadParameter(
            "training needs samples with targets: --data train.npz, written by "
            'np.savez("train.npz", x=x, y=y).',
            param_hint="--method",
        )
    if learning_rate is not None and not learning_rate > 0:
        raise typer.BadParameter(
            f"received {learning_rate}, expected a number above 0.",
            param_hint="--learning-rate",
        )
    given = {"--epochs": epochs, "--learning-rate": learning_rate}
    for option, value in given.items():
        if method is None and value is not None:
            raise typer.BadParameter(
                "there is no training without --method, for example --method "
                "attenuation.",
                param_hint=option,
            )


def _check_allocation(
    target: dict[str, float],
    method: str | None,
    allocation: str | None,
    round_to: int | None,
    table: Path | None,
) -> None:
    """Raise typer.BadParameter for allocations that cannot be made."""
    if table is not None and "latency" not in target:
        raise typer.BadParameter(
            "a table of latencies is used with --reduce latency=0.5.",
            param_hint="--latency-table",
        )
    option = "--latency-table" if round_to is None else "--round-to"
    if (
        method is not None
        and allocation is None
        and (round_to is not None or table is not None)
    ):
        raise typer.BadParameter(
            f"method {method} has an allocation of its own; say which one to use "
            f"instead: --allocation {' or '.join(ROUNDED)}.",
            param_hint=option,
        )
    if round_to is None:
        return
    if "latency" in target:
        raise typer.BadParameter(
            "--reduce latency=... chooses widths by the steps that were measured; "
            "leave --round-to out.",
            param_hint=option,
        )
    if (allocation or "global") not in ROUNDED:
        raise typer.BadParameter(
            f"received --allocation {allocation}, expected one of "
            f"{', '.join(ROUNDED)}.",
            param_hint=option,
        )


def _recover(names: str) -> Any:
    """Return the recovery for `kprune.prune`."""
    parts = [] if names == NONE else names.split(",")
    return parts[0] if len(parts) == 1 else parts


def _allocation(
    name: str | None, round_to: int | None, table: Path | None, default: str
) -> Any:
    """Return the allocation for `kprune.prune`, None for the default."""
    if round_to is not None:
        from kprune.allocation.base import registry

        return registry.get(name or "global", round_to=round_to)
    if table is not None:
        from kprune.latency import Latency

        return Latency(table, name or default)
    return name
