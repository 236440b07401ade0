"""The `kprune` command line."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from kprune.__about__ import __version__
from kprune.commands.bench import bench
from kprune.commands.demo import demo
from kprune.commands.export import export
from kprune.commands.inspect import inspect
from kprune.commands.latency import latency
from kprune.commands.prune import prune
from kprune.commands.replay import replay
from kprune.commands.report import report
from kprune.commands.sweep import sweep
from kprune.outputs import clean_exit

app = typer.Typer(
    name="kprune",
    help="Structured (filter) pruning for Keras 3: smaller, faster models.",
    epilog="Example: kprune inspect model.keras. Exit codes: 0 done, 1 failed, 2 wrong "
    "usage, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"kprune {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    pass


for _command in (demo, inspect, prune, export, bench, report, replay, sweep):
    app.command()(_command)
app.add_typer(latency)


def _print_warnings() -> None:
    """Format warnings of the library like those of the commands."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("kprune: warning: %(message)s"))
    logger = logging.getLogger("kprune")
    logger.addHandler(handler)
    # Importing TensorFlow adds another handler to the root logger.
    logger.propagate = False


def main() -> None:
    """Run the command line. This is the entry point of the `kprune` script."""
    _print_warnings()
    with clean_exit():
        app(prog_name="kprune")
