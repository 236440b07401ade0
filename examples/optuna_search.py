"""Which way of pruning suits a model? `kprune.sweep`, or an objective of one's own.

    pip install "kprune[data,sweep]"
    python examples/optuna_search.py --trials 6

`kprune.sweep` tries named methods and keeps a folder and a report of each trial: begin
there. For other questions, here the smallest network that keeps its accuracy, write an
objective for Optuna.
"""

from __future__ import annotations

import argparse
from typing import Any

import keras
import optuna
from common import trained_model
from common import x_train
from common import x_val
from common import y_train
from common import y_val

import kprune


def pruned(model: keras.Model, choice: dict[str, Any]) -> dict[str, float]:
    """Prune by a choice of parts, without training; return what came out."""
    masked = kprune.prune(
        model,
        choice["criterion"],
        reduce={"macs": choice["share"]},
        allocation=choice["allocation"],
        data=(x_train, y_train),
        recover="reconstruct",  # refits the layers that stay
    )
    compact = kprune.rebuild(masked)
    found = compact.evaluate(x_val, y_val, verbose=0, return_dict=True)
    return {"accuracy": found["accuracy"], "macs": kprune.cost(compact).macs}


CRITERIA = ["l1", "taylor", "fpgm"]
ALLOCATIONS = ["global", "uniform"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--run-dir", default="runs")
    options = parser.parse_args()
    model = trained_model()

    study = kprune.sweep(
        model,
        ["default", "l1"],
        {"macs": [0.3, 0.5]},
        data=(x_train, y_train),
        validation=(x_val, y_val),
        epochs=0,  # any other number trains each model for so many
        run_dir=options.run_dir,
    )
    for target in ({"macs": 0.3}, {"macs": 0.5}):
        print(f"best of {target}: {kprune.best_model(study, target)}")

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        choice = {
            "criterion": trial.suggest_categorical("criterion", CRITERIA),
            "allocation": trial.suggest_categorical("allocation", ALLOCATIONS),
            "share": trial.suggest_float("share", 0.2, 0.8),
        }
        found = pruned(model, choice)
        return found["accuracy"], found["macs"]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    own = optuna.create_study(
        directions=["maximize", "minimize"],
        sampler=optuna.samplers.TPESampler(seed=0),
    )
    own.optimize(objective, n_trials=options.trials)
    print("no other trial is both more accurate and smaller:")
    for trial in own.best_trials:
        accuracy, macs = trial.values
        print(f"accuracy {accuracy:.4f}, {macs:,.0f} MACs, {trial.params}")


if __name__ == "__main__":
    main()
