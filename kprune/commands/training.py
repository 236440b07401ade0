"""Train a model that comes from a file."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING
from typing import Any

import keras

from kprune.commands.files import load_model
from kprune.commands.resume import Resumable
from kprune.commands.samples import note
from kprune.data import batches
from kprune.data.needs import require_any_batch
from kprune.data.targets import check_targets
from kprune.outputs import atomic_file
from kprune.report.progress import FitProgress
from kprune.runs import folder_of

if TYPE_CHECKING:
    from rich.progress import Progress

    from kprune.recipes import Recipe

BATCH_SIZE = 64

COUNTED = 1024
"""Number of samples for measuring a cost that depends on them."""


def train(
    model: keras.Model,
    recipe: Recipe,
    bars: Progress,
    resumable: Resumable,
    learning_rate: float | None = None,
) -> keras.Model:
    """Train a model with a recipe, on the samples of the recipe.

    Args:
        model: Compiled model.
        recipe: From `kprune.recipe`, with `data=(x, y)`.
        bars: Display for the progress.
        resumable: Where to keep the state after each epoch.
        learning_rate: A constant learning rate, for which the optimizer is created
            again. None keeps the optimizer and its state.

    Returns:
        The masked model, trained and pruned. Gates that depend on the sample are
        averaged, so that the model can be rebuilt.

    Raises:
        ValueError: The model has no loss, or there are no targets that it takes.

    Example:

    ```python
    recipe = kprune.recipe("attenuation", data=(x, y), epochs=20)
    with progress() as bars:
        masked = train(model, recipe, bars, Resumable(out, command))
    ```
    """
    from kprune.cost.api import cost
    from kprune.masking import DynamicGate
    from kprune.masking import acting_gates
    from kprune.masking import close_gates
    from kprune.masking.rates import rate_for_fine_tuning
    from kprune.runs.measure import not_finite
    from kprune.session import dynamic_cost

    if resumable.trained.exists():
        return load_model(resumable.trained)
    x, y = recipe.data
    if y is None:
        raise ValueError(
            "--data holds only inputs, but training needs targets too: "
            'np.savez("train.npz", x=x, y=y).'
        )
    if not model.compiled or model.loss is None:
        raise ValueError(
            f"Model '{model.name}' was saved without a loss and an optimizer to "
            "train with. Call model.compile(optimizer, loss) and "
            'model.save("model.keras") again, or train in Python: see docs/methods.'
        )
    check_targets(y, model, None, "--data")
    require_any_batch(model, x)
    if learning_rate is not None:
        compile_with_rate(model, learning_rate)
    better = rate_for_fine_tuning(model.optimizer)
    if better is not None and learning_rate is None:
        note(
            f"the model was saved with a learning rate of "
            f"{float(model.optimizer.learning_rate):.2g}, too low to train with; "
            f"try --learning-rate {better:g}"
        )
    masked = recipe.prepare(model)
    bar = FitProgress(bars, recipe.name, ("loss", "pruned_macs"))
    masked.fit(
        batches(x, y, BATCH_SIZE, shuffle=True),
        epochs=recipe.epochs,
        callbacks=[*recipe.callbacks, _Backup(str(resumable.backup)), bar],
        verbose=0,
        shuffle=False,
    )
    lost = not_finite(masked)
    if lost is not None:
        resumable.remove()  # There is nothing to continue from.
        raise ValueError(lost)
    open_ = acting_gates(masked).values()
    if any(isinstance(gate, DynamicGate) for gate in open_):
        few = keras.tree.map_structure(lambda values: values[:COUNTED], x)
        share = 1 - dynamic_cost(masked, few).macs / cost(model).macs
        note(
            f"with gates, samples took {share:.1%} fewer MACs on average; the model "
            "that is written is static"
        )
    if open_:
        close_gates(masked)
    record = folder_of(masked)
    if record is not None:
        resumable.keep_record(record)
    with contextlib.suppress(Exception):  # Custom layers may lack a get_config.
        with atomic_file(resumable.trained) as file:
            masked.save(file)
    return masked


def compile_with_rate(model: keras.Model, rate: float) -> None:
    """Compile a model again, with a constant learning rate.

    Optimizers inside others, such as those of a `MultiOptimizer`, all get this rate.

    Args:
        model: Compiled model.
        rate: The learning rate.

    Raises:
        ValueError: The optimizer has no learning rate.
    """
    config = model.get_compile_config()
    if not _set_rate(config["optimizer"], rate):
        raise ValueError(
            f"The optimizer of model '{model.name}', "
            f"{type(model.optimizer).__name__}, has no `learning_rate` in its "
            "configuration: omit --learning-rate."
        )
    model.compile_from_config(config)


def _set_rate(config: Any, rate: float) -> bool:
    """Set each learning rate in a configuration; return whether there was one."""
    found = False
    if isinstance(config, list | tuple):
        return any([_set_rate(one, rate) for one in config])
    if isinstance(config, dict):
        if "learning_rate" in config:
            config["learning_rate"], found = rate, True
        found |= any([_set_rate(one, rate) for one in config.values()])
    return found


class _Backup(keras.callbacks.BackupAndRestore):
    """Saves the state after each epoch but the last.

    The last epoch is not saved: callbacks finish their work when training ends, so
    a run that breaks off before that has to repeat the last epoch.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(folder, delete_checkpoint=False)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch + 1 < self.params["epochs"]:
            super().on_epoch_end(epoch, logs)
