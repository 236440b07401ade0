"""Running the command line inside the test process."""

from __future__ import annotations

from typer.testing import CliRunner

from kprune.cli import app


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
