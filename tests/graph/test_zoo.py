"""Every family of small models, end to end."""

import pytest
import zoo
from harness import run_pruning_test


@pytest.mark.parametrize("build", zoo.CORE, ids=lambda f: f.__name__)
def test_core_model(build, tmp_path):
    run_pruning_test(build, tmp_path, expected=zoo.CORE[build])
