"""The README's code runs as it stands."""

import subprocess
import sys

import pages
import pytest

README = pages.ROOT / "README.md"


def test_the_readme_is_short():
    assert len(README.read_text("utf-8").splitlines()) <= 150


@pytest.mark.slow
def test_the_code_runs(tmp_path):
    blocks = pages.blocks(README, "python")
    assert len(blocks) == 3
    code = "\n".join(block.code for block in blocks)
    (tmp_path / "block.py").write_text(code, "utf-8")
    result = subprocess.run(
        [sys.executable, "block.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "LiteRT int8" in result.stdout
    assert (tmp_path / "model.tflite").stat().st_size > 1000
