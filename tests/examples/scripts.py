"""Runs the scripts of `examples/`, as a user would or inside the test process."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from shared_data import ROOT

EXAMPLES = ROOT / "examples"


def load(name: str):
    """Import a script; what it shares with others is found beside it."""
    if str(EXAMPLES) not in sys.path:
        sys.path.append(str(EXAMPLES))
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(
    folder: Path,
    name: str,
    *arguments: object,
    python: str = sys.executable,
    **environment: str,
) -> str:
    """Run a script in a folder; return what it printed."""
    result = subprocess.run(
        [python, str(EXAMPLES / f"{name}.py"), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def before_and_after(text: str, what: str) -> tuple[float, float]:
    """Return the last `what: before -> after` that a script printed."""
    found = re.findall(rf"{what}: +([\d,.]+) -> ([\d,.]+)", text)
    old, new = (float(number.replace(",", "")) for number in found[-1])
    return old, new


def assert_halved(text: str) -> None:
    """Half of the MACs went, and not many more."""
    old, new = before_and_after(text, "MACs")
    assert 0.4 * old < new <= 0.5 * old
