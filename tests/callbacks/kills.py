"""Training that is killed at random points and started again.

    python tests/callbacks/kills.py --count 50 --seed 1

Each time a run is killed once: in a step, between epochs, or while a backup is
written. Started again, it must end with the masks and weights of a run that nothing
disturbed, or stop at a limit of `keras.callbacks.BackupAndRestore`:

- `pair`: a backup is two files. Killed between them, the weights are those after an
  epoch and the number is that of the epoch, which is trained once more.
- `number`: killed while the number is written, that file is empty, and loading it
  raises JSONDecodeError.
- `spare`: killed while the first backup is written, which has no spare copy yet;
  loading it raises OSError.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import threading

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import keras
import numpy as np
from fitting import dataset
from fitting import loss
from fitting import small_net

import kprune
from kprune.callbacks import AttenuateCallback
from kprune.callbacks import DuplicateCallback
from kprune.callbacks import Merge
from kprune.callbacks import PruneCallback
from kprune.callbacks import SoftPruneCallback

EPOCHS = 5
STEPS = 3
WHERE = ("step", "epoch", "write", "number")
"""Where a run is killed: in a step, before an epoch, while either file is written."""


def callback(kind: str) -> keras.callbacks.Callback:
    target = {"macs": 0.6}
    return {
        "prune": lambda: PruneCallback(
            reduce=target, schedule=kprune.Linear(1, 4)
        ),
        "soft": lambda: SoftPruneCallback(reduce=target),
        "attenuate": lambda: AttenuateCallback(reduce=target),
        "duplicate": lambda: DuplicateCallback(
            reduce=target, allocation="global", merge=Merge(epoch=3)
        ),
    }[kind]()


KINDS = ("prune", "soft", "attenuate", "duplicate")


class Killer(keras.callbacks.Callback):
    """Ends the process at one point, without any goodbye.

    Args:
        where: One of `WHERE`.
        epoch: In which epoch.
        delay: How far into it, from 0 to 1.
    """

    def __init__(self, where: str, epoch: int, delay: float) -> None:
        super().__init__()
        self.where, self.last, self.delay = where, epoch, delay
        self.epoch = -1

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        if self.where == "epoch" and epoch == self.last:
            kill()

    def on_train_batch_begin(self, batch, logs=None):
        if self.where == "step" and self.epoch == self.last:
            if batch == int(self.delay * STEPS):
                kill()


class Backup(keras.callbacks.BackupAndRestore):
    """The backup of Keras, killed while it writes a file."""

    killer: Killer | None = None

    def _save_model(self):
        killer = self.killer
        due = killer is not None and killer.epoch == killer.last
        if due and killer.where == "write":
            # Saving takes about this long.
            threading.Timer(0.03 * killer.delay, kill).start()
        if due and killer.where == "number":
            self.model.save_weights(self._weights_path, overwrite=True)
            if killer.delay > 0.5:
                pathlib.Path(self._training_metadata_path).write_text("")
            kill()
        super()._save_model()
        if due and killer.where == "write":
            kill()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(folder, kind, first, killer=None):
    """Train, as a user's script does that is simply started again."""
    keras.utils.set_random_seed(0)
    masked = kprune.wrap(small_net(8))
    # Eager steps: tracing would take longer than all of them.
    masked.compile(keras.optimizers.Adam(0.01), loss(), run_eagerly=True)
    backup = Backup(
        str(folder), double_checkpoint=True, delete_checkpoint=False
    )
    backup.killer = killer
    both = [callback(kind), backup]
    masked.fit(
        dataset(),
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[
            *(both if first else both[::-1]),
            *([killer] if killer else []),
        ],
    )
    return masked


def outcome(masked: keras.Model) -> dict[str, np.ndarray]:
    """Return masks and weights by names that are those of any process."""
    masks = kprune.masks(masked)
    return {
        **{f"mask {n}": mask for n, mask in enumerate(masks.values())},
        **{f"weight {n}": w for n, w in enumerate(masked.get_weights())},
    }


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(value, other[name])
        if name.startswith("mask")
        else np.allclose(value, other[name], rtol=1e-4, atol=1e-6)
        for name, value in one.items()
    )


def forked(action) -> int:
    """Call a function in a copy of this process; return how that ended.

    Importing takes most of the time, and is done. TensorFlow has not begun to
    compute in this process, so that it can be copied.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finished(folder, point: dict, file: pathlib.Path) -> str | None:
    """Train to the end in another process, which leaves the outcome in a file."""

    def action():
        try:
            masked = run(folder, point["kind"], point["first"])
        except json.JSONDecodeError:
            file.with_suffix(".number").touch()
            return
        except OSError:
            file.with_suffix(".spare").touch()
            return
        np.savez(file, **outcome(masked))

    if forked(action) != 0:
        return "raised"
    limits = [
        n for n in ("number", "spare") if file.with_suffix(f".{n}").exists()
    ]
    return limits[0] if limits else None


def killed(folder, point: dict) -> None:
    """Train in another process, which is killed at a point."""
    killer = Killer(point["where"], point["epoch"], point["delay"])
    code = forked(lambda: run(folder, point["kind"], point["first"], killer))
    if code != -signal.SIGKILL:
        raise RuntimeError(f"It was not killed, and ended with {code}.")


def resumed(folder: pathlib.Path, point: dict, whole: pathlib.Path) -> str:
    """Start a killed run again; say what came of it."""
    number = folder / "training_metadata.json"
    torn = point["where"] == "number" or _torn(folder)
    limits = {
        "number": number.exists() and number.read_text() == "",
        "spare": not (folder / "latest.weights.h5.bkp").exists(),
    }
    file = folder / "outcome.npz"
    failed = finished(folder, point, file)
    if failed:
        return failed if limits.get(failed) else "raised"
    if same(dict(np.load(file)), dict(np.load(whole))):
        return "same"
    return "pair" if torn else "different"


def _torn(folder: pathlib.Path) -> bool:
    """Return whether weights were saved after the number of their epoch."""
    files = [folder / "latest.weights.h5", folder / "training_metadata.json"]
    return (
        not files[1].exists()
        or files[0].stat().st_mtime > files[1].stat().st_mtime
    )


def points(count: int, seed: int) -> list[dict]:
    """Return random points, all callbacks and both orders in turn."""
    rng = random.Random(seed)
    return [
        {
            "kind": KINDS[number % 4],
            "first": bool(number // 4 % 2),
            "where": rng.choice(
                ["step", "step", "epoch", "write", "write", "number"]
            ),
            "epoch": rng.randrange(EPOCHS),
            "delay": rng.random(),
        }
        for number in range(count)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as wholes:
        for point in points(arguments.count, arguments.seed):
            whole = (
                pathlib.Path(wholes) / f"{point['kind']}-{point['first']}.npz"
            )
            with tempfile.TemporaryDirectory() as folder:
                if not whole.exists():
                    finished(folder, point, whole)
            with tempfile.TemporaryDirectory() as folder:
                killed(folder, point)
                found = resumed(pathlib.Path(folder), point, whole)
            counts[found] += 1
            print(found, json.dumps(point), flush=True)
    print(dict(counts))
    return int(bool(counts["different"] or counts["raised"]))


if __name__ == "__main__":
    sys.exit(main())
