"""Random functional models: programs of small numbers, read as layer calls.

A program is a list of instructions `(operation, operand, operand, detail)`.
Every list is a valid program (numbers are taken modulo what is possible), so
that hypothesis can shrink a failing one to the few instructions that matter.

    python tests/fuzzing.py --examples 20000      # any number, with a report
"""

from __future__ import annotations

import collections
import dataclasses
import signal
from collections.abc import Callable

import keras
import numpy as np
from harness import difference
from harness import floatx
from harness import outputs
from harness import random_inputs
from harness import randomise
from hypothesis import strategies as st
from keras import layers
from keras import ops

import kprune

# More than any axis of these models: keras.ops.add on TensorFlow takes a
# (2, 1) operand for a bias where the batch happens to have size 2 as well.
BATCH = 29

PROGRAMS = st.lists(
    st.tuples(*[st.integers(0, 63)] * 4).map(list), min_size=2, max_size=14
)

ACTIVATIONS = [
    "relu", "sigmoid", "tanh", "swish", "softplus", "hard_sigmoid", "gelu",
    "elu", "linear", "softmax", "leaky_relu", "relu6",
]  # fmt: skip


@dataclasses.dataclass
class Builder:
    """The tensors a program has made so far, and layers to share."""

    tensors: list = dataclasses.field(default_factory=list)
    shared: list = dataclasses.field(default_factory=list)
    names: list = dataclasses.field(default_factory=list)

    def pick(self, number):
        """One of the latest tensors, so that programs become deep."""
        return self.tensors[-1 - number % min(len(self.tensors), 4)]

    def partner(self, x, number, channels_only=False):
        """Another tensor of the same shape (or the same up to channels)."""
        end = -1 if channels_only else None
        fits = [
            t
            for t in self.tensors
            if t is not x
            and len(t.shape) == len(x.shape)
            and t.shape[1:end] == x.shape[1:end]
        ]
        return fits[number % len(fits)] if fits else None


OPERATIONS: list[tuple[str, int | None, Callable]] = []


def operation(name, rank):
    def add(function):
        OPERATIONS.append((name, rank, function))
        return function

    return add


def channels(detail):
    return 2 + detail % 7


# -- feature maps ------------------------------------------------------------


@operation("conv", 4)
def _conv(b, x, y, d):
    layer = layers.Conv2D(
        channels(d),
        (1, 3)[d % 2],
        strides=1 + d // 8 % 2,
        padding="same",
        use_bias=d % 3 != 0,
        activation=ACTIVATIONS[d % len(ACTIVATIONS)] if d % 4 == 0 else None,
    )
    b.shared.append(layer)
    return layer(x)


@operation("valid_conv", 4)
def _valid(b, x, y, d):
    if min(x.shape[1:3]) < 3:
        return None
    return layers.Conv2D(channels(d), 3, activation="relu")(x)


@operation("grouped_conv", 4)
def _grouped(b, x, y, d):
    groups = [g for g in (2, 3, 4, 6, 8) if x.shape[-1] % g == 0]
    if not groups:
        return None
    g = groups[d % len(groups)]
    return layers.Conv2D(g * (1 + d % 3), 3, padding="same", groups=g)(x)


@operation("depthwise", 4)
def _depthwise(b, x, y, d):
    if x.shape[-1] * (1 + d % 2) > 24:
        return None
    return layers.DepthwiseConv2D(
        3, padding="same", depth_multiplier=1 + d % 2
    )(x)


@operation("separable", 4)
def _separable(b, x, y, d):
    return layers.SeparableConv2D(channels(d), 3, padding="same")(x)


@operation("transposed", 4)
def _transposed(b, x, y, d):
    if x.shape[1] > 6:
        return None
    return layers.Conv2DTranspose(
        channels(d), 3, strides=1 + d % 2, padding="same"
    )(x)


@operation("batch_norm", None)
def _bn(b, x, y, d):
    return layers.BatchNormalization(scale=d % 3 != 0, center=d % 5 != 0)(x)


@operation("group_norm", 4)
def _gn(b, x, y, d):
    groups = [g for g in (1, 2, 3, 4) if x.shape[-1] % g == 0]
    return layers.GroupNormalization(groups[d % len(groups)])(x)


