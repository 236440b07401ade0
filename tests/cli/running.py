"""Running the command line inside the test process, on a small model."""

from __future__ import annotations

import keras
from keras import layers
from typer.testing import CliRunner

from kprune.cli import app


def small(first: int, second: int) -> keras.Model:
    """A Sequential model of two convolutions with so many filters."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(first, 3, activation="relu", name="first"),
            layers.Conv2D(second, 3, activation="relu", name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="scores"),
        ],
        name="small",
    )


def run(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def assert_fails(result, *texts: str) -> None:
    """Exit code 1 and one line on standard error that holds `texts`."""
    assert result.exit_code == 1, result.output
    # Bars, if any were opened before, are drawn on the lines above.
    line = result.stderr.splitlines()[-1]
    assert line.startswith("kprune: error: ")
    for text in texts:
        assert text in line
    assert "Traceback" not in result.output
