"""A killed process goes on where it was."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from fitting import dataset
from fitting import loss
from fitting import small_net

import kprune
from kprune.callbacks import PruneCallback

EPOCHS = 5


class Kill(keras.callbacks.Callback):
    """Ends the process without any goodbye, in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.last = epoch
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == self.last and batch == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder, save_freq="epoch", kill_at=None):
    """Train, as a user's script does that is simply started again."""
    keras.utils.set_random_seed(0)
    masked = kprune.wrap(small_net())
    masked.compile(keras.optimizers.Adam(0.01), loss(), jit_compile=False)
    backup = keras.callbacks.BackupAndRestore(
        str(folder), save_freq=save_freq, delete_checkpoint=False
    )
    prune = PruneCallback(reduce={"macs": 0.7}, schedule=kprune.Linear(1, 4))
    killer = [] if kill_at is None else [Kill(kill_at)]
    history = masked.fit(
        dataset(),
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[prune, backup, *killer],
    )
    return masked, history


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"))


def in_a_process_that_is_killed(folder, save_freq, epoch):
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('resume', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        f"module.run({str(folder)!r}, {save_freq!r}, kill_at={epoch})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]


# Saved at the end of epoch 2 or, within epoch 3, after its pruning.
@pytest.mark.parametrize(
    "save_freq", ["epoch", pytest.param(1, marks=pytest.mark.slow)]
)
def test_masks_and_schedule_survive_a_killed_process(
    save_freq, uninterrupted, tmp_path
):
    whole, history = uninterrupted
    in_a_process_that_is_killed(tmp_path, save_freq, epoch=3)
    assert any(pathlib.Path(tmp_path).iterdir())
    resumed, rest = run(tmp_path, save_freq)
    assert rest.epoch == [3, 4]
    np.testing.assert_equal(kprune.masks(resumed), kprune.masks(whole))
    assert rest.history["pruned_macs"] == history.history["pruned_macs"][3:]
    if save_freq == "epoch":
        # Masks, weights and optimizer: as if nothing had happened.
        for a, b in zip(
            resumed.get_weights(), whole.get_weights(), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_kills_at_random_points():
    script = pathlib.Path(__file__).with_name("kills.py")
    done = subprocess.run(
        [sys.executable, str(script), "--count", "8"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