@operation("layer_norm", None)
def _ln(b, x, y, d):
    return layers.LayerNormalization()(x)


@operation("activation", None)
def _activation(b, x, y, d):
    return layers.Activation(ACTIVATIONS[d % len(ACTIVATIONS)])(x)


@operation("prelu", 4)
def _prelu(b, x, y, d):
    return layers.PReLU(shared_axes=[1, 2] if d % 2 else None)(x)


@operation("pool", 4)
def _pool(b, x, y, d):
    cls = layers.MaxPooling2D if d % 2 else layers.AveragePooling2D
    return cls(2, strides=1 + d % 2, padding="same")(x)


@operation("upsample", 4)
def _up(b, x, y, d):
    return layers.UpSampling2D(2)(x) if x.shape[1] <= 4 else None


@operation("spatial_pad", 4)
def _zero_pad(b, x, y, d):
    return layers.ZeroPadding2D(1)(x) if x.shape[1] <= 6 else None


@operation("crop", 4)
def _crop(b, x, y, d):
    return layers.Cropping2D(1)(x) if min(x.shape[1:3]) > 2 else None


@operation("global_pool", 4)
def _gap(b, x, y, d):
    cls = layers.GlobalMaxPooling2D if d % 2 else layers.GlobalAveragePooling2D
    return cls(keepdims=d % 3 == 0)(x)


@operation("flatten", None)
def _flatten(b, x, y, d):
    return layers.Flatten()(x) if np.prod(x.shape[1:]) <= 200 else None


@operation("tokens", 4)
def _tokens(b, x, y, d):
    return layers.Reshape((x.shape[1] * x.shape[2], x.shape[3]))(x)


@operation("permute", 4)
def _permute(b, x, y, d):
    return layers.Permute([(2, 1, 3), (1, 3, 2), (3, 1, 2)][d % 3])(x)


