"""Measure the overhead of kprune, as ratios of times measured in turns.

    python benchmarks/speed.py [--pairs 5]

Prints one line per figure: wrapped against plain training steps, `trace` and
`rebuild` of ResNet50 against `clone_model` + `set_weights`, one evaluation of
the cost model, and `import kprune` after `import keras`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def timed(function, *args):
    start = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - start, result


def import_seconds() -> float:
    code = (
        "import time, keras; t = time.perf_counter(); import kprune; "
        "print(time.perf_counter() - t)"
    )
    runs = [
        float(
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True
            ).stdout.split()[-1]
        )
        for _ in range(3)
    ]
    return statistics.median(runs)


def structure_ratios(pairs: int):
    """Return the medians of trace / clone and rebuild / clone, measured in turns."""
    import keras
    import numpy as np

    import kprune
    from kprune.cost import CostModel

    model = keras.applications.ResNet50(weights=None)
    masked = kprune.wrap(model)
    rng = np.random.default_rng(0)
    masks = {}
    for group in kprune.trace(masked).prunable:
        vector = np.ones(group.size)
        vector[rng.choice(group.size, group.size * 2 // 5, replace=False)] = 0
        masks[group.name] = vector
    kprune.set_masks(masked, masks)

    def clone():
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        return copy

    rows = []
    for _ in range(pairs + 1):
        clone_s, _ = timed(clone)
        trace_s, graph = timed(kprune.trace, model)
        rebuild_s, _ = timed(kprune.rebuild, masked)
        rows.append((clone_s, trace_s, rebuild_s))
    clones, traces, rebuilds = zip(*rows[1:], strict=True)  # first run warms up
    costs = CostModel(graph)
    kept = costs.sizes // 2
    cost_s, _ = timed(lambda: [costs.evaluate(kept) for _ in range(1000)])
    return {
        "clone_model + set_weights, s": statistics.median(clones),
        "trace / clone": statistics.median(
            t / c for t, c in zip(traces, clones, strict=True)
        ),
        "rebuild / clone": statistics.median(
            r / c for r, c in zip(rebuilds, clones, strict=True)
        ),
        "cost model evaluation, us": cost_s * 1e3,
    }


def step_ratios(pairs: int, steps: int):
    """Return the ratio of wrapped to plain time of training steps, for each pair.

    Each step inside `fit` is timed and the median counts, because the end of `fit`
    is delayed at random.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    import kprune

    def block(x, filters, stride):
        short = x
        if stride > 1 or x.shape[-1] != filters:
            short = keras.layers.Conv2D(filters, 1, strides=stride)(x)
        for s in (stride, 1):
            x = keras.layers.Conv2D(
                filters, 3, strides=s, padding="same", use_bias=False
            )(x)
            x = keras.layers.BatchNormalization()(x)
            x = keras.layers.ReLU()(x)
        return keras.layers.Add()([x, short])

    x = inputs = keras.Input((32, 32, 3))
    for filters, stride in [(16, 1)] * 3 + [(32, 2), (32, 1), (32, 1)]:
        x = block(x, filters, stride)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(10)(x))
    rng = np.random.default_rng(0)
    images = rng.normal(size=(128, 32, 32, 3)).astype("float32")
    labels = rng.integers(0, 10, size=128)
    data = tf.data.Dataset.from_tensors((images, labels)).repeat(steps)
    options = tf.data.Options()
    options.autotune.enabled = False
    data = data.with_options(options)

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.times = []

        def on_train_batch_begin(self, batch, logs=None):
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            self.times.append(time.perf_counter() - self.start)

    def prepare(net):
        net.compile(
            keras.optimizers.SGD(0.01, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        return net

    arms = [prepare(model), prepare(kprune.wrap(model))]

    def median_step(net):
        clock = Clock()
        net.fit(data, epochs=1, verbose=0, callbacks=[clock])
        return statistics.median(clock.times[2:])

    for arm in arms:
        median_step(arm)
    ratios = []
    for pair in range(pairs):
        first, second = (0, 1) if pair % 2 == 0 else (1, 0)
        seconds = {first: median_step(arms[first])}
        seconds[second] = median_step(arms[second])
        ratios.append(seconds[1] / seconds[0])
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    print(f"import kprune after import keras, s: {import_seconds():.3f}")
    for name, value in structure_ratios(arguments.pairs).items():
        print(f"{name}: {value:.3f}")
    ratios = step_ratios(arguments.pairs, arguments.steps)
    print(
        f"wrapped / plain training step: median {statistics.median(ratios):.3f} "
        f"of {[round(r, 3) for r in ratios]}"
    )


if __name__ == "__main__":
    main()
