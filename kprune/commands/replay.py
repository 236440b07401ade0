"""The command `kprune replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from typing import Any

import typer

from kprune.commands.needs import check_needs
from kprune.commands.options import DataDir
from kprune.commands.options import Debug
from kprune.commands.options import ImageSize
from kprune.commands.options import Json
from kprune.commands.options import ModelOut
from kprune.commands.options import Overwrite
from kprune.commands.options import Pixels
from kprune.commands.options import one_line_errors
from kprune.commands.paths import check_inputs
from kprune.commands.paths import check_model_output
from kprune.commands.samples import find_data
from kprune.commands.start import start_keras


@one_line_errors
def replay(  # noqa: PLR0913  options of a command
    run: Annotated[Path, typer.Argument(help="run.json, or folder of a run.")],
    model: Annotated[
        Path, typer.Argument(help="Model that the run started with.")
    ],
    out: ModelOut,
    data: Annotated[
        Path | None,
        typer.Option(help="Samples of the run, if it used them for repair."),
    ] = None,
    data_dir: DataDir = None,
    image_size: ImageSize = None,
    pixels: Pixels = None,
    as_json: Json = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Remove the same filters as a run, and write the smaller model.

    Nothing is scored again. The repair of `kprune prune` without training is
    repeated, which gives the same weights for the same model and samples.

    Example: `kprune replay runs/latest model.keras small.keras --data x.npy`
    """
    check_inputs(run, model)
    found = find_data(data, None, data_dir, image_size, pixels)
    check_model_output(out, (run, model, *found.files), overwrite)
    start_keras()
    import kprune
    from kprune.commands.files import load_model
    from kprune.commands.outcome import print_json
    from kprune.runs.folder import find_run
    from kprune.runs.schema import read_run

    check_needs({"recovery": _repair(read_run(find_run(run)))}, found)
    original = load_model(model)
    samples = found.samples(original)
    x = None if samples is None else samples.x
    masked = kprune.replay(run, original, x)
    report = kprune.export(kprune.rebuild(masked), out)
    if as_json:
        print_json({"wrote": out, "export": report.to_dict()})
    else:
        print(f"wrote {out}")


def _repair(record: dict[str, Any]) -> str:
    """Return the names of the recoveries that are repeated."""
    from kprune.runs.replay import PRUNE

    asked = record["asked"]
    found = asked["parts"].get("recover") if asked["call"] == PRUNE else None
    names = found if isinstance(found, list) else [found]
    # kprune.replay itself checks parts that were given as objects.
    return ",".join(name for name in names if isinstance(name, str))
