"""Files that version 0.1.0 wrote still load, and mean the same.

`tests/fixtures/version_0_1_0.zip`, written on Keras 3.15 by commit 9accc5d:

- A compiled model of two convolutions, wrapped, trained for two epochs with
  `PruneCallback(reduce={"macs": 0.4})`, with `HierarchicalGroupSparsity` attached:
  masked.keras, masked.h5. Rebuilt: compact.keras, compact.h5, compact.tflite.
- outputs.npz: what both gave for `default_rng(0).normal(size=(16, 8, 8, 1))`.
- table.json: `latency.profile(compact)`. phone: `latency.write_files(compact)`
  without the models, with made-up logs of 10, 10.125, 10.25, ... microseconds.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

import kprune

FIXTURE = Path(__file__).parents[1] / "fixtures" / "version_0_1_0.zip"


@pytest.fixture
def folder(tmp_path):
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(tmp_path)
    return tmp_path


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("name", ["masked", "compact"])
def test_models(name, suffix, folder):
    model = kprune.load(folder / f"{name}.{suffix}")
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype("float32")
    y = np.zeros((16, 2), "float32")
    wanted = np.load(folder / "outputs.npz")[name]
    np.testing.assert_allclose(model.predict(x, verbose=0), wanted, atol=1e-6)
    assert float(model.optimizer.iterations) == 3
    assert np.isfinite(model.train_on_batch(x, y)[0])
    if name == "masked":
        alive = {
            group: int(np.sum(mask))
            for group, mask in kprune.masks(model).items()
        }
        assert min(alive.values()) < 4
        compact = kprune.load(folder / "compact.keras")
        shapes = [w.shape for w in kprune.rebuild(model).weights]
        assert shapes == [w.shape for w in compact.weights]


def test_a_latency_table_and_logs_of_a_device(folder):
    compact = kprune.load(folder / "compact.keras")
    measured = kprune.latency.load(folder / "table.json")
    assert kprune.latency.predict(compact, measured) > 0
    read = kprune.latency.read_logs(folder / "phone", "Some phone")
    assert read.size == 7
    assert kprune.latency.predict(compact, read) > 0
    # The first log is that of a file with next to nothing in it.
    assert read.overhead == pytest.approx(0.01)
