"""Parse the targets of `kprune prune`, and choose the allocation for a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from kprune.arguments import suggestion
from kprune.commands.choices import ROUNDED
from kprune.commands.options import Dtype

KEYS = ("macs", "params", "latency", "ram")


def parse_reduce(*texts: str) -> dict[str, float]:
    """Parse `macs=0.5` into `{"macs": 0.5}`.

    Args:
        *texts: Quantity and share to remove, joined by `=`.

    Returns:
        Dictionary for the argument `reduce` of `kprune.prune`.

    Raises:
        typer.BadParameter: A text has another form, or two name the same quantity.

    Example:

    ```python
    parse_reduce("latency=0.5", "ram=0.4")  # {"latency": 0.5, "ram": 0.4}
    ```
    """
    found: dict[str, float] = {}
    for text in texts:
        key, _, value = text.partition("=")
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if key not in KEYS or not 0 < share < 1:
            hint = "" if key in KEYS else suggestion(key, KEYS)
            raise typer.BadParameter(
                f"received {text!r}. {hint}Expected the share to remove, above 0 and "
                "below 1: macs=0.5, params=0.5, latency=0.5 or ram=0.5.",
                param_hint="--reduce",
            )
        if key in found:
            raise typer.BadParameter(
                f"received {key} twice, {found[key]} and {share}.",
                param_hint="--reduce",
            )
        found[key] = share
    return found


def check_device(
    target: dict[str, float],
    own: object,
    runtime: str | None,
    dtype: Dtype | None,
) -> None:
    """Raise typer.BadParameter if an option for a device has no effect.

    Args:
        target: Shares to remove.
        own: Whether the method has an allocation of its own.
        runtime: Option `--runtime`.
        dtype: Option `--dtype`.
    """
    given = {"--runtime": runtime, "--dtype": dtype}
    for option, value in given.items():
        if value is not None and own:
            raise typer.BadParameter(
                "the method has its own allocation; choose another one: "
                f"--allocation {' or '.join(ROUNDED)}.",
                param_hint=option,
            )
        if value is not None and not {"latency", "ram"} & target.keys():
            raise typer.BadParameter(
                "a device is only used with --reduce latency=0.5 or ram=0.5.",
                param_hint=option,
            )


def device_allocation(
    target: dict[str, float],
    name: str | None,
    table: Path | None,
    runtime: str | None,
    dtype: Dtype | None,
) -> Any:
    """Return the allocation for targets on a device. See `device_aware`."""
    from kprune.allocation import Ram
    from kprune.latency import Latency

    number_format = dtype.value if dtype else None
    if "latency" in target:
        return Latency(table, name, number_format, None, runtime)
    return Ram(number_format or "int8", runtime, name)
