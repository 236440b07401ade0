"""A pretrained CIFAR-10 ResNet, pruned while it is fine-tuned, by any recipe.

    python examples/cifar10_resnet.py --depth 20 --epochs 2 --reduce 0.5 \
        --data-dir DIR_OF_TFDS --weights DIR_OF_WEIGHTS
    python examples/cifar10_resnet.py --method similarity --epochs 10 ...
    python examples/cifar10_resnet.py --random-images 256

The networks are those of He et al. (arXiv 1512.03385, section 4.2) with
parameter-free shortcuts. The weights are files `cifar10_resnet20.npz` of the
arrays of akamaster/pytorch_resnet_cifar10, convolutions in the order
(height, width, in, out). They have seen all training images, so choices are
made on the first half of the test images; the table is measured on the second
half, and on all of them with `--test-on all`. With `--random-images`, images and
weights are random: accuracies mean nothing, but everything runs without files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np
from keras import layers
from keras import ops
from rich.console import Console

import kprune
from kprune.callbacks import PruneCallback
from kprune.data import batches
from kprune.data import flip_and_crop
from kprune.data import load_cifar10
from kprune.data import normalize_cifar10
from kprune.masking import close_gates
from kprune.report.deployment import deploy
from kprune.report.deployment import print_result
from kprune.report.evaluation import Evaluation
from kprune.report.measure import accuracy
from kprune.report.measure import predict
from kprune.report.progress import progress

PUBLISHED = {20: 91.73, 32: 92.63, 44: 93.10, 56: 93.39}


def build_resnet(depth: int = 20) -> keras.Model:
    """Builds a CIFAR ResNet; layer names follow the names of the weights."""
    if depth < 8 or depth % 6 != 2:
        raise ValueError(
            f"depth must be 6n + 2 (20, 32, 44, 56), received {depth}."
        )

    def conv_bn(x, filters, strides, name, index):
        # Padding both sides also where the stride is 2: "same" would not.
        x = layers.ZeroPadding2D(1, name=f"{name}pad{index}")(x)
        x = layers.Conv2D(
            filters, 3, strides, use_bias=False, name=f"{name}conv{index}"
        )(x)
        return layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, name=f"{name}bn{index}"
        )(x)

    def block(x, filters, strides, name):
        y = conv_bn(x, filters, strides, name, 1)
        y = conv_bn(layers.ReLU(name=f"{name}relu1")(y), filters, 1, name, 2)
        if strides == 2:
            # Option A: new channels are zeros, half on each side.
            extra = filters // 4
            sides = [[0, 0], [0, 0], [0, 0], [extra, extra]]
            x = ops.pad(x[:, ::2, ::2, :], sides)
        y = layers.Add(name=f"{name}add")([x, y])
        return layers.ReLU(name=f"{name}relu2")(y)

    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.ReLU(name="relu1")(conv_bn(inputs, 16, 1, "", 1))
    for stage, filters in enumerate((16, 32, 64), start=1):
        for index in range((depth - 2) // 6):
            strides = 2 if stage > 1 and index == 0 else 1
            x = block(x, filters, strides, f"layer{stage}_{index}_")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(10, name="linear")(x)
    return keras.Model(inputs, outputs, name=f"resnet{depth}")


def load_weights(model: keras.Model, path: str | Path) -> None:
    """Loads `layer1.0.conv1.weight` into layer `layer1_0_conv1`, and so on."""
    with np.load(path, allow_pickle=False) as arrays:
        for layer in model.layers:
            if isinstance(layer, layers.Conv2D):
                names = ["weight"]
            elif isinstance(layer, layers.BatchNormalization):
                names = ["weight", "bias", "running_mean", "running_var"]
            elif isinstance(layer, layers.Dense):
                names = ["weight", "bias"]
            else:
                continue
            key = layer.name.replace("_", ".")
            layer.set_weights([arrays[f"{key}.{name}"] for name in names])


def check_baseline(model: keras.Model, depth: int, x, y) -> None:
    """Stops if the loaded network does not score what was published."""
    measured = 100 * accuracy(predict(model, x), y)
    print(f"baseline on all {len(x)} test images: {measured:.2f} %")
    published = PUBLISHED.get(depth)
    if published is not None and abs(measured - published) > 0.005:
        raise SystemExit(
            f"ResNet-{depth} scores {measured:.2f} %, published are {published} %: "
            "the weights or the images are not the expected ones."
        )


def fine_tune(
    model: keras.Model, x, y, options: argparse.Namespace
) -> keras.Model:
    """Trains with pruning: SGD, momentum, weight decay, as the original.

    Returns:
        The masked model.
    """
    train = batches(
        x,
        y,
        options.batch_size,
        shuffle=True,
        seed=options.seed,
        augment=flip_and_crop,
        preprocess=normalize_cifar10,
    )
    steps = options.epochs * len(train)
    # Compiled first: what wraps the model takes that over, and some recipes
    # measure the loss before training.
    model.compile(
        keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(
                options.learning_rate, steps
            ),
            momentum=0.9,
            nesterov=True,
            weight_decay=1e-4,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    samples = (normalize_cifar10(x[:1024]), y[:1024])
    target = {"macs": options.reduce}
    if options.method is not None:
        recipe = kprune.recipe(options.method, target, samples, options.epochs)
        print(recipe)  # what it does, when, with what
        masked, callbacks = recipe.prepare(model), recipe.callbacks
    else:
        prune = PruneCallback(
            criterion=options.criterion,
            reduce=target,
            schedule=options.schedule,
            allocation=options.allocation,
            data=samples,
        )
        masked, callbacks = kprune.wrap(model), [prune]
    masked.fit(train, epochs=options.epochs, shuffle=False, callbacks=callbacks)
    if options.method == "manidp":
        # Its gates differ from image to image; their means are a static model.
        close_gates(masked)
    return masked


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--depth", type=int, default=20, choices=sorted(PUBLISHED))
    add("--data-dir", help="folder of TensorFlow Datasets that holds cifar10/")
    add(
        "--download",
        action="store_true",
        help="fetch CIFAR-10 if it is missing",
    )
    add("--weights", type=Path, help="an .npz file or its folder")
    add(
        "--random-images",
        type=int,
        metavar="N",
        help="take so many random images, and random weights, instead of files",
    )
    add("--epochs", type=int, default=2)
    add("--reduce", type=float, default=0.5, help="share of the MACs to remove")
    add(
        "--method",
        choices=kprune.recipes.names(),
        help="a published system, in the place of the next three",
    )
    add("--criterion", default="l1")
    add("--allocation", default="global", help="global or uniform")
    add("--schedule", default="one_shot", help="one_shot, linear or polynomial")
    add("--learning-rate", type=float, default=0.02)
    add("--batch-size", type=int, default=128)
    add(
        "--train-images",
        type=int,
        default=50000,
        help="use only the first ones",
    )
    add("--test-on", choices=["half", "all"], default="half")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("cifar10-resnet"))
    options = parser.parse_args(arguments)
    if options.weights is None and options.random_images is None:
        parser.error("give --weights, or --random-images 256 to try without")
    return options


def random_images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels like those of CIFAR-10, of which nothing is true."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (count, 32, 32, 3)).astype("uint8")
    return x, rng.integers(0, 10, count)


def main(arguments: list[str] | None = None) -> Evaluation:
    options = parse(arguments)
    keras.utils.set_random_seed(options.seed)
    model = build_resnet(options.depth)
    if options.random_images is not None:
        x, y = random_images(options.random_images, 0)
        images, y_test = random_images(options.random_images, 1)
        x_test = normalize_cifar10(images)
    else:
        weights = options.weights
        if weights.is_dir():
            weights = weights / f"cifar10_resnet{options.depth}.npz"
        images, y_test = load_cifar10(
            "test", options.data_dir, options.download
        )
        x_test = normalize_cifar10(images)
        x, y = load_cifar10("train", options.data_dir)
        x, y = x[: options.train_images], y[: options.train_images]
        load_weights(model, weights)
        check_baseline(model, options.depth, x_test, y_test)

    half = len(x_test) // 2
    chosen = slice(None) if options.test_on == "all" else slice(half, None)
    evaluation = Evaluation(x_test[chosen], y_test[chosen], options.out)
    evaluation.add_model("original", model, "original.tflite")
    masked = fine_tune(model, x, y, options)
    scores = predict(masked, x_test)
    for name, part in (
        (f"test[:{half}]", slice(half)),
        (f"test[{half}:]", slice(half, None)),
        (f"all {len(x_test)}", slice(None)),
    ):
        print(
            f"pruned, {name}: {100 * accuracy(scores[part], y_test[part]):.2f} %"
        )
    with progress() as bars:
        calibration = normalize_cifar10(x[:512])
        deployment = deploy(evaluation, masked, calibration, bars)
    print_result(Console(), evaluation, deployment)
    return evaluation


if __name__ == "__main__":
    main()
