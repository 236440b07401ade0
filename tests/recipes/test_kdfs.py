"""KDFS: gates trained under a budget and a teacher, then removed."""

import backends
import keras
import models
import numpy as np
import pytest
from fitting import arrays
from fitting import dataset
from fitting import loss
from fitting import small_net
from harness import difference
from harness import outputs

import kprune
from kprune.callbacks import GateCallback
from kprune.callbacks._losses import attention
from kprune.callbacks._losses import compared_as
from kprune.callbacks._losses import cost_share
from kprune.callbacks._losses import divergence
from kprune.callbacks._steps import NormalizedSteps
from kprune.cost.model import CostModel
from kprune.graph.values import read
from kprune.masking import gates


def test_from_end_to_end():
    recipe = kprune.recipe("kdfs", {"macs": 0.5}, epochs=2)
    model = small_net(8)
    masked = recipe.prepare(model)
    masked.compile(
        keras.optimizers.SGD(0.05, weight_decay=0.1),
        loss(),
        run_eagerly=keras.config.backend() != "jax",
    )
    decoders = [g.decoder for g in gates(masked).values() if g.decoder]
    (decoder,) = decoders  # there is one residual stream
    before = [np.array(v) for v in decoder.get_weights()]
    history = masked.fit(
        dataset(count=64), epochs=2, callbacks=recipe.callbacks, verbose=0
    ).history
    assert history["pruned_macs"][0] == 0 < history["open_gates"][0]
    assert all(
        (a != b).any()
        for a, b in zip(before, decoder.get_weights(), strict=True)
    )
    for gate in gates(masked).values():
        assert not gate.acts and np.ptp(read(gate.logits)) > 0
        assert gate.observer is None
    compact = kprune.rebuild(masked)
    removed = 1 - kprune.cost(compact).macs / kprune.cost(model).macs
    assert 0.5 <= removed == pytest.approx(history["pruned_macs"][1])
    x, _ = arrays(8)
    assert difference(outputs(masked, x), outputs(compact, x)) <= 1e-5
    assert "compute_loss" not in vars(masked)


def test_the_gates_with_the_smallest_logits_go():
    recipe = kprune.recipe("kdfs", {"macs": 0.3}, epochs=2)
    masked = recipe.prepare(small_net(8))
    masked.compile("sgd", loss())
    callback = recipe.callbacks[-1]
    assert isinstance(callback, GateCallback)
    for gate in gates(masked).values():
        gate.logits.assign(np.arange(8.0) - 4)
    callback.set_model(masked)
    callback.set_params({"epochs": 2})
    callback.on_train_begin()
    callback.on_epoch_begin(1)
    for mask in kprune.masks(masked).values():
        assert (np.diff(mask) >= 0).all()
    assert (kprune.masks(masked)["conv1"] == 0).any()


def test_the_share_of_a_cost_is_that_of_the_cost_model():
    costs = CostModel(kprune.trace(small_net(8)))
    widths = [3.0, 5.0]
    for name in ("macs", "params"):
        expected = costs.evaluate(np.array(widths))[name] / costs.full[name]
        share = float(read(cost_share(costs, name, widths)))
        assert share == pytest.approx(expected, rel=1e-5)
        whole = cost_share(costs, name, list(costs.sizes))
        assert float(read(whole)) == pytest.approx(1, rel=1e-6)
    width = keras.Variable(5.0)
    (slope,) = backends.gradients(
        lambda: cost_share(costs, "macs", [3.0, width.value]), [width]
    )
    rise = np.diff(costs.evaluate(np.array([[3, 5], [3, 6]]))["macs"])
    assert float(slope) == pytest.approx(rise[0] / costs.full["macs"], rel=1e-4)


def test_the_teacher_is_compared_by_probabilities_and_attention():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 4, 5)).astype("float32")
    p, q = (
        np.exp(z / 3) / np.exp(z / 3).sum(1, keepdims=True)
        for z in (one, other)
    )
    expected = 9 * (p * np.log(p / q)).sum(1).mean()
    found = float(read(divergence(one, other, 3.0, "classes")))
    assert found == pytest.approx(expected, rel=1e-4)
    softmax = [
        np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (one, other)
    ]
    again = float(read(divergence(*softmax, 3.0, "softmax")))
    assert again == pytest.approx(expected, rel=1e-4)
    p, q = (1 / (1 + np.exp(-z / 3)) for z in (one, other))
    each = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    sigmoids = [1 / (1 + np.exp(-z)) for z in (one, other)]
    for given, kind in (((one, other), "labels"), (sigmoids, "sigmoid")):
        found = float(read(divergence(*given, 3.0, kind)))
        assert found == pytest.approx(9 * each.mean(), rel=1e-3)
    found = float(read(divergence(one, other, 3.0, "values")))
    assert found == pytest.approx(np.square(one - other).mean(), rel=1e-4)
    features = rng.normal(size=(2, 3, 3, 4)).astype("float32")
    energy = np.square(features).mean(-1).reshape(2, 9)
    energy /= np.linalg.norm(energy, axis=1, keepdims=True)
    np.testing.assert_allclose(read(attention(features)), energy, rtol=1e-4)


