"""Measure how much of the vision backbones of keras-hub can be pruned exactly.

    python benchmarks/keras_hub.py          # all of them, about a minute

Every backbone is built from a tiny configuration (`tests/hub.py`, no presets) with a
Dense head, in float64 with random weights. 30-50 % of the channels of every prunable
group are removed at random, and the masked and the compact model are compared on random
inputs. Writes `benchmarks/results/keras_hub.json` and `docs/keras_hub.md`.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "keras_hub.json"
PAGE = ROOT / "docs" / "keras_hub.md"
OUTPUT = "feeds the model output"

# Replace this folder, in which this file would hide the package of the same name.
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]


def measure(build) -> dict:
    import harness
    import hub
    import keras

    import kprune

    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    with harness.floatx("float64"):
        model = hub.with_head(build)
        harness.randomise(model)
        graph = kprune.trace(model)
        coverage = graph.coverage
        pinned = {
            why: n
            for why, n in coverage.reasons.items()
            if not why.startswith(OUTPUT)
        }
        row = {
            "backbone": type(build()).__name__,
            "variant": build.__name__,
            "prunable": coverage.prunable,
            "groups": len(graph.prunable),
            "pinned": pinned,
        }
        row["unseen"] = hub.unseen(model)
        if not graph.prunable:
            return row
        masked, compact = harness.masked_and_compact(model)
        x = hub.inputs(model)
        row["error"] = harness.difference(
            harness.outputs(masked, x), harness.outputs(compact, x)
        )
        row["loads"] = loads(compact)
    return row


def loads(model) -> bool:
    """Return whether a saved compact model can be loaded."""
    import keras

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "compact.keras"
        try:
            model.save(path)
            keras.saving.load_model(path)
        except (NotImplementedError, TypeError, ValueError) as error:
            print(str(error)[:300], file=sys.stderr)
            return False
    return True


def page(rows: list[dict], version: str) -> str:
    lines = [
        "# Coverage of keras-hub",
        "",
        f"Vision backbones of keras-hub {version}, built from tiny configurations "
        "without presets, with a Dense head that reads all their outputs. "
        "`difference` is that between the outputs of the masked and the compact model "
        "in float64, relative to the largest output, with 30-50 % of the channels of "
        "every prunable group removed at random. Written by "
        "`python benchmarks/keras_hub.py`.",
        "",
        "A block that only calls other layers is treated as a model of these layers. "
        "It becomes a plain functional model in the compact model.",
        "",
        "| backbone | channels | prunable | groups | difference | file loads |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        total = row["prunable"] + sum(row["pinned"].values())
        share = f"{row['prunable'] / total:.1%}" if total else "-"
        error = f"{row['error']:.1e}" if "error" in row else "not prunable"
        loading = {True: "yes", False: "no"}.get(row.get("loads"), "-")
        lines.append(
            f"| {row['backbone']} ({row['variant']}) | {total:,} | {share} "
            f"| {row['groups']} | {error} | {loading} |"
        )
    lines += [
        "",
        "Only channels that kprune sees and that do not feed the output count. Layers "
        "that kprune cannot look into are listed below.",
        "",
        "## What is left as it is",
        "",
    ]
    for row in rows:
        whys = [f"{n:,} channels: {why}" for why, n in row["pinned"].items()]
        whys += [f"inside of {name} not seen" for name in row["unseen"]]
        lines += [f"- {row['variant']}: {why}" for why in whys]
    return "\n".join(lines) + "\n"


def main() -> None:
    import hub
    import keras_hub

    from kprune.outputs import atomic_file

    rows = []
    for build in hub.BACKBONES:
        rows.append(measure(build))
        print(build.__name__, rows[-1].get("error", "not prunable"), flush=True)
    with atomic_file(RESULTS) as file:
        file.write_text(json.dumps(rows, indent=1) + "\n")
    with atomic_file(PAGE) as file:
        file.write_text(page(rows, keras_hub.__version__))
    sys.exit(any(row.get("error", 0) > 1e-10 for row in rows))


if __name__ == "__main__":
    main()
