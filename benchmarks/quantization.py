r"""Measure accuracy and size in every number format: CIFAR-10, a pruned ResNet-20.

    python benchmarks/quantization.py --data-dir ../shared/data/tfds \
        --weights ../shared/data/weights
    python benchmarks/quantization.py --post-training
    python benchmarks/quantization.py --page    # docs/quantization.md from the results
    python benchmarks/quantization.py --recurrent

The pretrained ResNet-20 is pruned once to half of its MACs without training
(`reconstruction`, `output_error`, `recover="reconstruct"`, 1,024 unlabelled images).
For each seed the compact model is fine-tuned on 10,000 training images and exported in
every format. Formats that train use the same images, in the order and with the
augmentation of the seed. Accuracies are those of the `.tflite` files, on all 10,000
test images and on their second half; choices were made on `test[:5000]`. Writes
`benchmarks/results/quantization.json` and the table in `docs/quantization.md`.

`--post-training` does not train. It exports the pruned ResNet-20, and the ResNet-8 of
MLPerf Tiny (`--models`) pruned in the same way, in the formats that need no training,
and times them in turns on one core. It writes
`benchmarks/results/post_training.json`; existing results are kept. `--recurrent` prints
the file sizes of small recurrent networks, which show the cost of a step in int8.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "quantization.json"
POST_TRAINING = ROOT / "benchmarks" / "results" / "post_training.json"
PAGE = ROOT / "docs" / "quantization.md"
BEGIN = "<!-- begin: benchmarks/quantization.py -->"
END = "<!-- end: benchmarks/quantization.py -->"

SEEDS = (0, 1, 2)
IMAGES = 10_000
CALIBRATION = 512
FINE_TUNING = {"epochs": 2, "batch_size": 128, "learning_rate": 0.01}

# Arguments of `kprune.export`. With "trains" it gets `data`. With "before" the Keras
# model first trains as long in float32, to show the effect of training alone.
FORMATS = {
    "float32": {},
    "float16": {"quantize": "float16"},
    "dynamic": {"quantize": "dynamic"},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
    "mixed": {"quantize": "mixed"},
    "int8, trained as long": {"quantize": "int8", "before": True},
    "qat": {"quantize": "qat", "trains": True},
    "clusters=16, int8": {"quantize": "int8", "clusters": 16, "trains": True},
}

NETWORKS = {"resnet20": "ResNet-20", "resnet8": "ResNet-8 of MLPerf Tiny"}

UNTRAINED = ("int8", "float32", "float16", "dynamic", "int4", "mixed")
"""Formats that need no training. Times are compared with that of the first."""

RECURRENT = (
    ("LSTM", 8, 32),
    ("LSTM", 64, 32),
    ("LSTM", 32, 128),
    ("GRU", 32, 32),
    ("SimpleRNN", 32, 32),
)

sys.path[:1] = [str(ROOT), str(ROOT / "examples")]


def pretrained(network: str, options: argparse.Namespace):
    import cifar10_resnet as example
    import keras

    if network == "resnet8":
        path = pathlib.Path(options.models) / "mlperf_tiny_ic_resnet8.h5"
        return keras.models.load_model(path, compile=False)
    model = example.build_resnet(20)
    example.load_weights(
        model, pathlib.Path(options.weights) / "cifar10_resnet20.npz"
    )
    return model


def inputs(network: str, images):
    """Return images as inputs of a network."""
    from kprune.data import normalize_cifar10

    if network == "resnet8":
        return images.astype("float32")
    return normalize_cifar10(images)


def pruned(network: str, options: argparse.Namespace, images):
    """Return the compact model before fine-tuning, cached in `--work`."""
    import keras

    import kprune

    model = pretrained(network, options)
    full = kprune.cost(model)
    path = options.work / f"{network}.keras"
    if not path.exists():
        masked = kprune.prune(
            model,
            "reconstruction",
            {"macs": 0.5},
            "output_error",
            data=inputs(network, images[:1024]),
            recover="reconstruct",
        )
        kprune.rebuild(masked).save(path)
    return keras.saving.load_model(path), full


def training(x, y, seed: int):
    from kprune.data import batches
    from kprune.data import flip_and_crop
    from kprune.data import normalize_cifar10

    return batches(
        x,
        y,
        FINE_TUNING["batch_size"],
        shuffle=True,
        seed=seed,
        augment=flip_and_crop,
        preprocess=normalize_cifar10,
    )


def fine_tune(model, train) -> None:
    import keras

    steps = FINE_TUNING["epochs"] * len(train)
    model.compile(
        keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(
                FINE_TUNING["learning_rate"], steps
            ),
            momentum=0.9,
            nesterov=True,
            weight_decay=1e-4,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(train, epochs=FINE_TUNING["epochs"], verbose=0, shuffle=False)


def trained_on(model, train):
    """Return a copy trained for one more epoch with the defaults of `kprune.export`."""
    import keras

    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.compile(keras.optimizers.Adam(1e-4), model.loss)
    copy.fit(train, epochs=1, verbose=0, shuffle=False)
    return copy


def accuracy(path: pathlib.Path, x, y) -> dict:
    from kprune.export.runtime import LiteRT

    runtime = LiteRT(path)
    (scores,) = runtime.run_batched({runtime.inputs[0].name: x}).values()
    hits = scores.argmax(1) == y
    return {
        "all": round(100 * float(hits.mean()), 2),
        "second_half": round(100 * float(hits[5000:].mean()), 2),
        "first_half": round(100 * float(hits[:5000].mean()), 2),
    }


def measure(options: argparse.Namespace) -> None:
    import keras

    import kprune
    from kprune.data import load_cifar10
    from kprune.data import normalize_cifar10

    images, labels = load_cifar10("test", options.data_dir)
    x_test = normalize_cifar10(images)
    x, y = load_cifar10(f"train[:{IMAGES}]", options.data_dir)
    calibration = normalize_cifar10(x[:CALIBRATION])
    compact, full = pruned("resnet20", options, x)
    cost = kprune.cost(compact)
    rows: list[dict] = []
    result = {
        "keras": keras.__version__,
        "kprune": kprune.__version__,
        "images": IMAGES,
        "fine_tuning": FINE_TUNING,
        "macs_removed": round(1 - cost.macs / full.macs, 4),
        "params": cost.params,
        "rows": rows,
    }
    weights = compact.get_weights()
    for seed in SEEDS:
        keras.utils.set_random_seed(seed)
        compact.set_weights(weights)
        train = training(x, y, seed)
        fine_tune(compact, train)
        for name, arguments in FORMATS.items():
            arguments = dict(arguments)
            if arguments.pop("trains", False):
                arguments["data"] = train
            path = options.work / "model.tflite"
            model = compact
            if arguments.pop("before", False):
                model = trained_on(compact, train)
            report = kprune.export(
                model, path, calibration=calibration, **arguments
            )
            rows.append(
                {
                    "format": name,
                    "seed": seed,
                    "accuracy": accuracy(path, x_test, labels),
                    "size": report.size,
                    "compressed_size": report.compressed_size,
                    "notes": list(report.notes),
                }
            )
            print(rows[-1], flush=True)
            RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def post_training(network: str, options: argparse.Namespace) -> None:
    """Measure the formats that need no training."""
    import kprune
    from kprune.data import load_cifar10

    found = POST_TRAINING.exists() and json.loads(POST_TRAINING.read_text())
    results = found or {}
    images, labels = load_cifar10("test", options.data_dir)
    x, _ = load_cifar10(f"train[:{IMAGES}]", options.data_dir)
    compact, full = pruned(network, options, x)
    cost = kprune.cost(compact)
    result = results.setdefault(network, {"formats": {}})
    result["macs_removed"] = round(1 - cost.macs / full.macs, 4)
    result["params"] = cost.params
    paths = {
        name: options.work / f"{network}-{name}.tflite" for name in UNTRAINED
    }
    for name, path in paths.items():
        if name in result["formats"] and path.exists():
            continue
        report = kprune.export(
            compact,
            path,
            calibration=inputs(network, x[:CALIBRATION]),
            **FORMATS[name],
        )
        result["formats"][name] = {
            "accuracy": accuracy(path, inputs(network, images), labels),
            "size": report.size,
            "compressed_size": report.compressed_size,
            "notes": list(report.notes),
        }
        print(network, name, result["formats"][name], flush=True)
        POST_TRAINING.write_text(json.dumps(results, indent=1) + "\n")
    timed = kprune.compare([*paths.values()], rounds=20, seconds=1)
    for name, ratio in zip(UNTRAINED, timed.ratios, strict=True):
        result["formats"][name]["time"] = ratio.to_dict()
    POST_TRAINING.write_text(json.dumps(results, indent=1) + "\n")


def untrained_section() -> list[str]:
    lines = []
    results = json.loads(POST_TRAINING.read_text())
    for network, title in NETWORKS.items():
        if network not in results:
            continue
        result = results[network]
        lines += [
            f"{title} with {result['macs_removed']:.0%} fewer MACs, pruned and "
            f"refitted without training ({result['params']:,}",
            "parameters left), in the formats that need no training. Time is that of "
            "LiteRT on one core,",
            "relative to `int8`.",
            "",
            "| | all 10,000 | second half | file | compressed | time |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for name in FORMATS:
            row = result["formats"].get(name)
            if row is None:
                continue
            right, time = row["accuracy"], row.get("time")
            lines.append(
                f"| `{name}` | {right['all']:.2f} | {right['second_half']:.2f} "
                f"| {row['size'] / 1000:.1f} kB "
                f"| {row['compressed_size'] / 1000:.1f} kB "
                f"| {'' if time is None else format(time['value'], '.2f')} |"
            )
        mixed = result["formats"].get("mixed", {"notes": []})
        widths = [note for note in mixed["notes"] if "4 bits in" in note]
        lines += ["", *[f"`mixed`: {note}." for note in widths], ""]
    lines += [
        "Made by `python benchmarks/quantization.py --post-training`.",
        "",
    ]
    return lines


def recurrent() -> None:
    """Print the file sizes of small recurrent networks, in bytes."""
    import keras
    import numpy as np

    import kprune

    path = pathlib.Path(tempfile.mkdtemp()) / "model.tflite"
    print(
        "| | steps | units | parameters | float32 | float16 | dynamic | int8 |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, steps, units in RECURRENT:
        keras.utils.set_random_seed(0)
        layer = getattr(keras.layers, name)(units)
        model = keras.Sequential(
            [keras.Input((steps, 16)), layer, keras.layers.Dense(4)]
        )
        x = np.random.default_rng(0).standard_normal((64, steps, 16))
        sizes = [
            kprune.export(
                model, path, quantize, calibration=x.astype("float32")
            ).size
            for quantize in (None, "float16", "dynamic", "int8")
        ]
        cells = " | ".join(f"{n:,}" for n in (model.count_params(), *sizes))
        print(f"| {name} | {steps} | {units} | {cells} |", flush=True)


def spread(values: list[float]) -> str:
    """Return mean and standard deviation of a sample as text."""
    if len(values) < 2:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def table(result: dict) -> list[str]:
    lines = [
        "| | all 10,000 | second half | file | compressed |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in FORMATS:
        rows = [row for row in result["rows"] if row["format"] == name]
        if not rows:
            continue
        accuracies = [row["accuracy"] for row in rows]
        size, packed = (
            statistics.mean(row[key] for row in rows) / 1000
            for key in ("size", "compressed_size")
        )
        lines.append(
            f"| `{name}` | {spread([a['all'] for a in accuracies])} "
            f"| {spread([a['second_half'] for a in accuracies])} "
            f"| {size:.0f} kB | {packed:.0f} kB |"
        )
    return lines


def page() -> None:
    """Write the measured part of the page from the committed results."""
    result = json.loads(RESULTS.read_text())
    seeds = sorted({row["seed"] for row in result["rows"]})
    tuning = result["fine_tuning"]
    lines = [
        BEGIN,
        "",
        "ResNet-20 on CIFAR-10 with "
        f"{result['macs_removed']:.0%} fewer MACs ({result['params']:,} "
        "parameters left),",
        f"fine-tuned for {tuning['epochs']} epochs on {result['images']:,} training "
        "images. Accuracy of the `.tflite`",
        "file in percent, mean and standard deviation over seeds "
        f"{', '.join(map(str, seeds))}. Formats that",
        "train do so for one epoch on the same images with the defaults.",
        "",
        *table(result),
        "",
        "Made by `python benchmarks/quantization.py`; choices were made on the "
        "first half.",
        "",
        *(untrained_section() if POST_TRAINING.exists() else []),
        END,
    ]
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + "\n".join(lines) + after)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data-dir")
    add("--weights")
    add("--work", type=pathlib.Path, help="folder to cache the pruned model in")
    add("--models", help="folder of mlperf_tiny_ic_resnet8.h5")
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    add("--post-training", action="store_true", help="formats without training")
    add("--recurrent", action="store_true", help="sizes of recurrent networks")
    add("--page", action="store_true", help="write the page, measure nothing")
    options = parser.parse_args()
    if options.recurrent:
        recurrent()
        return
    if not options.page:
        with tempfile.TemporaryDirectory() as folder:
            options.work = options.work or pathlib.Path(folder)
            if options.post_training:
                for network in options.networks:
                    post_training(network, options)
            else:
                measure(options)
    page()


if __name__ == "__main__":
    main()