def test_outputs_are_compared_as_what_they_are():
    inputs = keras.Input((4,))
    linear = keras.layers.Dense(3, name="linear")
    shaped = keras.layers.Dense(6, activation="softmax", name="shaped")(inputs)
    outputs = {
        "z": linear(inputs),
        "y": keras.layers.Dense(3, "sigmoid", name="sigmoid")(inputs),
        "x": keras.layers.Reshape((2, 3))(shaped),
        "w": keras.ops.softmax(keras.layers.Dense(3, name="op")(inputs)),
        "v": keras.layers.Dense(3, "tanh", name="tanh")(inputs),
        "u": keras.layers.Dense(1, name="one")(inputs),
    }
    model = keras.Model(inputs, outputs)
    names = sorted(outputs)
    fixed = ["values", "softmax", "softmax", "sigmoid"]
    for one, several, kinds in (
        ("mse", "mae", ("values", "values")),
        (
            keras.losses.BinaryCrossentropy(from_logits=True),
            keras.losses.CategoricalCrossentropy(from_logits=True),
            ("labels", "classes"),
        ),
        ("binary_crossentropy", "binary_crossentropy", ("labels", "labels")),
        (lambda y, z: z, lambda y, z: z, ("values", "classes")),
    ):
        model.compile(
            "sgd", dict.fromkeys(names[1:5], "mse") | {"u": one, "z": several}
        )
        expected = [kinds[0], *fixed, kinds[1]]
        assert compared_as(model, model) == expected


BINARY = keras.losses.BinaryCrossentropy
SEVERAL = keras.losses.CategoricalCrossentropy


def softmax(x, units=3):
    return keras.layers.Dense(units, "softmax")(x)


def timed(layer):
    return lambda x: keras.layers.TimeDistributed(layer)(x)


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (lambda x: keras.layers.Dense(3, "log_softmax")(x), "classes"),
        (lambda x: keras.ops.log_softmax(x), "classes"),
        (timed(keras.layers.Dense(2, "softmax")), "softmax"),
        (timed(keras.layers.Dense(2, "sigmoid")), "sigmoid"),
        (timed(keras.layers.Softmax(1)), "softmax"),
        (lambda x: keras.ops.reshape(softmax(x), (-1, 15)), "softmax"),
        (lambda x: keras.ops.cast(softmax(x), "float16"), "softmax"),
        (
            lambda x: keras.layers.Activation("linear", dtype="float16")(
                softmax(x)
            ),
            "softmax",
        ),
        (lambda x: keras.ops.clip(softmax(x), 1e-6, 1 - 1e-6), "softmax"),
        (
            lambda x: keras.ops.squeeze(
                keras.ops.sigmoid(keras.layers.Dense(1)(x)), -1
            ),
            "sigmoid",
        ),
        (lambda x: keras.ops.expand_dims(softmax(x), 1), "softmax"),
        (lambda x: keras.ops.expand_dims(softmax(x), -1), "values"),
        (lambda x: keras.layers.Dense(3, keras.ops.softmax)(x), "softmax"),
        # Only over the last axis.
        (lambda x: keras.layers.Softmax(axis=1)(x), "values"),
        (lambda x: keras.layers.Permute((2, 1))(softmax(x)), "values"),
        (
            lambda x: keras.layers.Permute((2, 1))(
                keras.layers.Softmax(axis=1)(x)
            ),
            "softmax",
        ),
        (
            lambda x: keras.ops.transpose(keras.ops.softmax(x, 1), (0, 2, 1)),
            "softmax",
        ),
        (
            lambda x: keras.layers.Permute((2, 1, 3))(
                softmax(keras.layers.Reshape((5, 2, 2))(x))
            ),
            "softmax",
        ),
        (
            lambda x: keras.ops.squeeze(
                keras.layers.Dense(1)(keras.layers.Flatten()(x)), -1
            ),
            "values",
        ),
    ],
)
def test_what_only_shapes_outputs_does_not_change_their_kind(end, kind):
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, end(inputs))
    assert compared_as(model, model) == [kind]


