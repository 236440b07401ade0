"""Repairs lead back to the model with its gates, whichever were closed."""

import keras
import numpy as np
import pytest
from fitting import arrays
from fitting import dataset
from fitting import loss
from fitting import small_net
from harness import difference
from harness import outputs
from harness import randomise

import kprune
from kprune.callbacks import GateCallback
from kprune.graph.values import read
from kprune.masking import add_gates
from kprune.masking import close_gates
from kprune.masking import gates
from kprune.recovery import InteractionMatch
from kprune.recovery import Mimic
from kprune.recovery import recover

X, _ = arrays(64)
CLOSED = np.array([-3.0, 3.0] * 4)
LABEL_FREE = [Mimic(steps=2), InteractionMatch(steps=2)]


def gated(logits=CLOSED):
    """A masked model with gates, and its session."""
    model = small_net(8)
    randomise(model)
    masked = kprune.wrap(model)
    for gate in add_gates(masked).values():
        gate.logits.assign(logits)
    masked.compile(keras.optimizers.SGD(0.0), loss())
    return masked, kprune.Session(masked, X)


def error(a, b):
    return float(np.mean((a[0] - b[0]) ** 2))


@pytest.mark.parametrize(
    "recovery",
    ["reconstruct", "bias", "merge", *LABEL_FREE],
    ids=lambda r: r if isinstance(r, str) else type(r).__name__,
)
def test_removing_what_gates_had_closed_needs_no_repair(recovery):
    masked, session = gated()
    start = outputs(masked, X)
    before = session.snapshot()
    close_gates(masked)
    recover(session, before, recovery)
    assert difference(start, outputs(masked, X)) < 1e-4


def test_removing_an_open_channel_is_made_up_for():
    errors = {}
    for repairs in ([], "bias", "reconstruct"):
        masked, session = gated(np.array([-3.0, 3.0, 3.0, 3.0] * 2))
        start = outputs(masked, X)
        before = session.snapshot()
        close_gates(masked)
        mask = np.array([0.0, 1.0, 0.0, 1.0] * 2)
        session.remove({"conv1": mask, "conv3": mask})
        recover(session, before, repairs)
        errors[str(repairs)] = error(start, outputs(masked, X))
    assert errors["bias"] < 0.8 * errors["[]"]
    assert errors["reconstruct"] < 0.3 * errors["[]"]


@pytest.mark.parametrize(
    "recovery", ["reconstruct", Mimic(steps=2)], ids=["refit", "mimic"]
)
def test_a_closed_channel_may_come_back(recovery):
    masked, session = gated()
    start = outputs(masked, X)
    before = session.snapshot()
    for gate in gates(masked).values():
        gate.acts = False
    opened = error(start, outputs(masked, X))
    recover(session, before, recovery)
    assert error(start, outputs(masked, X)) < opened


@pytest.mark.parametrize(
    ("schedule", "recovery"),
    [("one_shot", Mimic(steps=2)), ("linear", "reconstruct")],
    ids=["at once", "by and by"],
)
def test_gates_are_trained_and_removed_with_a_repair(schedule, recovery):
    masked, _ = gated(np.linspace(-1, 3, 8))
    callback = GateCallback(
        reduce={"macs": 0.5},
        schedule=schedule,
        data=X,
        recover=recovery,
        distillation=0,
        modelling=0,
    )
    masked.fit(dataset(count=16), epochs=2, callbacks=[callback], verbose=0)
    assert not any(gate.acts for gate in gates(masked).values())
    assert kprune.cost(masked).macs <= 0.5 * kprune.cost(small_net(8)).macs


def test_a_closed_gate_may_open_again_after_a_repair():
    masked, session = gated()
    before = session.snapshot()
    layer = masked.get_layer("conv3").layer
    norm = masked.get_layer("norm1").layer
    kernel, mean = read(layer.kernel).copy(), read(norm.moving_mean).copy()
    session.remove({"conv1": np.array([1.0, 1, 1, 1, 1, 0, 1, 0])})
    start = outputs(masked, X)
    recover(session, before, ["reconstruct", "bn"])
    assert difference(start, outputs(masked, X)) > 1e-3
    assert all(gate.acts for gate in gates(masked).values())
    np.testing.assert_array_equal(
        kprune.masks(masked)["conv1"], [1, 1, 1, 1, 1, 0, 1, 0]
    )
    np.testing.assert_array_equal(kprune.masks(masked)["conv3"], np.ones(8))
    # The weights of closed channels wait as they were.
    now = read(layer.kernel)[:, :, [0, 1, 2, 3, 4, 6]]
    kernel = kernel[:, :, [0, 1, 2, 3, 4, 6]]
    np.testing.assert_array_equal(now[..., ::2], kernel[..., ::2])
    np.testing.assert_array_equal(now[:, :, 4:], kernel[:, :, 4:])
    assert (now[:, :, 1:4:2, 1::2] != kernel[:, :, 1:4:2, 1::2]).all()
    np.testing.assert_array_equal(read(norm.moving_mean)[::2], mean[::2])
