"""The objective of `optuna_search.py`, spread by Ray Tune over processes or machines.

    pip install "kprune[data,sweep]" "ray[tune]"
    python examples/ray_tune.py --trials 6 --workers 2

Ray is worth it where it runs already. Without it, several processes that are given the
same `storage=` share the trials of `kprune.sweep`. "The current node timed out during
startup" means that Ray did not start within 30 seconds: the machine is busy, try again.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import keras
import ray
from common import trained_model
from optuna_search import ALLOCATIONS
from optuna_search import CRITERIA
from optuna_search import pruned
from ray import tune


def trial(choice: dict[str, Any], path: str) -> None:
    """Prune by one choice; runs in a process of Ray."""
    # A model is loaded where it is used: a file travels, TensorFlow does not.
    tune.report(pruned(keras.saving.load_model(path), choice))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        trained_model().save(path)
        ray.init(num_cpus=options.workers, include_dashboard=False)
        tuner = tune.Tuner(
            tune.with_parameters(trial, path=str(path)),
            param_space={
                "criterion": tune.choice(CRITERIA),
                "allocation": tune.choice(ALLOCATIONS),
                "share": tune.uniform(0.2, 0.8),
            },
            tune_config=tune.TuneConfig(
                metric="accuracy", mode="max", num_samples=options.trials
            ),
            run_config=tune.RunConfig(
                storage_path=str(Path(folder) / "ray"), verbose=0
            ),
        )
        results = tuner.fit()
        ray.shutdown()
    for result in results:
        if result.error:
            raise SystemExit(str(result.error))
        print(
            f"accuracy {result.metrics['accuracy']:.4f}, "
            f"{result.metrics['macs']:,} MACs, {result.config}"
        )


if __name__ == "__main__":
    main()
