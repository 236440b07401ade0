"""Average cost of a model with dynamic gates on given samples."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kprune.cost.api import Cost
from kprune.cost.api import LayerCost
from kprune.cost.api import report
from kprune.data.source import as_source
from kprune.graph.values import read
from kprune.masking import DynamicGate
from kprune.masking import acting_gates
from kprune.session.session import Session


def dynamic_cost(masked: keras.Model, data: Any) -> Cost:
    """Return the average cost per sample of a model with dynamic gates.

    For each sample, MACs are counted for channels that are not 0, in all layers
    that write or read them, and for the branches that predict the gates. Only
    kernels that skip channels need so few; ordinary kernels compute all
    channels. All parameters are counted, those of the branches too.

    Args:
        masked: A model with gates from `kprune.masking.add_dynamic_gates`.
        data: Samples. See `kprune.prune`.

    Returns:
        A `kprune.Cost`, with an additional table row per branch.

    Raises:
        ValueError: If the model has no active dynamic gates.

    Example:

    ```python
    print(kprune.dynamic_cost(masked, x_test).macs / kprune.cost(model).macs)
    ```
    """
    found = {
        name: gate
        for name, gate in acting_gates(masked).items()
        if isinstance(gate, DynamicGate)
    }
    if not found:
        raise ValueError(
            f"Model '{masked.name}' has no active dynamic gates, so all samples "
            "cost the same. Use kprune.cost(model)."
        )
    session = Session(masked)
    alive = session.alive()
    kept = _kept(masked, found, alive, data)
    rows = [
        np.full(len(next(iter(kept.values()))), float(alive[g.name].sum()))
        if g.name not in kept
        else kept[g.name]
        for g in session.groups
    ]
    full = report(session.cost_model, np.stack(rows, axis=1))
    branches = [
        LayerCost(
            f"{name} (gate)",
            type(gate).__name__,
            gate.macs,
            gate.count_params(),
            4 * gate.count_params(),
        )
        for name, gate in found.items()
    ]
    table = (*full.table, *branches)
    return Cost(
        sum(row.macs for row in table),
        sum(row.params for row in table),
        sum(row.bytes for row in table),
        table,
    )


def _kept(
    masked: keras.Model,
    found: dict[str, DynamicGate],
    alive: dict[str, np.ndarray],
    data: Any,
) -> dict[str, np.ndarray]:
    """Return each group's number of open channels per sample: `(samples,)`."""
    counts: dict[str, list[np.ndarray]] = {name: [] for name in found}
    last: dict[str, Any] = {}

    def keep(name: str) -> Any:
        return lambda values: last.__setitem__(name, values)

    try:
        for name, gate in found.items():
            gate.observer = keep(name)
        for x, *_ in as_source(data, masked).batches():
            masked(x, training=False)
            for name, values in last.items():
                open_ = (read(values) > 0) & alive[name]
                counts[name].append(open_.sum(axis=1))
    finally:
        for gate in found.values():
            gate.observer = None
    return {name: np.concatenate(each) for name, each in counts.items()}
