"""Every family of small models, end to end."""

import pytest
import zoo
from harness import run_pruning_test

CONVERTED = {
    zoo.option_a_resnet,
    zoo.squeeze_excite,
    zoo.nested_backbone,
    zoo.several_inputs_and_outputs,
}


@pytest.mark.parametrize("build", zoo.CORE, ids=lambda f: f.__name__)
def test_core_model(build, tmp_path):
    run_pruning_test(
        build,
        tmp_path,
        expected=zoo.CORE[build],
        tflite=build in CONVERTED,
    )
