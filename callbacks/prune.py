"""Hard, iterative pruning."""

from __future__ import annotations

from kprune.callbacks.base import PruningCallback
from kprune.session import Session


class PruneCallback(PruningCallback):
    """Removes filters for good while a wrapped model trains.

    At the beginning of each scheduled epoch the filters that matter least are
    removed, until the scheduled share of the target is reached; then training
    goes on without them. Their weights and optimizer slots are 0 from then on.
    `logs` of each epoch hold `pruned_macs` and `pruned_params`, and where it is
    reduced `pruned_latency`: the shares removed, for `History`, `CSVLogger`,
    `TensorBoard` and monitors. List this callback before those that read them,
    and after those that restore weights, such as `EarlyStopping`.

    Args:
        criterion: How much a filter matters: `"l1"`, `"taylor"` or another of
            `kprune.criteria.names()`, an object of `kprune.criteria`, or a
            function `f(group) -> scores (group.size,)`, larger = keep.
        reduce: Share of each cost to remove, counted against the unpruned
            model: `{"macs": 0.5}`, `{"params": 0.4}`, `{"latency": 0.5}` or
            several. Latency is that of operators measured on this machine, or
            on a device whose table `kprune.latency.Latency` is given as
            `allocation`. By default half of the MACs, or what a dictionary as
            `allocation` says.
        schedule: `"one_shot"`, `"linear"`, `"polynomial"`, an object of
            `kprune.schedules`, or a function `f(epoch) -> share of the
            target`. By default cubic over the first two thirds of the epochs.
        allocation: How many filters each group keeps: `"global"`,
            `"uniform"`, a dictionary `{group name: share to remove}`, an
            object of `kprune.allocation`, or a function
            `f(scores) -> priorities`.
        data: Samples for criteria, allocations and repairs that run the
            model: arrays `x` or `(x, y)`, a `tf.data.Dataset`, a
            `keras.utils.PyDataset` or a generator.
        recover: How to repair the layers that stay, each time that filters
            have gone, before training goes on. See `kprune.prune`.
        run_dir: See `PruningCallback`.

    Without `data`, criterion, allocation and recovery that are not set are
    `"l1"`, `"global"` and none; with `data` they are what `kprune.prune`
    chooses. Each round takes the time of a `kprune.prune` then (see
    `docs/one_shot.md`), so give it a schedule of few rounds.

    Raises:
        ValueError: When `fit` begins: the model is not wrapped, has no
            prunable channel or no loss, or the target is out of reach.

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