@operation("channel_shuffle", 4)
def _shuffle(b, x, y, d):
    c = x.shape[-1]
    groups = [g for g in (2, 3) if c % g == 0]
    if not groups:
        return None
    g = groups[d % len(groups)]
    h, w = x.shape[1:3]
    x = ops.reshape(x, (-1, h, w, g, c // g))
    x = ops.transpose(x, (0, 1, 2, 4, 3))
    return ops.reshape(x, (-1, h, w, c))


@operation("pixel_shuffle", 4)
def _pixel_shuffle(b, x, y, d):
    h, w, c = x.shape[1:]
    if c % 4 or h > 4:
        return None
    x = ops.reshape(x, (-1, h, w, 2, 2, c // 4))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, 2 * h, 2 * w, c // 4))


@operation("split", None)
def _split(b, x, y, d):
    c = x.shape[-1]
    if c < 4:
        return None
    cut = 1 + d % (c - 1)
    left, right = ops.split(x, [cut], axis=-1)
    return [left, right]


@operation("slice", None)
def _slice(b, x, y, d):
    c = x.shape[-1]
    if c < 3:
        return None
    start, step = d % 2, 1 + d // 2 % 3
    return x[..., start : c - d % 2 : step]


@operation("strided", 4)
def _strided(b, x, y, d):
    return x[:, ::2, ::2, :]


@operation("channel_pad", None)
def _pad(b, x, y, d):
    width = [[0, 0]] * (len(x.shape) - 1) + [[d % 3, 1 + d % 2]]
    return ops.pad(x, width) if x.shape[-1] <= 12 else None


@operation("spatial_gate", 4)
def _gate(b, x, y, d):
    gate = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x)
    return layers.Multiply()([x, gate])


@operation("squeeze_excite", 4)
def _se(b, x, y, d):
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(channels(d), 1, activation="relu")(gate)
    gate = layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(gate)
    return layers.Multiply()([x, gate])


@operation("channel_mean", None)
def _mean(b, x, y, d):
    return x * ops.mean(x, axis=-1, keepdims=True)


@operation("spatial_mean", 4)
def _spatial_mean(b, x, y, d):
    return ops.mean(x, axis=(1, 2), keepdims=bool(d % 2))


@operation("channel_sum", None)
def _sum(b, x, y, d):
    return x + ops.sum(x, axis=-1, keepdims=True)


@operation("resize", 4)
def _resize(b, x, y, d):
    return layers.Resizing(4, 4)(x)


# -- anything ----------------------------------------------------------------


@operation("constant", None)
def _constant(b, x, y, d):
    values = np.linspace(0.5, 1.5, x.shape[-1]).astype(x.dtype)
    return x * values if d % 2 else x + values


@operation("scalar", None)
def _scalar(b, x, y, d):
    return [x * 2 + 1, 1 - x, x / 2, -x, ops.clip(x, -1.0, 1.0), ops.abs(x)][
        d % 6
    ]


@operation("repeat", None)
def _repeat(b, x, y, d):
    if x.shape[-1] > 8:
        return None
    rank = len(x.shape)
    return [
        lambda: ops.repeat(x, 2, axis=-1),
        lambda: ops.tile(x, [1] * (rank - 1) + [2]),
        lambda: ops.flip(x, axis=-1),
        lambda: ops.roll(x, 1, axis=-1),
    ][d % 4]()


@operation("add", None)
def _add(b, x, y, d):
    other = b.partner(x, y)
    if other is None:
        return None
    merge = [layers.Add, layers.Maximum, layers.Multiply, layers.Average]
    return merge[d % 4]()([x, other])


@operation("subtract", None)
def _subtract(b, x, y, d):
    other = b.partner(x, y)
    return None if other is None else [x - other, x + other, x * other][d % 3]


@operation("concat", None)
def _concat(b, x, y, d):
    other = b.partner(x, y, channels_only=True)
    if other is None or x.shape[-1] + other.shape[-1] > 24:
        return None
    return layers.Concatenate()([x, other])


@operation("concat_spatial", 4)
def _concat_spatial(b, x, y, d):
    other = b.partner(x, y)
    if other is None or x.shape[1] > 6:
        return None
    return ops.concatenate([x, other], axis=1)


@operation("stack", None)
def _stack(b, x, y, d):
    other = b.partner(x, y)
    if other is None or len(x.shape) > 3:
        return None
    return ops.max(ops.stack([x, other], axis=1), axis=1)


@operation("share", 4)
def _share(b, x, y, d):
    fits = [s for s in b.shared if s.kernel.shape[-2] == x.shape[-1]]
    return fits[d % len(fits)](x) if fits else None


@operation("nested", 4)
def _nested(b, x, y, d):
    inner_in = keras.Input(x.shape[1:])
    z = layers.Conv2D(channels(d), 3, padding="same")(inner_in)
    z = layers.BatchNormalization()(z)
    z = layers.Conv2D(x.shape[-1], 1)(z)
    if d % 2:
        z = layers.Add()([z, inner_in])
    inner = keras.Model(inner_in, z)
    x = inner(x)
    return inner(x) if d % 3 == 0 else x


@operation("nested_sequential", None)
def _nested_sequential(b, x, y, d):
    if len(x.shape) > 3:
        return None
    inner = keras.Sequential(
        [
            layers.Dense(channels(d), activation="tanh"),
            layers.Dense(channels(y)),
        ]
    )
    return inner(x)


# -- vectors and sequences ---------------------------------------------------


@operation("dense", None)
def _dense(b, x, y, d):
    act = ACTIVATIONS[y % len(ACTIVATIONS)] if d % 2 else None
    return layers.Dense(channels(d), activation=act, use_bias=d % 3 != 0)(x)


@operation("to_map", 2)
def _to_map(b, x, y, d):
    c = channels(d)
    x = layers.Dense(4 * c, activation="relu")(x)
    return layers.Reshape((2, 2, c))(x)


@operation("unflatten", 2)
def _unflatten(b, x, y, d):
    if x.shape[-1] % 2:
        return None
    return layers.Reshape((2, x.shape[-1] // 2))(x)


@operation("conv1d", 3)
def _conv1d(b, x, y, d):
    return layers.Conv1D(channels(d), 3, padding="causal" if d % 2 else "same")(
        x
    )


@operation("recurrent", 3)
def _recurrent(b, x, y, d):
    cls = [layers.LSTM, layers.GRU, layers.SimpleRNN][d % 3]
    return cls(channels(d), return_sequences=bool(y % 2))(x)


@operation("bidirectional", 3)
def _bidirectional(b, x, y, d):
    mode = ["concat", "sum", "ave", "mul"][d % 4]
    return layers.Bidirectional(
        layers.GRU(channels(d), return_sequences=bool(y % 2)), merge_mode=mode
    )(x)


@operation("attention", 3)
def _attention(b, x, y, d):
    if x.shape[-1] < 2:
        return None
    layer = layers.MultiHeadAttention(1 + d % 3, 2 + y % 3)
    return x + layer(x, x)


@operation("einsum_dense", 3)
def _einsum(b, x, y, d):
    return layers.EinsumDense(
        "btc,chd->bthd",
        output_shape=(x.shape[1], 2, channels(d)),
        bias_axes="hd",
    )(x)


@operation("token_mix", 3)
def _mix(b, x, y, d):
    z = layers.Permute((2, 1))(x)
    z = layers.Dense(channels(d), activation="gelu")(z)
    z = layers.Dense(x.shape[1])(z)
    return x + layers.Permute((2, 1))(z)


@operation("matmul", 3)
def _matmul(b, x, y, d):
    scores = ops.matmul(x, ops.transpose(x, (0, 2, 1)))
    return ops.matmul(ops.softmax(scores, axis=-1), x) if d % 2 else scores


@operation("global_pool_1d", 3)
def _gap1d(b, x, y, d):
    cls = layers.GlobalMaxPooling1D if d % 2 else layers.GlobalAveragePooling1D
    return cls()(x)


# -- building and checking ---------------------------------------------------


def build(program):
    """The model of a program, or None if nothing in it applied."""
    builder = Builder()
    inputs = [keras.Input((4, 4, 3)), keras.Input((5,)), keras.Input((3, 4))]
    start = program[0]
    chosen = [inputs[start[0] % 3]]
    if start[1] % 4 == 0:
        chosen.append(inputs[(start[0] + 1) % 3])
    for tensor in chosen:  # a model input itself has nothing to prune
        stem = layers.Conv2D if len(tensor.shape) == 4 else layers.Dense
        width = 4 + 2 * (start[2] % 3)
        arguments = (width, 1) if stem is layers.Conv2D else (width,)
        builder.tensors.append(stem(*arguments)(tensor))
    for number, pick, other, detail in program:
        x = builder.pick(pick)
        fits = [o for o in OPERATIONS if o[1] in (None, len(x.shape))]
        name, _, function = fits[number % len(fits)]
        if len(x.shape) < 2:
            continue
        made = function(builder, x, other, detail)
        if made is not None:
            builder.names.append(name)
            builder.tensors += made if isinstance(made, list) else [made]
    if not builder.names:
        return None
    last = builder.tensors[-1]
    results = [_head(last, program[-1][3])]
    if program[0][2] % 3 == 0:
        other = builder.tensors[program[0][3] % len(builder.tensors)]
        if other not in chosen and other is not last:
            results.append(other)
    needed = [t for t in chosen if _reaches(t, results)]
    return keras.Model(needed, results) if needed else None


def _head(x, detail):
    if detail % 8 == 0:
        return x
    if len(x.shape) == 4 and detail % 2:
        x = layers.GlobalAveragePooling2D()(x)
    return layers.Dense(2)(x)


def _reaches(tensor, results):
    """Whether any result depends on `tensor`."""
    seen, stack = set(), list(results)
    while stack:
        t = stack.pop()
        if t is tensor:
            return True
        if id(t) in seen:
            continue
        seen.add(id(t))
        history = t._keras_history
        if history.operation is not None:
            node = history.operation._inbound_nodes[history.node_index]
            stack += node.input_tensors
    return False


def check(program, seed=0, tolerance=1e-10):
    """Masked and compact agree. Returns the number of prunable groups."""
    keras.utils.clear_session(free_memory=False)
    with floatx("float64"):
        model = build(program)
        if model is None or not model.weights:
            return 0
        randomise(model, seed)
        groups = kprune.trace(model).prunable
        if not groups:
            return 0
        x = random_inputs(model, batch=BATCH, seed=seed)
        before = outputs(model, x)
        masked = kprune.wrap(model)
        assert difference(before, outputs(masked, x)) <= tolerance
        kprune.set_masks(masked, _masks(groups, seed))
        compact = kprune.rebuild(masked)
        if not all(np.isfinite(v).all() for v in before):
            return len(groups)
        assert difference(outputs(masked, x), outputs(compact, x)) <= tolerance
        assert compact.count_params() == kprune.cost(masked).params
        assert kprune.cost(compact).macs == kprune.cost(masked).macs
        error = difference(outputs(masked, x, True), outputs(compact, x, True))
        assert error <= tolerance, "training mode differs"
        return len(groups)


def _masks(groups, seed):
    """Removes 30-50 % of most groups, almost everything of a few."""
    rng = np.random.default_rng(seed)
    vectors = {}
    for group in groups:
        share = 0.99 if rng.random() < 0.1 else rng.uniform(0.3, 0.5)
        count = int(np.clip(round(group.size * share), 1, group.size - 1))
        vector = np.ones(group.size)
        vector[rng.choice(group.size, count, replace=False)] = 0
        vectors[group.name] = vector
    return vectors


def _cheap_weights(shape, dtype=None):
    """Random weights without the backend's random generator."""
    rng = np.random.default_rng(int(np.prod(shape)))
    return ops.convert_to_tensor(rng.normal(size=shape) * 0.4, dtype=dtype)


def _hurry() -> None:
    """Leaves out what takes most of the time and tests nothing of kprune."""
    keras.config.disable_traceback_filtering()
    for cls in (
        keras.initializers.GlorotUniform,
        keras.initializers.Orthogonal,
    ):
        cls.__call__ = lambda self, shape, dtype=None: _cheap_weights(
            shape, dtype
        )


LONGEST = 120  # CPU seconds for one program; a usual one takes 0.2


def _too_long(*_) -> None:
    raise TimeoutError(f"not done after {LONGEST} CPU seconds")


def _try_some(seed: tuple[int, int], count: int) -> collections.Counter:
    """Tries `count` random programs; prints those that fail."""
    _hurry()
    signal.signal(signal.SIGVTALRM, _too_long)
    rng = np.random.default_rng(seed)
    counts: collections.Counter = collections.Counter()
    for n in range(count):
        size = int(rng.integers(2, 15))
        program = rng.integers(0, 64, size=(size, 4)).tolist()
        signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST)
        try:
            groups = check(program, seed=n)
            counts["with groups" if groups else "nothing to prune"] += 1
            counts["groups"] += groups
        except Exception as error:
            counts["failed"] += 1
            text = str(error).strip().splitlines()
            print(
                f"FAILED {type(error).__name__}: {text[:1]} "
                f"check({program}, seed={n})",
                flush=True,
            )
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return counts


def main() -> None:
    """Tries many random programs and reports what failed."""
    import argparse
    import multiprocessing
    import time

    parser = argparse.ArgumentParser(description="Fuzz masked against compact.")
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--chunk", type=int, default=200, help="print every n")
    arguments = parser.parse_args()
    chunks = -(-arguments.examples // arguments.chunk)
    jobs = [((arguments.seed, n), arguments.chunk) for n in range(chunks)]
    counts: collections.Counter = collections.Counter()
    start = time.monotonic()
    # A process of its own for each chunk: what TensorFlow compiles for so many
    # shapes is never freed, and slows down what comes after it.
    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.jobs, maxtasksperchild=1) as pool:
        for done in pool.imap_unordered(_unpack, jobs):
            counts.update(done)
            tried = counts["with groups"] + counts["nothing to prune"]
            print(
                f"{tried + counts['failed']} programs: {dict(counts)}, "
                f"{time.monotonic() - start:.0f} s",
                flush=True,
            )
    raise SystemExit(1 if counts["failed"] else 0)


def _unpack(job: tuple[tuple[int, int], int]) -> collections.Counter:
    return _try_some(*job)


if __name__ == "__main__":
    main()
