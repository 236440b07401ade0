"""PyTorch's DistributedDataParallel."""

from __future__ import annotations

import pytest
from programs import python_with
from programs import run


@pytest.mark.slow
def test_ranks_prune_as_one_process_does():
    run("ddp.py", python=python_with("torch"), OMP_NUM_THREADS="1")
