"""The command `kprune demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kprune.commands.options import Debug
from kprune.commands.options import Json
from kprune.commands.options import one_line_errors
from kprune.commands.start import start_keras
from kprune.outputs import check_folder


@one_line_errors
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path(
        "kprune-demo"
    ),
    seed: Annotated[
        int,
        typer.Option(
            min=0, help="Seed of the split, the weights and the order."
        ),
    ] = 0,
    reduce: Annotated[
        float,
        typer.Option(help="Share of the MACs to remove, between 0 and 1."),
    ] = 0.6,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Train for 2 + 2 epochs only, to try the installation.",
        ),
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train, prune, rebuild and export a small network, in about a minute.

    Uses handwritten digits that come with scikit-learn, so nothing is
    downloaded. Prints accuracy, size and latency before and after.

    Example: `kprune demo --reduce 0.7 --out my-demo`
    """
    if not 0 < reduce < 1:
        raise typer.BadParameter(
            f"received {reduce}, expected the share of the MACs to remove, above 0 "
            "and below 1.",
            param_hint="--reduce",
        )
    check_folder(out)
    start_keras()
    from rich.console import Console

    from kprune.report.demo import DemoSettings
    from kprune.report.demo import run_demo
    from kprune.report.deployment import print_result

    settings = DemoSettings(reduce=reduce, seed=seed)
    if quick:
        settings = DemoSettings(reduce, seed, epochs=2, tune_epochs=2)
    result = run_demo(out, settings)
    if as_json:
        import dataclasses

        from kprune.commands.outcome import print_json

        rows = [dataclasses.asdict(row) for row in result.evaluation.rows]
        facts = {
            "equality": result.deployment.equality,
            "untrained": result.one_shot,
        }
        print_json({"models": rows, **facts})
        return
    console = Console()
    print_result(console, result.evaluation, result.deployment)
    console.print(
        f"the same pruning without training: {100 * result.one_shot:.2f} % test "
        "accuracy",
        highlight=False,
    )
