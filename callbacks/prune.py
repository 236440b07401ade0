"""Hard, iterative pruning."""

from __future__ import annotations

from kprune.callbacks.base import PruningCallback
from kprune.session import Session


class PruneCallback(PruningCallback):
    """Removes filters permanently while a wrapped model trains.

    At the beginning of each scheduled epoch, the least important filters are removed,
    until the scheduled share of the target is reached; then training continues without
    them. Their weights and optimizer slots stay 0. The `logs` of each epoch contain the
    removed shares `pruned_macs`, `pruned_params` and, if latency is reduced,
    `pruned_latency`, for `History`, `CSVLogger`, `TensorBoard` and monitors. List this
    callback before those that read them, and after those that restore weights, such as
    `EarlyStopping`.

    Args:
        criterion: The criterion that scores filters: `"l1"`, `"taylor"` or another of
            `kprune.criteria.names()`, an object of `kprune.criteria`, or a function
            `f(group)` that returns scores of shape `(group.size,)`. Filters with
            larger scores are more important.
        reduce: Share of each cost to remove, relative to the unpruned model:
            `{"macs": 0.5}`, `{"params": 0.4}`, `{"latency": 0.5}` or several. Latency
            is the sum over operators measured on this machine, or on the device whose
            table is given with `allocation=kprune.latency.Latency(...)`. Defaults to
            half of the MACs, or to no target if `allocation` is a dictionary.
        schedule: `"one_shot"`, `"linear"`, `"polynomial"`, an object of
            `kprune.schedules`, or a function `f(epoch) -> share of the target`.
            Defaults to cubic over the first two thirds of the epochs.
        allocation: How many filters each group keeps: `"global"`, `"uniform"`, a
            dictionary `{group name: share to remove}`, an object of
            `kprune.allocation`, or a function `f(scores) -> priorities`.
        data: Samples for criteria, allocations and repairs that run the model: arrays
            `x` or `(x, y)`, a `tf.data.Dataset`, a `keras.utils.PyDataset` or a
            generator.
        recover: How to repair the kept layers every time filters were removed, before
            training continues. See `kprune.prune`.
        run_dir: See `PruningCallback`.

    Without `data`, the defaults are `"l1"`, `"global"` and no repair; with `data`, they
    are those of `kprune.prune`. Then each round takes as long as `kprune.prune` (see
    `docs/one_shot.md`), so use a schedule with few rounds.

    Raises:
        ValueError: When `fit` begins, if the model is not wrapped, has no prunable
            channel or no loss, or if the target is out of reach.

    Example:

    ```python
    masked = kprune.wrap(model)
    masked.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    masked.fit(train, epochs=30, callbacks=[
        PruneCallback(
            criterion="l1",
            reduce={"macs": 0.5},
            schedule=kprune.Polynomial(begin=2, end=20),
        )
    ])
    compact = kprune.rebuild(masked)
    ```
    """

    def act(self, session: Session, fraction: float) -> None:
        self.remove(self.choose(fraction))
