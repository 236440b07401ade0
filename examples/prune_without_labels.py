"""A folder of images in, a smaller and verified TFLite file out. No labels.

    python examples/prune_without_labels.py model.keras photos/ small.tflite
    python examples/prune_without_labels.py model.keras photos/ small.tflite \
        --reduce macs=0.6 --recover mimic --quantize int8

Use images like those that the model will see. A few hundred are enough, a thousand is
better; subfolders do not matter. Images are decoded and resized to the model's input,
nothing else: scaling belongs in the model, as a Rescaling or Normalization layer, or is
chosen by --scale. Filters are removed where the outputs change least, and the kept
layers are refitted; `--recover mimic` also trains for some minutes towards the outputs
of the original. A quarter of the images takes no part in this, and shows how often both
models agree.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

import kprune
from kprune.report.measure import predict

FEWEST = 32


def read(folder: Path, model: keras.Model, most: int) -> np.ndarray:
    """Return images `(n, height, width, channels)` of a folder, 0 to 255.

    They are read as `keras.utils.image_dataset_from_directory` reads them, which
    most models were trained with.

    Args:
        folder: Where they are, at any depth.
        model: Its input says how large they become.
        most: How many are read at most, drawn at random.

    Raises:
        SystemExit: There are fewer than 32, or the model does not take images of
            one size.
    """
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        raise SystemExit(
            f"A model that takes images of one size is needed. Inputs: {shape}."
        )
    dataset = keras.utils.image_dataset_from_directory(
        folder,
        labels=None,
        color_mode={1: "grayscale", 3: "rgb", 4: "rgba"}[shape[3]],
        batch_size=None,
        image_size=shape[1:3],
        seed=0,
        verbose=False,
    )
    images = list(dataset.take(most).as_numpy_iterator())
    if len(images) < FEWEST:
        raise SystemExit(
            f"{folder} holds {len(images)} images; {FEWEST} are needed, and some "
            "hundred are better."
        )
    return np.stack(images)


def agreement(one: keras.Model, other: keras.Model, x: np.ndarray) -> float:
    """Return the share of images for which both name the same class."""
    first, second = (predict(m, x, 32).argmax(-1) for m in (one, other))
    return float((first == second).mean())


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", type=Path, help="a file of Keras, .keras or .h5")
    add("images", type=Path, help="a folder")
    add("output", type=Path, help="the .tflite file to write")
    add("--reduce", default="macs=0.5", help="cost=share to remove")
    add("--recover", nargs="+", default=None, help="reconstruct, mimic, ...")
    add("--quantize", default=None, choices=("float16", "dynamic", "int8"))
    add("--scale", type=float, default=1.0, help="images are multiplied by it")
    add("--most", type=int, default=1365, help="images that are read")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    model = kprune.load(options.model)
    x = options.scale * read(options.images, model, options.most)
    held_back, samples = x[: len(x) // 4], x[len(x) // 4 :]
    cost, share = options.reduce.split("=")
    masked = kprune.prune(
        model,
        reduce={cost: float(share)},
        data=samples,
        recover=options.recover,
    )
    compact = kprune.rebuild(masked)
    before, after = kprune.cost(model), kprune.cost(compact)
    agree = agreement(model, compact, held_back)
    print(f"MACs:       {before.macs:,} -> {after.macs:,}")
    print(f"Parameters: {before.params:,} -> {after.params:,}")
    print(
        f"The same class as before for {agree:.1%} of {len(held_back)} images that "
        "pruning did not see"
    )
    print(
        kprune.export(
            compact, options.output, options.quantize, calibration=samples[:256]
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
