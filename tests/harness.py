"""One call that takes a model through its whole life with kprune.

`run_pruning_test(build)` = trace, wrap, mask at random, rebuild, compare,
train one step, save and load, convert. Used for every layer family.
"""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import pytest

import kprune
from kprune.graph.walk import functional_of
from kprune.graph.walk import nodes


@contextlib.contextmanager
def floatx(dtype):
    """Builds what is inside in another precision."""
    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before)
        keras.config.set_dtype_policy(before)


def randomise(model, seed=0):
    """Gives every weight a value that would betray a leak.

    Fresh BatchNorm statistics (0 and 1) and zero biases hide most mistakes.
    """
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "int" in str(weight.dtype):
            continue
        name = weight.path.split("/")[-1]
        shape = weight.shape
        if "variance" in name:
            weight.assign(rng.uniform(0.5, 2.0, shape))
        elif name in ("gamma", "scale", "alpha"):
            weight.assign(rng.uniform(0.5, 1.5, shape))
        elif len(shape) <= 1:
            weight.assign(rng.normal(size=shape) * 0.3)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def random_inputs(model, batch=3, seed=0):
    """Random inputs in the structure the model wants."""
    rng = np.random.default_rng(seed)

    def one(tensor):
        shape = [batch, *(7 if n is None else n for n in tensor.shape[1:])]
        if "int" in str(tensor.dtype):
            return rng.integers(0, 5, size=shape).astype(tensor.dtype)
        return rng.normal(size=shape).astype(tensor.dtype)

    return keras.tree.map_structure(one, functional_of(model).input)


def outputs(model, x, training=False):
    """All outputs as NumPy arrays."""
    if keras.config.backend() == "jax" and not training:
        y = _compiled_outputs(model, x)
    else:
        y = model(x, training=training)
    return [
        np.asarray(keras.ops.convert_to_numpy(v)) for v in keras.tree.flatten(y)
    ]


def _compiled_outputs(model, x):
    """JAX would compile every operation of an eager call by itself."""
    import jax

    def call(trainable, others, x):
        return model.stateless_call(trainable, others, x, training=False)[0]

    trainable = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]
    return jax.jit(call)(trainable, others, x)


def difference(a, b):
    """Largest difference relative to the scale of the output."""
    worst = 0.0
    for left, right in zip(a, b, strict=True):
        assert left.shape == right.shape
        assert np.isfinite(left).all() and np.isfinite(right).all()
        scale = max(np.abs(left).max(initial=0.0), 1e-6)
        worst = max(worst, np.abs(left - right).max(initial=0.0) / scale)
    return worst


def random_masks(graph, seed=0, share=(0.3, 0.5)):
    """0/1 vectors that remove 30-50 % of every prunable group."""
    rng = np.random.default_rng(seed)
    vectors = {}
    for group in graph.prunable:
        count = int(
            np.clip(round(group.size * rng.uniform(*share)), 1, group.size - 1)
        )
        vector = np.ones(group.size)
        vector[rng.choice(group.size, count, replace=False)] = 0
        vectors[group.name] = vector
    return vectors


def prunable_sizes(model):
    return {g.name: g.size for g in kprune.trace(model).prunable}


def masked_and_compact(model, seed=0, skip=None):
    """A wrapped copy with random masks, and its compact version."""
    masked = kprune.wrap(model, skip=skip)
    kprune.set_masks(masked, random_masks(kprune.trace(masked), seed))
    return masked, kprune.rebuild(masked)


def assert_exact(model, tolerance, seed=0, x=None):
    """wrap() changes nothing; masked and compact agree; something moved."""
    randomise(model, seed)
    x = random_inputs(model, seed=seed) if x is None else x
    before = outputs(model, x)
    masked = kprune.wrap(model)
    assert difference(before, outputs(masked, x)) <= tolerance
    kprune.set_masks(masked, random_masks(kprune.trace(masked), seed))
    pruned = outputs(masked, x)
    assert difference(before, pruned) > 1e-4, "the masks had no effect"
    compact = kprune.rebuild(masked)
    assert difference(pruned, outputs(compact, x)) <= tolerance
    predicted, real = kprune.cost(masked), kprune.cost(compact)
    assert (predicted.macs, predicted.params) == (real.macs, real.params)
    assert real.params == compact.count_params() < model.count_params()
    return masked, compact, x


