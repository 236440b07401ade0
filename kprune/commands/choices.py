"""Checks of incompatible options of `kprune prune`, before Keras is loaded."""

from __future__ import annotations

from pathlib import Path

import typer

from kprune.commands.needs import fewest_epochs
from kprune.commands.samples import Data

ROUNDED = ("global", "similarity", "uniform")
"""Allocations that support `--round-to`."""


def check_targets_given(trains: bool, data: Data) -> None:
    """Raise ValueError if training is requested, but the data has no labels."""
    if trains and data.train is not None and data.train.unlabelled:
        raise ValueError(
            f"{data.train.given!r} has inputs only, but training needs targets "
            'too: a folder for each class, or np.savez("train.npz", x=x, y=y).'
        )


def check_training(
    method: str | None,
    data: Path | None,
    epochs: int | None,
    learning_rate: float | None,
) -> None:
    """Raise typer.BadParameter for incompatible training options."""
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
    if method is not None and epochs is not None:
        fewest = fewest_epochs(method)
        if epochs < fewest:
            raise typer.BadParameter(
                f"--method {method} needs {fewest} epochs or more. Received: {epochs}.",
                param_hint="--epochs",
            )
    given = {"--epochs": epochs, "--learning-rate": learning_rate}
    for option, value in given.items():
        if method is None and value is not None:
            raise typer.BadParameter(
                "there is no training without --method, for example --method "
                "attenuation.",
                param_hint=option,
            )


def check_allocation(
    target: dict[str, float],
    method: str | None,
    allocation: str | None,
    round_to: int | None,
    table: Path | None,
) -> None:
    """Raise typer.BadParameter for incompatible allocation options."""
    if table is not None and "latency" not in target:
        raise typer.BadParameter(
            "a latency table needs --reduce latency=0.5.",
            param_hint="--latency-table",
        )
    option = "--latency-table" if round_to is None else "--round-to"
    if (
        method is not None
        and allocation is None
        and (round_to is not None or table is not None)
    ):
        raise typer.BadParameter(
            f"method {method} has its own allocation; choose another one: "
            f"--allocation {' or '.join(ROUNDED)}.",
            param_hint=option,
        )
    if round_to is None:
        return
    if {"latency", "ram"} & target.keys():
        raise typer.BadParameter(
            "--reduce latency=... and ram=... choose widths by their savings on the "
            "device; omit --round-to.",
            param_hint=option,
        )
    if (allocation or "global") not in ROUNDED:
        raise typer.BadParameter(
            f"received --allocation {allocation}, expected one of "
            f"{', '.join(ROUNDED)}.",
            param_hint=option,
        )
