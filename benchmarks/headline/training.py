"""Training that resumes from a checkpoint."""

from __future__ import annotations

import dataclasses
import json
from concurrent import futures
from pathlib import Path
from typing import Any

import common
import data
import keras
import numpy as np
from points import TEMPERATURE
from points import Setting

CLASSES = 10
AHEAD = 4
"""Batches to prefetch on backends other than TensorFlow."""


@dataclasses.dataclass
class Progress:
    """The progress of a run, which a checkpoint stores with the variables.

    Args:
        setting: Setting of the run. Only a run with the same one resumes.
        epoch: Number of finished epochs.
        rows: Figures of each finished epoch.
        pruned: Figures of the compact network before it trains; `None` until all
            filters are removed.
    """

    setting: dict[str, Any]
    epoch: int = 0
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    pruned: dict[str, Any] | None = None

    def add(self, row: dict[str, Any]) -> None:
        """Add the figures of a finished epoch."""
        self.rows.append(row)
        self.epoch += 1


class Checkpoint:
    """The last state of a run: one file in a folder, replaced atomically.

    Args:
        folder: Folder of the file. It also holds `compact.keras`, the compact
            network before training, from which the structure is read.
    """

    def __init__(self, folder: Path) -> None:
        self.compact = folder / "compact.keras"
        self.state = folder / "state.npz"

    def progress(self, setting: dict[str, Any]) -> Progress:
        """Return the progress of the run; raise if it has another setting."""
        if not self.state.exists():
            return Progress(setting)
        with np.load(self.state, allow_pickle=False) as arrays:
            found = Progress(**json.loads(str(arrays["progress"])))
        if found.setting != json.loads(json.dumps(setting)):
            raise ValueError(
                f"{self.state} was made with other options. Remove it to start again, "
                "or use another folder as --checkpoints."
            )
        return found

    def save(self, model: keras.Model, progress: Progress) -> None:
        """Write the variables of a compiled model and of its optimizer."""
        arrays = {
            f"{name}_{n}": keras.ops.convert_to_numpy(variable)
            for name, variables in _variables(model).items()
            for n, variable in enumerate(variables)
        }
        record = json.dumps(dataclasses.asdict(progress))
        with common.replacing(self.state) as path:
            np.savez(path, progress=np.array(record), **arrays)

    def restore(self, model: keras.Model) -> None:
        """Assign the saved values to the variables, if any were saved."""
        if not self.state.exists():
            return
        with np.load(self.state, allow_pickle=False) as arrays:
            for name, variables in _variables(model).items():
                for n, variable in enumerate(variables):
                    variable.assign(arrays[f"{name}_{n}"])


def _variables(model: keras.Model) -> dict[str, list[keras.Variable]]:
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return {"weight": model.weights, "slot": model.optimizer.variables}


def with_teacher(
    compact: keras.Model, teacher: keras.Model, one_hot: bool
) -> keras.Model:
    """Return a compiled model that also learns from a teacher.

    Args:
        compact: The compiled model to train. Its optimizer is used.
        teacher: The teacher. It is frozen but not changed otherwise.
        one_hot: Whether labels are vectors.
    """
    # By an object: given the name of this loss, Keras compares the logits themselves.
    softened = keras.distillation.LogitsDistillation(
        TEMPERATURE, keras.losses.KLDivergence()
    )
    distiller = keras.distillation.Distiller(teacher, compact, softened)
    losses = keras.losses
    kind = (
        losses.CategoricalCrossentropy
        if one_hot
        else losses.SparseCategoricalCrossentropy
    )
    distiller.compile(
        compact.optimizer,
        kind(from_logits=True),
        metrics=["accuracy"],
        jit_compile=compact.jit_compile,
    )
    return distiller


def epoch_batches(
    images: data.Images, setting: Setting, seed: int, epoch: int
) -> Any:
    """Return the batches of one epoch, which depend only on the seed and the epoch."""
    rng = np.random.default_rng([seed, epoch])
    batches = data.training(images, setting, int(rng.integers(2**31)))
    shares = None
    if setting.mixup:
        shares = rng.beta(setting.mixup, setting.mixup, setting.steps)
        shares = shares.astype("float32")
    if isinstance(batches, keras.utils.PyDataset):
        return Epoch(batches, shares)
    if shares is None:
        return batches
    import tensorflow as tf

    blended = tf.data.Dataset.zip(
        (batches, tf.data.Dataset.from_tensor_slices(shares))
    ).map(lambda pair, s: mix(pair[0], tf.one_hot(pair[1], CLASSES), s))
    # As in `kprune.data.batches`: with autotune, `fit` can stall on CPU.
    options = tf.data.Options()
    options.autotune.enabled = False
    return blended.with_options(options)


def mix(x: Any, y: Any, share: Any) -> tuple[Any, Any]:
    """Blend each image and its label with those at the mirrored position in the batch.

    The order of a batch is random, so this is mixup (Zhang et al., ICLR 2018).
    """
    return share * x + (1 - share) * x[::-1], share * y + (1 - share) * y[::-1]


class Epoch(keras.utils.PyDataset):
    """The batches of one epoch, the same on every read.

    Keras reads some batches before it trains a model for the first time. With Keras'
    own workers they would then arrive in another order, and Keras would signal the
    end of an epoch, so a resumed run would see other images.

    Args:
        batches: Source of the batches. Threads read some batches ahead.
        shares: Share of each image that `mix` keeps; `None` for no mixing.
    """

    def __init__(
        self,
        batches: keras.utils.PyDataset,
        shares: np.ndarray | None = None,
    ) -> None:
        super().__init__(workers=1)
        self._batches = batches
        self._shares = shares
        self._pool = futures.ThreadPoolExecutor(AHEAD)
        self._ahead: dict[int, futures.Future] = {}

    @property
    def num_batches(self) -> int:
        return self._batches.num_batches

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        for n in range(index, min(index + AHEAD, self.num_batches)):
            if n not in self._ahead:
                self._ahead[n] = self._pool.submit(self._make, n)
        return self._ahead.pop(index).result()

    def _make(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = self._batches[index]
        if self._shares is None:
            return x, y
        return mix(x, np.eye(CLASSES, dtype="float32")[y], self._shares[index])
