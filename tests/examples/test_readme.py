"""The README's first code block runs as it stands."""

import pathlib
import re
import subprocess
import sys

import pytest

README = pathlib.Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
def test_the_first_code_block_runs(tmp_path):
    block = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "block.py").write_text(block.group(1))
    result = subprocess.run(
        [sys.executable, "block.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "LiteRT int8" in result.stdout
    assert (tmp_path / "model.tflite").stat().st_size > 1000
