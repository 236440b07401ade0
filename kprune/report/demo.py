"""Train, prune and export a small network, for `kprune demo`."""

from __future__ import annotations

import dataclasses
import os

import keras
from keras import layers
from rich.console import Console

import kprune
from kprune.callbacks import PruneCallback
from kprune.data import Splits
from kprune.data import batches
from kprune.data import load_digits
from kprune.report.deployment import Deployment
from kprune.report.deployment import deploy
from kprune.report.evaluation import Evaluation
from kprune.report.measure import accuracy
from kprune.report.measure import predict
from kprune.report.progress import FitProgress
from kprune.report.progress import progress

BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class DemoSettings:
    """Settings of the demo.

    Args:
        reduce: Share of the MACs to remove, between 0 and 1.
        seed: Integer for the split, the weights and the order of examples.
        epochs: Number of epochs to train the original network.
        tune_epochs: Number of epochs to train while pruning.
    """

    reduce: float = 0.6
    seed: int = 0
    epochs: int = 20
    tune_epochs: int = 30

    def __post_init__(self) -> None:
        if not 0 < self.reduce < 1:
            raise ValueError(
                "`reduce` is the share of the MACs to remove, above 0 and below 1. "
                f"Received: {self.reduce!r}."
            )


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """Measurements of the demo.

    Args:
        evaluation: One row per model and file.
        deployment: Compact model, and its difference from the masked one.
        one_shot: Test accuracy after the same pruning without any training.
    """

    evaluation: Evaluation
    deployment: Deployment
    one_shot: float


def build_model() -> keras.Model:
    """Build the demo's residual network for 8x8 digits.

    A stem and four residual blocks, 24 then 48 channels, 97 thousand
    parameters.

    Returns:
        Uncompiled model: images `(n, 8, 8, 1)` in, 10 logits out.

    Example:

    ```python
    model = build_model()
    ```
    """

    def conv_bn(
        x: keras.KerasTensor,
        filters: int,
        name: str,
        strides: int = 1,
        size: int = 3,
    ) -> keras.KerasTensor:
        x = layers.Conv2D(
            filters,
            size,
            strides,
            padding="same",
            use_bias=False,
            name=f"{name}_conv",
        )(x)
        return layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)

    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.ReLU(name="stem_relu")(conv_bn(inputs, 24, "stem"))
    for number, (filters, strides) in enumerate(
        [(24, 1), (24, 1), (48, 2), (48, 1)]
    ):
        name = f"block{number + 1}"
        y = conv_bn(x, filters, f"{name}_a", strides)
        y = conv_bn(layers.ReLU(name=f"{name}_relu1")(y), filters, f"{name}_b")
        if strides > 1:
            x = conv_bn(x, filters, f"{name}_shortcut", strides, size=1)
        x = layers.Add(name=f"{name}_add")([x, y])
        x = layers.ReLU(name=f"{name}_relu2")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(
        inputs, layers.Dense(10, name="scores")(x), name="digits"
    )


def run_demo(
    folder: str | os.PathLike[str],
    settings: DemoSettings | None = None,
    console: Console | None = None,
) -> DemoResult:
    """Train, prune while fine-tuning, rebuild, export and verify.

    Args:
        folder: Folder for the files. It is created if it is missing.
        settings: Lengths, seed and reduction. Defaults to `DemoSettings()`.
        console: Where progress is drawn. Defaults to standard error.

    Returns:
        `DemoResult`, for `print_result`.

    Raises:
        ImportError: scikit-learn is not installed.

    Example:

    ```python
    result = run_demo("kprune-demo")
    rich.print(result.evaluation.table())
    ```
    """
    settings = settings or DemoSettings()
    data = load_digits(settings.seed)
    keras.utils.set_random_seed(settings.seed)
    evaluation = Evaluation(*data.test, folder)
    target = {"macs": settings.reduce}
    prune = PruneCallback(criterion="l1", reduce=target)
    with progress(console) as bars:
        model = build_model()
        bar = FitProgress(bars, "training", ("accuracy",))
        _fit(model, data, settings.epochs, settings.seed, [bar])
        evaluation.add_model("original", model, "original.tflite")
        cut = kprune.prune(model, criterion="l1", reduce=target)
        one_shot = accuracy(predict(cut, evaluation.x), evaluation.y)
        masked = kprune.wrap(model)
        bar = FitProgress(bars, "pruning", ("accuracy", "pruned_macs"))
        _fit(masked, data, settings.tune_epochs, settings.seed, [prune, bar])
        deployment = deploy(evaluation, masked, data.train[0][:256], bars)
    return DemoResult(evaluation, deployment, one_shot)


def _fit(
    model: keras.Model,
    data: Splits,
    epochs: int,
    seed: int,
    callbacks: list[keras.callbacks.Callback],
) -> None:
    train = batches(*data.train, BATCH_SIZE, shuffle=True, seed=seed)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * len(train))
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        train, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks
    )