@pytest.mark.parametrize(
    ("loss", "unknown", "linear"),
    [
        (BINARY(), "sigmoid", "labels"),
        ("binary_crossentropy", "sigmoid", "labels"),
        (BINARY(from_logits=True), "labels", "labels"),
        ("categorical_crossentropy", "softmax", "classes"),
        (SEVERAL(), "softmax", "classes"),
        (SEVERAL(from_logits=True), "classes", "classes"),
        ("kl_divergence", "softmax", "classes"),
        ("mse", "values", "values"),
        (None, "classes", "classes"),
    ],
)
def test_the_loss_tells_probabilities_from_logits(loss, unknown, linear):
    inputs = keras.Input((4,))
    mean = keras.layers.Average()([softmax(inputs), softmax(inputs)])
    for output, kind in (
        (mean, unknown),
        (keras.layers.Dense(3)(inputs), linear),
    ):
        model = keras.Model(inputs, output)
        model.compile("sgd", loss)
        assert compared_as(model, model) == [kind]


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (BINARY(from_logits=True), "labels"),
        (SEVERAL(from_logits=True), "classes"),
        ("mse", "values"),
    ],
)
def test_a_distillers_loss_tells_what_its_student_returns(
    monkeypatch, loss, kind
):
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 3, name="a")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    student = keras.Model(inputs, keras.layers.Dense(4)(x))
    recipe = kprune.recipe("kdfs", {"macs": 0.3}, epochs=2)
    masked = recipe.prepare(student)
    training = keras.distillation.Distiller(
        keras.models.clone_model(student),
        masked,
        keras.distillation.LogitsDistillation(),
    )
    training.compile("sgd", loss)
    seen = []

    def note(*args):
        seen.extend(compared_as(*args))
        return list(seen)

    monkeypatch.setattr("kprune.callbacks.gate.compared_as", note)
    callback = recipe.callbacks[-1]
    callback.set_model(training)
    callback.set_params({"epochs": 2})
    callback.on_train_begin()
    callback.on_train_end()
    assert seen == [kind]


@pytest.mark.not_on("jax", reason="compiles for long what is the same there")
@pytest.mark.parametrize("name", ["kdfs", "manidp"])
def test_gates_train_in_mixed_precision(name):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        recipe = kprune.recipe(name, {"macs": 0.3}, epochs=2)
        masked = recipe.prepare(small_net(4))
        masked.compile("sgd", loss(), run_eagerly=True)
        history = masked.fit(
            *arrays(8), epochs=2, callbacks=recipe.callbacks, verbose=0
        ).history
    finally:
        keras.config.set_dtype_policy(policy)
    assert np.isfinite(history["loss"]).all()
    assert history["pruned_macs"][1] > 0


