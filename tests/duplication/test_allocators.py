"""Allocations by measured losses."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from fitting import arrays
from fitting import loss
from fitting import small_net
from harness import difference
from harness import outputs
from harness import randomise
from models import dense_layers

import kprune
from kprune import allocation
from kprune.duplication import FUR
from kprune.duplication import Copies
from kprune.duplication import Importance
from kprune.duplication import Tolerance
from kprune.duplication.api import replace
from kprune.duplication.probes import ReplacementProbe

HALF = {"macs": 0.5}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = small_net(16)
    randomise(model)
    model.compile("sgd", loss(), metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def data():
    return arrays(32)


def problem(model, function, reduce=None):
    """A request, and a session whose loss is `function(number removed by group)`."""
    session = kprune.Session(kprune.wrap(model))
    scores = {
        g.name: np.random.default_rng(g.size).random(g.size)
        for g in session.groups
    }
    asked = allocation.request(session, reduce or HALF)

    def measure(masks, samples=None):
        gone = {name: int((m == 0).sum()) for name, m in masks.items()}
        for name, mask in masks.items():
            order = np.argsort(scores[name])
            assert not mask[order[: gone[name]]].any(), "not the lowest first"
        return function(gone)

    session.loss = measure
    return dataclasses.replace(asked, scores=scores), session


def net():
    """Groups of equal cost per channel share: dense layers in a row."""
    return dense_layers((40, 60, 50), inputs=30, outputs=30)


RATES = {"d0": 1.0, "d1": 2.0, "d2": 4.0}


def quadratic(gone):
    """Each group's loss rises with the square of the share removed."""
    sizes = {"d0": 40, "d1": 60, "d2": 50}
    return 1 + sum(RATES[n] * (k / sizes[n]) ** 2 for n, k in gone.items())


def test_one_tolerance_for_all_groups():
    """r_l(eps) = sqrt(eps / rate): the shares stand as 1 : 1/sqrt2 : 1/2."""
    tolerance = Tolerance()
    posed = problem(net(), quadratic)
    kept = tolerance.solve(*posed)
    report = tolerance.redundancy
    assert report.names == ("d0", "d1", "d2")
    ratios = report.ratios
    assert ratios[1] / ratios[0] == pytest.approx(0.5**0.5, abs=0.06)
    assert ratios[2] / ratios[0] == pytest.approx(0.5, abs=0.06)
    assert report.saved["macs"] == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(
        [r for r in ratios],
        [1 - kept[n].mean() for n in report.names],
    )
    # What goes costs no more than what stays would.
    rates = np.array(list(RATES.values()))
    most = (rates * ratios**2).max()
    stays = rates * (ratios + 2 / np.array([40, 60, 50])) ** 2
    assert most <= stays.min() + 1e-3


def test_the_lowest_scores_go_where_the_loss_is_flat():
    posed = problem(net(), lambda gone: 1.0)
    kept = Tolerance().solve(*posed)
    for name, mask in kept.items():
        scores = posed[0].scores[name]
        assert scores[~mask].max() < scores[mask].min()


def test_a_loss_that_falls_counts_as_no_rise():
    def dips(gone):
        return 1 - 0.1 * sum(gone.values()) if "d1" in gone else quadratic(gone)

    tolerance = Tolerance()
    tolerance.solve(*problem(net(), dips))
    assert tolerance.redundancy.losses[1] == 0
    assert tolerance.redundancy.ratios[1] == tolerance.redundancy.ratios.max()


def test_a_loss_that_is_not_finite_keeps_the_filters():
    def explodes(gone):
        return np.nan if gone.get("d0", 0) > 10 else 1.0

    tolerance = Tolerance()
    kept = tolerance.solve(*problem(net(), explodes))
    assert (~kept["d0"]).sum() <= 10


@pytest.mark.parametrize("kind", [Tolerance, Importance, FUR])
def test_a_model_whose_loss_is_not_finite_is_refused(kind):
    request, session = problem(net(), lambda gone: np.nan)
    session.loss = lambda masks=None, samples=None: np.nan
    with pytest.raises(ValueError, match="The loss is nan"):
        kind().solve(request, session)


def test_floors_hold():
    tolerance = Tolerance(keep_min=5, max_share=0.6)
    kept = tolerance.solve(*problem(net(), lambda gone: 1.0, {"macs": 0.7}))
    assert all(mask.mean() >= 0.4 - 1e-9 for mask in kept.values())
    with pytest.raises(ValueError, match="at most"):
        tolerance.solve(*problem(net(), lambda gone: 1.0, {"macs": 0.9}))


