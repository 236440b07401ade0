"""Runs programs that set up several devices, which a process does once."""

from __future__ import annotations

import functools
import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parent


@functools.cache
def python_with(backend):
    """This interpreter, or that of `make test-jax` or `make test-torch`."""
    own = TESTS.parent / f".venv-{backend}" / "bin" / "python"
    for python in (sys.executable, str(own)):
        if not os.path.exists(python):
            continue
        tried = subprocess.run(
            [python, "-c", f"import {backend}"], capture_output=True
        )
        if tried.returncode == 0:
            return python
    pytest.skip(f"needs {backend}: make test-{backend} installs it")


def run(program, *arguments, python=sys.executable, **environment):
    """Run a program of `distribution/`; fail with what it wrote if it fails."""
    done = subprocess.run(
        [python, str(TESTS / "distribution" / program), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS), **environment},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr
