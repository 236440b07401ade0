from __future__ import annotations

import io

import keras
import numpy as np
import pytest
from rich.console import Console

from kprune.data import batches
from kprune.report.progress import FitProgress
from kprune.report.progress import progress
from kprune.report.progress import step


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100)


def test_one_bar_for_a_whole_fit(console):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = batches(np.ones((8, 2)), np.ones((8, 1)), 4)
    with progress(console) as bars:
        bar = FitProgress(bars, "training", ("loss", "absent"))
        history = model.fit(
            data, epochs=3, verbose=0, shuffle=False, callbacks=[bar]
        )
        (task,) = bars.tasks
        assert task.finished and task.total == 3
    text = console.file.getvalue()
    assert "training" in text and "3/3" in text
    assert f"loss {history.history['loss'][-1]:.3g}" in text
    assert "absent" not in text


def test_a_step_is_done_when_its_block_ends(console):
    with progress(console) as bars:
        with step(bars, "rebuilding"):
            assert not bars.tasks[0].finished
        assert bars.tasks[0].finished


def test_a_step_that_fails_is_not_done(console):
    with progress(console) as bars:
        with pytest.raises(ValueError, match="no"), step(bars, "rebuilding"):
            raise ValueError("no")
        assert not bars.tasks[0].finished


def test_bars_are_drawn_on_standard_error(capsys):
    with progress() as bars, step(bars, "exporting"):
        pass
    out, err = capsys.readouterr()
    assert out == "" and "exporting" in err
