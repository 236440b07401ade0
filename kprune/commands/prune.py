"""`kprune prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kprune.commands.options import Debug
from kprune.commands.options import one_line_errors
from kprune.commands.start import start_keras

KEYS = ("macs", "params")


def parse_reduce(text: str) -> dict[str, float]:
    """Reads `macs=0.5` into `{"macs": 0.5}`.

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
            "1: macs=0.5 or params=0.5.",
            param_hint="--reduce",
        )
    return {key: share}


@one_line_errors
def prune(
    model: Annotated[
        Path, typer.Argument(help="Trained model, a .keras file.")
    ],
    out: Annotated[
        Path, typer.Argument(help="File to write: .keras, .tflite or .onnx.")
    ],
    reduce: Annotated[
        str, typer.Option(help="What to remove: macs=0.5 or params=0.5.")
    ] = "macs=0.5",
    criterion: Annotated[
        str,
        typer.Option(
            help="How filters are scored: l1, l2, bn_scale, fpgm, ..."
        ),
    ] = "l1",
    allocation: Annotated[
        str, typer.Option(help="How the cut is shared out: global or uniform.")
    ] = "global",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Samples for criteria that need them (taylor, activation, "
            "apoz): .npz with x and y, or .npy."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Remove filters from a trained model and write the smaller model.

    There is no training: fine-tune the result, or prune while training with
    `kprune.callbacks.PruneCallback`.

    Example: `kprune prune model.keras small.keras --reduce macs=0.5`
    """
    target = parse_reduce(reduce)
    start_keras()
    from rich.console import Console

    import kprune
    from kprune.commands.files import load_arrays
    from kprune.commands.files import load_model
    from kprune.export.report import path_size
    from kprune.report.progress import progress
    from kprune.report.progress import step
    from kprune.report.rows import Row
    from kprune.report.rows import rows_table

    with progress() as bars:
        with step(bars, "loading"):
            original = load_model(model)
            x, y = (None, None) if data is None else load_arrays(data)
        with step(bars, "pruning"):
            masked = kprune.prune(
                original,
                criterion=criterion,
                reduce=target,
                allocation=allocation,
                data=x if y is None else (x, y),
            )
        with step(bars, "rebuilding"):
            compact = kprune.rebuild(masked)
        with step(bars, f"writing {out.name}"):
            kprune.export(compact, out)
    rows = []
    for name, network, path in (
        ("original", original, model),
        (out.name, compact, out),
    ):
        cost = kprune.cost(network)
        rows.append(Row(name, cost.macs, cost.params, bytes=path_size(path)))
    console = Console()
    console.print(rows_table(rows))
    console.print(f"wrote {out}", highlight=False, markup=False, soft_wrap=True)
