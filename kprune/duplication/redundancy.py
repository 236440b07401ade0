"""Redundancy of groups of filters, as reported by allocations."""

from __future__ import annotations

import dataclasses

import numpy as np
from rich.table import Table
from rich.text import Text

from kprune.sensitivity import as_text


@dataclasses.dataclass(frozen=True)
class Redundancy:
    """Structural redundancy of all prunable groups.

    A group's redundancy is the share of its filters that can be replaced by copies of
    others without exceeding the common tolerance of the loss. It is the share that is
    removed, the group's compression ratio.

    Args:
        names: Names of the groups.
        sizes: Numbers of filters before, of shape `(groups,)`.
        kept: Numbers of kept filters, of shape `(groups,)`.
        losses: Measured increase of the loss by each group alone, of shape
            `(groups,)`.
        saved: Cost name -> removed share.
    """

    names: tuple[str, ...]
    sizes: np.ndarray
    kept: np.ndarray
    losses: np.ndarray
    saved: dict[str, float]

    @property
    def ratios(self) -> np.ndarray:
        """Redundancies between 0 and 1, of shape `(groups,)`."""
        return 1.0 - self.kept / self.sizes

    def table(self) -> Table:
        """Return a table with a row per group."""
        saved = ", ".join(f"{s:.1%} of the {k}" for k, s in self.saved.items())
        table = Table(title=f"{saved} removed", title_justify="left")
        table.add_column("group", overflow="fold")
        for title in ("filters", "kept", "redundancy", "rise of the loss"):
            table.add_column(title, justify="right", no_wrap=True)
        for row in zip(
            self.names, self.sizes, self.kept, self.ratios, self.losses,
            strict=True,
        ):  # fmt: skip
            name, size, kept, ratio, loss = row
            table.add_row(
                Text(name), str(size), str(kept), f"{ratio:.0%}", f"{loss:.4g}"
            )
        return table

    def __str__(self) -> str:
        return as_text(self.table())
