r"""Test latency tables: prediction, pruning for latency, speed-up.

    python benchmarks/latency/run.py --data-dir ../shared/data/tfds \
        --weights ../shared/data/weights
    python benchmarks/latency/run.py --parts npu --data-dir ../shared/data/tfds \
        --models ../shared/data/models
    python benchmarks/latency/run.py --parts speedup --networks 'DenseNet*'
    python benchmarks/latency/page.py       # docs/latency_results.md from the results

Each of five parts writes one JSON file per network in `results/`, and overwrites it:

- predict: predicted and measured latency at 20 random prunings of MobileNetV2 and
  ResNet-20, in float32 and int8. Also writes the tables to `examples/latency_tables/`.
- frontier: quality against measured latency, after pruning for latency, for MACs, and
  for MACs with widths rounded to multiples of 8. ResNet-20 is repaired by
  `recover="reconstruct"` on 1,024 training images, without training; its accuracy is
  measured on `test[5000:]` of CIFAR-10. Without `--data-dir` it is left out.
- npu: the same for Ethos-U55-128 in int8, by its compiler's estimates: ResNet-8 and
  MobileNetV1 of MLPerf Tiny (`--models`, the folder of their files), and MobileNetV2.
- speedup: six networks pruned to half of their MACs and to half of their latency.
- onnx: the same six pruned to half of ONNX Runtime's time, with a table measured on it.

Everything is timed on one thread of this machine, which should be idle. On Linux as
root, the timed process has priority over other work on the same core; `taskset -c 1`
keeps it on one core.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import frontier
import own_table
import predict
import speedup
import subjects

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
TABLES = HERE.parents[1] / "examples" / "latency_tables"
PARTS = ("predict", "frontier", "npu", "speedup", "onnx")


def write(name: str, result: dict[str, Any]) -> None:
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(temporary, path)
    print(path, flush=True)


def slug(name: str) -> str:
    return name.partition(",")[0].lower().replace(" ", "-")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--parts", nargs="+", default=PARTS, choices=PARTS)
    add("--networks", nargs="+", default=["*"], help="names or patterns")
    add("--data-dir", help="folder of TensorFlow Datasets with cifar10/")
    add("--weights", type=Path, help="folder of cifar10_resnet20.npz")
    add("--models", type=Path, help="folder of mlperf_tiny_*.h5")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)

    def chosen(names: Sequence[str]) -> list[str]:
        return [
            name
            for name in names
            if any(fnmatch.fnmatch(name, p) for p in options.networks)
        ]

    if "predict" in options.parts:
        TABLES.mkdir(parents=True, exist_ok=True)
        for name in chosen(predict.NAMES):
            for dtype in ("float32", "int8"):
                result = predict.run(name, dtype, TABLES)
                write(f"predict-{slug(name)}-{dtype}", result)
    if "frontier" in options.parts:
        for name in chosen(frontier.NAMES):
            if name.startswith("ResNet") and options.data_dir is None:
                print(f"{name}: left out, as it needs --data-dir and --weights")
                continue
            write(
                f"frontier-{slug(name)}",
                frontier.run(name, options, frontier.on_litert),
            )
    if "npu" in options.parts:
        for name in chosen(frontier.NPU_NAMES):
            given = name in subjects.SUBJECTS or options.models is not None
            if not given or (name in frontier.READERS and not options.data_dir):
                print(f"{name}: left out, as it needs --models or --data-dir")
                continue
            write(
                f"npu-{slug(name)}",
                frontier.run(name, options, frontier.on_npu),
            )
    if "speedup" in options.parts:
        for name in chosen(list(subjects.SUBJECTS)):
            write(f"speedup-{slug(name)}", speedup.run(name))
    if "onnx" in options.parts:
        for name in chosen(list(subjects.SUBJECTS)):
            write(f"onnx-{slug(name)}", own_table.run(name))


if __name__ == "__main__":
    sys.exit(main())
