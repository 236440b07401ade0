"""What a model with dynamic gates costs, on the average of given samples."""

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
    """Count what the samples cost on the average, in a model with dynamic gates.

    MACs are those of the channels that are not 0, sample by sample, in all layers
    that write or read them, and of the branches that predict them. They are what
    kernels that skip channels would compute; ordinary ones compute everything.
    Parameters are all there are, those of the branches included.

    Args:
        masked: A model made by `kprune.masking.add_dynamic_gates`.
        data: Samples. See `kprune.prune`.

    Returns:
        A `kprune.Cost`. Its table has one row more for each branch.

    Raises:
        ValueError: The model has no dynamic gates that act.

    Example:

    ```python
    print(dynamic_cost(masked, x_test).macs / kprune.cost(model).macs)
    ```
    """
    found = {
        name: gate
        for name, gate in acting_gates(masked).items()
        if isinstance(gate, DynamicGate)
    }
    if not found:
        raise ValueError(
            f"Model '{masked.name}' costs the same for all samples: it has no "
            "dynamic gates. Use kprune.cost(model)."
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
    """Return by group how many channels each sample needs: `(samples,)`."""
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
