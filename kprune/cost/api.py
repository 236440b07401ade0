"""cost(): the cost of a model, or of the compact version of a masked one."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any

import keras
import numpy as np

from kprune.arguments import model as check_model
from kprune.cost.model import CostModel
from kprune.display import Displayed
from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.tracer import trace
from kprune.masking.dynamic import DynamicGate
from kprune.masking.gating import acting_gates
from kprune.masking.wrapping import is_masked
from kprune.masking.wrapping import masks


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """Cost of one layer.

    Args:
        name: Layer name.
        kind: Layer class name.
        macs: Multiply-accumulates per sample, over all calls.
        params: Number of weights.
        bytes: Bytes of the weights.
    """

    name: str
    kind: str
    macs: int
    params: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Cost(Displayed):
    """Cost of a model.

    Args:
        macs: Multiply-accumulates per sample.
        params: Number of weights, including non-trainable ones.
        bytes: Bytes of the weights in their own data types.
        table: One `LayerCost` per layer with any cost.
        note: Limitations of the figures, for example because of open gates.
    """

    macs: int
    params: int
    bytes: int
    table: tuple[LayerCost, ...]
    note: str = ""

    def __str__(self) -> str:
        rows = [("layer", "class", "MACs", "params", "bytes")]
        rows += [
            (r.name, r.kind, f"{r.macs:,}", f"{r.params:,}", f"{r.bytes:,}")
            for r in self.table
        ]
        macs, params, size = (
            f"{self.macs:,}",
            f"{self.params:,}",
            f"{self.bytes:,}",
        )
        rows.append(("total", "", macs, params, size))
        widths = [max(len(row[c]) for row in rows) for c in range(5)]
        lines = [
            "  ".join(
                cell.ljust(w) if c < 2 else cell.rjust(w)
                for c, (cell, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, *textwrap.wrap(self.note, 80)])


def cost(model: keras.Model, graph: ChannelGraph | None = None) -> Cost:
    """Count MACs, parameters and bytes.

    MACs (multiply-accumulates) are counted for layers with kernels, as in the
    literature: `Hout x Wout x kh x kw x cin x cout / groups` for a convolution. One MAC
    is two FLOPs. Unknown spatial sizes count as 1.

    Args:
        model: A functional `keras.Model`. For a masked model, the cost is that of its
            compact version, which is not built. All channels with open gates are
            counted, as `note` says; for gates that depend on the sample, see
            `kprune.dynamic_cost`.
        graph: `kprune.trace(model)`, if you have it already.

    Returns:
        A `Cost` with `.macs`, `.params`, `.bytes` and a per-layer `.table`.

    Example:

    ```python
    before = kprune.cost(model)
    after = kprune.cost(masked)
    print(f"{1 - after.macs / before.macs:.1%} fewer MACs")
    ```
    """
    check_model(model, "cost()")
    graph = graph or trace(model)
    costs = CostModel(graph)
    kept = costs.sizes
    if is_masked(model):
        vectors = masks(model, graph)
        kept = np.array([(vectors[g.name] > 0).sum() for g in graph.prunable])
    found = report(costs, kept)
    return dataclasses.replace(found, note=gates_note(model))


def gates_note(model: keras.Model) -> str:
    """Return a note on the cost of a model with open gates, or an empty string.

    Args:
        model: Any model.
    """
    if not is_masked(model):
        return ""
    open_ = acting_gates(model).values()
    if any(isinstance(gate, DynamicGate) for gate in open_):
        return (
            "Gates that depend on the sample are open: all channels are counted, the "
            "branches that predict the gates are not. kprune.dynamic_cost(model, data) "
            "returns the average MACs per sample."
        )
    if open_:
        return (
            "Gates are open: all of their channels are counted. "
            "kprune.masking.close_gates(model) turns them into masks."
        )
    return ""


def report(costs: CostModel, kept: np.ndarray) -> Cost:
    """Return the costs of a model for given kept counts.

    Args:
        costs: The cost model.
        kept: Kept counts of shape `(groups,)`; or of shape `(n, groups)` for the mean
            MACs over `n` cases, with the weights of the whole model.
    """
    lengths = costs.lengths(kept)
    macs = costs.macs.each(lengths)
    if kept.ndim > 1:
        macs, lengths = macs.mean(axis=0), costs.lengths(costs.sizes)
    params = costs.params.each(lengths)
    sizes = params * costs.itemsizes
    rows: dict[int, list[Any]] = {}
    for owner, count, size in zip(
        costs.params.owners, params, sizes, strict=True
    ):
        row = rows.setdefault(id(owner), [owner, 0.0, 0.0, 0.0])
        row[2] += count
        row[3] += size
    for owner, value in zip(costs.macs.owners, macs, strict=True):
        rows.setdefault(id(owner), [owner, 0.0, 0.0, 0.0])[1] += value
    table = tuple(
        LayerCost(o.name, type(o).__name__, round(m), round(p), round(b))
        for o, m, p, b in rows.values()
    )
    return Cost(
        sum(row.macs for row in table),
        sum(row.params for row in table),
        sum(row.bytes for row in table),
        table,
    )