@pytest.mark.parametrize("name", ["kdfs", "manidp", "hgs"])
def test_an_own_train_step_must_take_the_added_loss(name):
    recipe = kprune.recipe(name, {"macs": 0.3}, data=arrays(8), epochs=3)
    masked = recipe.prepare(small_net(4))
    masked.compile("sgd", loss())
    callback = recipe.callbacks[1]
    callback.set_model(masked)
    callback.set_params({"epochs": 3, "steps": 1})
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    x, y = arrays(4)
    if name == "kdfs":
        with pytest.raises(ValueError, match=r"call self.compute_loss.x=x"):
            masked.compute_loss(y=y, y_pred=masked(x, training=True))
    with pytest.raises(ValueError, match=r"the train_step of .*compute_loss"):
        callback.on_epoch_end(0)  # no step was trained
    masked.compute_loss(x=x, y=y, y_pred=masked(x, training=True))
    callback.on_epoch_end(0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_gates_move_alike_at_any_learning_rate(optimizer):
    x, y = arrays(32)
    moved = []
    for rate in (1e-5, 1e-3):
        keras.utils.set_random_seed(0)
        masked = kprune.recipe("kdfs", {"macs": 0.5}, epochs=3).prepare(
            small_net(8)
        )
        compiled = keras.optimizers.get(optimizer)
        compiled.learning_rate = rate
        masked.compile(compiled, loss())
        callback = GateCallback(
            None, {"macs": 0.5}, kprune.OneShot(2), rate=0.25
        )
        seen = []

        def note(batch, logs, seen=seen, masked=masked):
            seen.append(
                np.concatenate([read(g.logits) for g in gates(masked).values()])
            )

        noting = keras.callbacks.LambdaCallback(on_train_batch_end=note)
        masked.fit(x, y, 8, 1, callbacks=[callback, noting], verbose=0)
        steps = np.diff(seen, axis=0)
        assert 0 < np.abs(steps).max() <= 0.25 * (1 + 1e-6)
        # A logit's largest step so far is a whole one.
        first = np.abs(seen[0] - 2)
        np.testing.assert_allclose(first[first > 0], 0.25, rtol=1e-4)
        moved.append(np.abs(seen[-1] - 2).mean())
    assert moved == pytest.approx([moved[0]] * 2, rel=0.3)


def test_steps_are_divided_by_the_largest_so_far():
    variable = keras.Variable([1.0, 1.0, 1.0])
    memory = keras.Variable([0.0, 0.0, 0.0], trainable=False)
    steps = NormalizedSteps([variable], [memory])
    model = models.dense_layers([4], 3)
    model.compile("sgd", loss())
    expected, largest = np.ones(3), np.zeros(3)
    for change in ([0.2, -0.1, 0], [0.1, 0.4, 0], [-0.4, 0, 0.3]):
        variable.assign_add(change)
        steps.normalize(model, 0.5)
        largest = np.maximum(0.999 * largest, np.abs(change))
        expected += 0.5 * np.array(change) / np.where(largest, largest, 1)
        np.testing.assert_allclose(read(variable), expected, rtol=1e-5)
        np.testing.assert_allclose(read(memory), largest, rtol=1e-5)
    variable.assign([7.0, 7.0, 7.0])  # by a callback that restores weights
    steps.start()
    steps.normalize(model, 0.5)
    assert (read(variable) == 7).all()


def test_short_runs_let_gates_travel_as_far_as_long_ones():
    masked = kprune.recipe("kdfs", {"macs": 0.5}, epochs=3).prepare(
        small_net(8)
    )
    masked.compile(keras.optimizers.SGD(1e-6), loss())
    callback = GateCallback(None, {"macs": 0.5}, kprune.OneShot(2))
    callback.set_model(masked)
    rates = []
    for steps in (1, 30, 1000, None):
        callback.set_params({"epochs": 3, "steps": steps})
        callback.on_train_begin()
        callback.on_epoch_begin(0)
        start = np.concatenate([read(g.logits) for g in gates(masked).values()])
        for gate in gates(masked).values():
            gate.logits.assign(gate.logits + 1e-6)
        callback.on_train_batch_end(0)
        end = np.concatenate([read(g.logits) for g in gates(masked).values()])
        rates.append(float((end - start).mean()))
    assert rates == pytest.approx([0.25, 0.1, 0.01, 0.01], rel=1e-4)


def test_a_model_without_gates_is_told_how_to_get_them():
    callback = GateCallback(None, {"macs": 0.5}, kprune.OneShot(1))
    masked = kprune.wrap(models.dense_layers([4], 3))
    masked.compile("sgd", loss())
    callback.set_model(masked)
    callback.set_params({"epochs": 2})
    with pytest.raises(ValueError, match="add_gates"):
        callback.on_train_begin()


@pytest.mark.parametrize("schedule", [None, "linear"])
def test_gates_close_whatever_the_schedule(schedule):
    masked = kprune.wrap(small_net(8))
    kprune.masking.add_gates(masked)
    masked.compile("sgd", loss())
    callback = GateCallback(
        reduce={"macs": 0.4}, schedule=schedule, distillation=0, modelling=0
    )
    history = masked.fit(
        dataset(count=16), epochs=4, callbacks=[callback], verbose=0
    ).history
    assert not any(gate.acts for gate in gates(masked).values())
    assert history["pruned_macs"][-1] >= 0.4
    if schedule is None:  # Gates have been trained before channels go.
        assert history["pruned_macs"][1] == 0
    kprune.rebuild(masked)


@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize("accumulated", [None, 4])
def test_logits_travel_as_far_however_batches_are_grouped(
    together, accumulated
):
    if together > 1 and keras.config.backend() == "torch":
        pytest.skip("PyTorch has no steps_per_execution")
    masked = kprune.wrap(small_net(8))
    kprune.masking.add_gates(masked)
    optimizer = keras.optimizers.SGD(
        0.1, gradient_accumulation_steps=accumulated
    )
    masked.compile(optimizer, loss(), steps_per_execution=together)
    callback = GateCallback(reduce={"macs": 0.5}, distillation=0, modelling=0)
    callback.set_model(masked)
    callback.set_params({"epochs": 3, "steps": 200})
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    changes = 2 * 200 / max(together, accumulated or 1)
    assert callback._step * changes == pytest.approx(6.0)
    callback.on_train_end()


def test_repair_refers_to_the_network_that_was_trained():
    masked = kprune.wrap(small_net(8))
    kprune.masking.add_gates(masked)
    masked.compile(keras.optimizers.SGD(0.0), loss())
    for gate in gates(masked).values():
        gate.logits.assign(np.linspace(-2, 2, 8))
    x, _ = arrays(8)
    trained = outputs(masked, x)
    seen = []

    def repair(session, before):
        with before.back_in(session.masked):
            seen.append(outputs(session.masked, x))

    callback = GateCallback(
        reduce={"macs": 0.5}, schedule="one_shot", recover=repair
    )
    masked.fit(dataset(count=16), epochs=1, callbacks=[callback], verbose=0)
    assert difference(seen[0], trained) <= 1e-5


def stream(blocks, form="channels_last"):
    """A stem and a residual stage, with a pooled head."""
    axis = 1 if form == "channels_first" else -1
    first = form == "channels_first"
    x = inputs = keras.Input((3, 8, 8) if first else (8, 8, 3))

    def conv(x, name):
        x = keras.layers.Conv2D(
            4, 3, padding="same", data_format=form, name=name
        )(x)
        return keras.layers.BatchNormalization(axis=axis)(x)

    x = keras.layers.ReLU()(conv(x, "stem"))
    for n in range(blocks):
        y = keras.layers.ReLU()(conv(x, f"a{n}"))
        x = keras.layers.Add()([x, conv(y, f"b{n}")])
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D(data_format=form)(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


@pytest.mark.parametrize("form", ["channels_last", "channels_first"])
def test_a_stage_that_a_pooled_head_reads_last_learns_its_features(form):
    model = stream(2, form)
    recipe = kprune.recipe(
        "kdfs", {"macs": 0.5}, epochs=3, distillation=0, penalty=0
    )
    masked = recipe.prepare(model)
    masked.compile("sgd", loss())
    callback = recipe.callbacks[-1]
    callback.set_model(masked)
    callback.set_params({"epochs": 3, "steps": 1})
    callback.on_train_begin()
    shape = (5, 3, 8, 8) if form == "channels_first" else (5, 8, 8, 3)
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    y, prediction = np.zeros(5, "int64"), masked(x, training=True)
    total = float(read(masked.compute_loss(x=x, y=y, y_pred=prediction)))
    added = total - float(read(loss()(y, prediction)))
    # What the second block reads is the last that has positions.
    decode = gates(masked)["stem"].decoder
    decoded = read(callback._features["stem"]) @ read(decode.kernel)
    taught = read(keras.Model(model.input, model.get_layer("a1").input)(x))
    if form == "channels_first":
        taught = np.moveaxis(taught, 1, -1)
    maps = [np.square(f).mean(-1).reshape(5, 64) for f in (decoded, taught)]
    one, other = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps)
    callback.on_train_end()
    expected = 1000 * np.square(one - other).mean()
    assert added == pytest.approx(expected, rel=1e-3)
    assert expected > 0.1


def test_features_that_cannot_be_compared_are_named(caplog):
    masked = kprune.wrap(stream(0))
    kprune.masking.add_gates(masked, decoders=["stem"])
    masked.compile("sgd", loss())
    callback = GateCallback(None, {"macs": 0.3}, kprune.OneShot(1))
    callback.set_model(masked)
    callback.set_params({"epochs": 3, "steps": 1})
    with caplog.at_level("WARNING", "kprune"):
        callback.on_train_begin()
    callback.on_train_end()
    assert "not compared" in caplog.text and "stem" in caplog.text
    recipe = kprune.recipe("kdfs", {"macs": 0.3}, epochs=3)
    found = gates(recipe.prepare(stream(0))).values()
    assert [gate.decoder for gate in found] == [None]


def test_a_teacher_with_other_names_is_refused_at_once():
    masked = kprune.wrap(models.convolutions([4, 4, 4]))
    kprune.masking.add_gates(masked, decoders=["conv1"])
    masked.compile("sgd", "mse")
    teacher = models.convolutions([4, 4, 4], names=["a", "b", "c"])
    callback = GateCallback(
        None, {"macs": 0.3}, kprune.OneShot(1), modelling=1.0, teacher=teacher
    )
    callback.set_model(masked)
    callback.set_params({"epochs": 3, "steps": 1})
    with pytest.raises(ValueError, match=r"none named \['conv2'\]"):
        callback.on_train_begin()
    wrappers = kprune.masking.filter_masks(masked)
    assert all(wrapper.observer is None for wrapper in wrappers)