def test_importance_by_hand():
    """D_l = floor(n rho (1 - a)): nothing of the most important group goes."""
    losses = {"d0": 1.0, "d1": 1.5, "d2": 3.0}

    def step(gone):
        return 1.0 + max((losses[n] - 1 for n in gone), default=0.0)

    importance = Importance()
    kept = importance.solve(*problem(net(), step, {"macs": 0.4}))
    ratios = [1 - kept[n].mean() for n in ("d0", "d1", "d2")]
    assert ratios[2] == pytest.approx(0, abs=0.03)
    # 1 - a is 1 for d0 and 0.75 for d1.
    assert ratios[1] / ratios[0] == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("name", ["tolerance", "importance"])
def test_by_name_in_prune_and_duplicate(model, data, name):
    pruned = kprune.prune(model, reduce=HALF, allocation=name, data=data)
    masked = kprune.duplicate(model, reduce=HALF, allocation=name, data=data)
    small, reference = kprune.rebuild(masked), kprune.rebuild(pruned)
    macs = kprune.cost(model).macs
    assert kprune.cost(small).macs == kprune.cost(reference).macs <= macs / 2


def test_copies_written_for_a_trial_are_undone(model, data):
    masked = kprune.wrap(model)
    tolerance = Tolerance(Copies(consumers="naive"), shares=4)
    masked = kprune.prune(masked, reduce=HALF, allocation=tolerance, data=data)
    alive = kprune.masks(masked)
    plain = kprune.wrap(model)
    kprune.set_masks(plain, alive)
    x, _ = data
    assert difference(outputs(masked, x), outputs(plain, x)) < 1e-4


def test_naive_trials_measure_copies(model, data):
    """The loss of the model with naive copies, measured by hand."""
    tolerance = Tolerance("naive", shares=2, samples=None)
    kprune.prune(model, reduce=HALF, allocation=tolerance, data=data)
    report = tolerance.redundancy
    group, size = report.names[0], int(report.sizes[0])
    session = kprune.Session(kprune.wrap(model), data)
    policy = kprune.pruning.Policy(session, "l1", HALF, tolerance)
    asked = policy.request(scores=policy.score())
    rise = tolerance.measure(asked, session)[0][int(0.95 * size)]
    masked = kprune.duplicate(
        model, allocation={group: int(0.95 * size) / size},
        copies=tolerance.copies,
    )  # fmt: skip
    by_hand = (
        masked.evaluate(*data, verbose=0)[0]
        - model.evaluate(*data, verbose=0)[0]
    )
    assert rise == pytest.approx(max(by_hand, 0), abs=1e-4)


def test_curves_measured_before(model, data):
    curves = kprune.sensitivity(model, data)
    known = Tolerance(curves=curves)
    fresh = Tolerance(samples=None)
    assert not known.needs_loss and fresh.needs_loss
    a = kprune.prune(model, reduce=HALF, allocation=known)
    b = kprune.prune(model, reduce=HALF, allocation=fresh, data=data)
    for name, mask in kprune.masks(a).items():
        np.testing.assert_array_equal(mask, kprune.masks(b)[name])
    np.testing.assert_allclose(
        known.redundancy.losses, fresh.redundancy.losses, atol=1e-5
    )


def test_foreign_curves_are_refused(model, data):
    other = small_net(8)
    other.compile("sgd", loss())
    curves = kprune.sensitivity(other, data)
    with pytest.raises(ValueError, match="channels for group"):
        kprune.prune(model, allocation=Tolerance(curves=curves))


def test_the_report_prints(model, data):
    tolerance = Tolerance(shares=3)
    kprune.prune(model, reduce=HALF, allocation=tolerance, data=data)
    text = str(tolerance.redundancy)
    for name, ratio in zip(
        tolerance.redundancy.names, tolerance.redundancy.ratios, strict=True
    ):
        assert name in text and f"{ratio:.0%}" in text
    assert "of the macs" in text


def test_without_data(model):
    with pytest.raises(ValueError, match="measures the loss"):
        kprune.duplicate(model, reduce=HALF)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Tolerance(shares=1), "shares"),
        (lambda: Tolerance(samples=0), "samples"),
        (lambda: Tolerance("cut"), "'cut'"),
        (lambda: Importance(share=1), "share"),
        (lambda: Importance(keep_min=0), "keep_min"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_copies_are_measured_as_they_are_made(model, data):
    """With samples, slopes and constants are fitted to them."""
    copies = Copies(consumers="absorb")
    session = kprune.Session(kprune.wrap(model), data)
    scores = session.score("l1")
    asked = dataclasses.replace(
        allocation.request(session, HALF), scores=scores
    )
    probe = ReplacementProbe(asked, session, copies, None)
    name = session.groups[0].name
    measured = probe(name, 8)
    mask = np.ones(16)
    mask[np.argsort(scores[name])[:8]] = 0
    replace(session, {name: mask}, scores, session.alive(), copies)
    assert measured == pytest.approx(session.loss(), rel=1e-5)
