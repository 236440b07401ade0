"""A process of a sweep: `python sweeping.py FOLDER SECONDS`, slowed down by SECONDS."""

from __future__ import annotations

import importlib
import sys
import time

import kprune


def main(folder: str, seconds: float) -> None:
    from fitting import arrays
    from runs.running import compiled

    importlib.import_module("kprune.sweep._study")._BEAT = 1
    module = importlib.import_module("kprune.sweep._trial")
    pruned = module._pruned

    def slow(trial, setting):
        time.sleep(seconds)
        return pruned(trial, setting)

    module._pruned = slow
    shares = [0.2, 0.3, 0.4]
    kprune.sweep(
        compiled(),
        ["l1", "l2"],
        {"macs": shares},
        arrays(),
        arrays(),
        run_dir=folder,
        epochs=0,
    )


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