def assert_trains_alike(masked, compact, x, tolerance):
    """One step of SGD with momentum moves both models to the same place."""
    targets = [np.zeros_like(y) for y in outputs(masked, x)]
    # A fixed pattern: a target of 0 would leave much of the gradient at 0.
    for n, target in enumerate(targets):
        target += np.sin(np.arange(target.size).reshape(target.shape) + n)
    # Structure as the model's outputs, so that every output gets a loss.
    y = keras.tree.pack_sequence_as(masked.output, targets)
    # JAX compiles every operation of an eager step by itself.
    eager = keras.config.backend() != "jax"
    for model in (masked, compact):
        model.compile(
            keras.optimizers.SGD(1e-3, momentum=0.9), "mse", run_eagerly=eager
        )
        model.train_on_batch(x, y)
    assert difference(outputs(masked, x), outputs(compact, x)) <= tolerance, (
        "masked and compact models train differently"
    )


def assert_saves(model, x, path):
    """Save and load gives the same outputs and the same names."""
    model.save(path)
    loaded = keras.models.load_model(path, compile=False)
    assert difference(outputs(model, x), outputs(loaded, x)) <= 1e-6
    return loaded


def assert_converts(model, x, path, tolerance=1e-4):
    """The TFLite file computes on LiteRT what the model computes in Keras."""
    from ai_edge_litert.interpreter import Interpreter

    from kprune.export.signature import ModelSignature

    batch = model.inputs[0].shape[0]
    kprune.export(model, path, samples=batch or 2, batch_size=batch or 1)
    run = Interpreter(model_path=str(path)).get_signature_runner()
    signature = ModelSignature(model)
    x = [v[: batch or 1] for v in keras.tree.flatten(x)]
    found = run(**{s.name: v for s, v in zip(signature.inputs, x, strict=True)})
    found = [found[s.name] for s in signature.outputs]
    expected = outputs(model, keras.tree.pack_sequence_as(model.input, x))
    assert difference(expected, found) <= tolerance


def except_on(missing, builds):
    """Parameters of a test: `builds`, some of them not on every backend.

    Args:
        missing: What plain Keras cannot do: `{backend: {build: reason}}`.
        builds: Functions that build models.
    """
    marks = {build: [] for build in builds}
    for backend, reasons in missing.items():
        for build, reason in reasons.items():
            marks[build].append(pytest.mark.not_on(backend, reason=reason))
    return [pytest.param(b, id=b.__name__, marks=m) for b, m in marks.items()]


def can_be_saved(model):
    """Whether plain Keras saves a model: variables as constants need TensorFlow."""
    if keras.config.backend() == "tensorflow":
        return True
    arguments = [n.arguments for n in nodes(functional_of(model))]
    flat = keras.tree.flatten([(a.args, a.kwargs) for a in arguments])
    return not any(isinstance(v, keras.Variable) for v in flat)


def run_pruning_test(
    build,
    tmp_path=None,
    expected=None,
    train=True,
    save=True,
    train_tolerance=1e-9,
    tflite=False,
):
    """Takes `build()` through everything kprune promises.

    Args:
        build: Makes the model; called under float64 and float32.
        tmp_path: Where models are saved (pytest's fixture).
        expected: `{group name: size}` of all prunable groups.
        train: Compare one training step too.
        save: Save and load the masked and the compact model.
        train_tolerance: How far both may be apart after the step.
        tflite: Convert the compact model and run the file too; seconds each,
            so all cases have their turn in `tests/export/test_export_zoo.py`.
    """
    with floatx("float64"):
        model = build()
        if expected is not None:
            assert prunable_sizes(model) == expected
        masked, compact, x = assert_exact(model, 1e-10)
        if train:
            assert_trains_alike(masked, compact, x, train_tolerance)
    with floatx("float32"):
        model = build()
        masked, compact, x = assert_exact(model, 1e-5)
        if save and tmp_path is not None and can_be_saved(model):
            loaded = assert_saves(masked, x, tmp_path / "masked.keras")
            again = kprune.masks(loaded)
            for name, vector in kprune.masks(masked).items():
                np.testing.assert_array_equal(vector, again[name])
            assert_saves(compact, x, tmp_path / "compact.keras")
        if tflite and keras.config.backend() == "tensorflow":
            assert_converts(compact, x, tmp_path / "compact.tflite")
    return masked, compact
