"""Runs that were recorded, for all tests of what was recorded."""

from __future__ import annotations

import random

import pytest
from fitting import arrays
from fitting import dataset
from runs.running import compiled

import kprune
from kprune.callbacks import PruneCallback
from kprune.runs.schema import read_run

REDUCE = {"macs": 0.5}


@pytest.fixture(scope="package")
def one_shot(tmp_path_factory):
    """A recorded run of `prune`: root, model, masked model, and its record."""
    root, model = tmp_path_factory.mktemp("prune") / "runs", compiled()
    masked = kprune.prune(
        model, reduce=REDUCE, data=arrays(), skip=["conv3"], run_dir=root
    )
    return root, model, masked, read_run(root / "latest" / "run.json")


@pytest.fixture(scope="package")
def training(tmp_path_factory):
    """The record of a run of `fit`, that run and one without a record, and the root."""
    root = tmp_path_factory.mktemp("fit") / "runs"
    fits = []
    for run_dir in (root, None):
        masked = kprune.wrap(compiled())
        callback = PruneCallback(
            "l1", REDUCE, kprune.Linear(begin=1, end=2), run_dir=run_dir
        )
        history = masked.fit(
            dataset(), epochs=4, verbose=0, shuffle=False, callbacks=[callback]
        ).history
        fits.append((masked, history, random.getstate()))
    return read_run(root / "latest" / "run.json"), fits, root
