"""Similar filters go first, and never both of a pair."""

from __future__ import annotations

import itertools
import types

import hypothesis
import keras
import numpy as np
import pytest
from fitting import dataset
from fitting import loss
from fitting import small_net
from hypothesis import given
from hypothesis import strategies as st
from models import dense_layers

import kprune
from kprune.allocation import Global
from kprune.allocation import SimilarityThreshold
from kprune.callbacks import PruneCallback
from kprune.callbacks import SoftPruneCallback
from kprune.criteria import Similarity
from kprune.criteria import twins

MEASURES = ("distance", "cosine", "pearson", "euclidean")


def group(*kernels, name="group"):
    """A group whose channels have these filters, `(size, d)` per producer."""
    producers = [
        types.SimpleNamespace(name="kernel", matrix=lambda k=k: k)
        for k in kernels
    ]
    size = len(kernels[0])
    return types.SimpleNamespace(name=name, producers=producers, size=size)


def rows(seed, count=8, length=5):
    return np.random.default_rng(seed).normal(size=(count, length))


# -- the literal method --------------------------------------------------------


def similarity(a, b, measure, mean=1.0):
    if measure == "distance":
        return 1 - np.linalg.norm(a - b) / mean
    if measure == "euclidean":
        apart = np.linalg.norm(a - b)
        return 1 - apart / (np.linalg.norm(a) + np.linalg.norm(b))
    if measure == "pearson":
        return np.corrcoef(a, b)[0, 1]
    return a @ b / np.sqrt((a @ a) * (b @ b))


def table(filters, measure):
    pairs = itertools.product(filters, repeat=2)
    mean = np.mean([np.linalg.norm(a) for a in filters])
    flat = [similarity(a, b, measure, mean) for a, b in pairs]
    return np.reshape(flat, (len(filters), len(filters)))


def drop_pairs(s, lengths, threshold, by_sum=True):
    """Greedy selection over the pairs above a threshold, as the paper's text."""
    alive = set(range(len(s)))
    pairs = itertools.combinations(range(len(s)), 2)
    above = sorted((p for p in pairs if s[p] > threshold), key=lambda p: -s[p])
    for pair in above:
        if alive.issuperset(pair):
            one, two = (sum(s[i, k] for k in alive - {i}) for i in pair)
            if abs(one - two) < 1e-9 or not by_sum:
                one, two = (-lengths[i] for i in pair)
            alive.discard(pair[0] if one > two else pair[1])
    return set(range(len(s))) - alive


def drop_means(s, nearest, lengths, threshold):
    """While one is above the threshold, the one most like its nearest goes."""
    alive = set(range(len(s)))
    while len(alive) > 1:
        means = {
            i: np.mean(sorted(s[i, k] for k in alive - {i})[-nearest:])
            for i in alive
        }
        most = max(means.values())
        if most <= threshold:
            break
        equal = [i for i in alive if means[i] > most - 1e-9]
        alive.discard(min(equal, key=lambda i: lengths[i]))
    return set(range(len(s))) - alive


def dropped(scores, threshold):
    return set(np.flatnonzero(scores < 1 - threshold))


@given(
    seed=st.integers(0, 999),
    count=st.integers(2, 12),
    length=st.integers(3, 9),
    measure=st.sampled_from(MEASURES),
    reduce=st.sampled_from(["max", "mean", 1, 3]),
    threshold=st.floats(-1, 1),
)
def test_a_threshold_on_scores_is_the_literal_selection(
    seed, count, length, measure, reduce, threshold
):
    filters = rows(seed, count, length)
    lengths = np.linalg.norm(filters, axis=1)
    hypothesis.assume(lengths.min() > 0.06 * lengths.mean())
    scores = Similarity(measure, reduce).score(group(filters))
    s = table(filters, measure)
    hypothesis.assume(np.abs(1 - scores - threshold).min() > 1e-6)
    # Below what a measure can give there is nothing that all would drop.
    hypothesis.assume(threshold > (0 if measure == "euclidean" else -1))
    if reduce == "max":
        by_sum = measure != "distance"
        expected = drop_pairs(s, lengths, threshold, by_sum)
    else:
        nearest = count if reduce == "mean" else reduce
        expected = drop_means(s, nearest, lengths, threshold)
    assert dropped(scores, threshold) == expected


def mlp(sizes=(12, 9, 7)):
    keras.utils.set_random_seed(0)
    return dense_layers(sizes, inputs=6)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("measure", MEASURES)
def test_the_threshold_found_is_that_of_a_bisection(measure, share):
    """Shares per layer come from nothing but the target."""
    model = mlp()
    kernels = [
        np.array(keras.ops.convert_to_numpy(model.get_layer(f"d{n}").kernel)).T
        for n in range(3)
    ]
    tables = [table(k, measure) for k in kernels]
    lengths = [np.linalg.norm(k, axis=1) for k in kernels]

    def select(threshold):
        return [
            drop_pairs(s, norms, threshold, measure != "distance")
            for s, norms in zip(tables, lengths, strict=True)
        ]

    def macs(gone):
        kept = [len(k) - len(g) for k, g in zip(kernels, gone, strict=True)]
        return sum(a * b for a, b in itertools.pairwise([6, *kept, 3]))

    full = macs([(), (), ()])
    low, high = -3.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if macs(select(middle)) <= (1 - share) * full:
            low = middle
        else:
            high = middle
    allocation = SimilarityThreshold(max_share=1.0)
    # What the solver puts back to use up the budget is not the threshold's.
    allocation.restore = 0
    masked = kprune.prune(
        model, Similarity(measure), {"macs": share}, allocation
    )
    masks = kprune.masks(masked)
    for n, gone in enumerate(select(low)):
        assert set(np.flatnonzero(masks[f"d{n}"] == 0)) == gone
    # With it, no filter goes that the threshold spares.
    masked = kprune.prune(
        model,
        Similarity(measure),
        {"macs": share},
        SimilarityThreshold(max_share=1.0),
    )
    for n, gone in enumerate(select(low)):
        assert set(np.flatnonzero(kprune.masks(masked)[f"d{n}"] == 0)) <= gone


# -- invariants ----------------------------------------------------------------


@given(
    seed=st.integers(0, 999),
    measure=st.sampled_from(MEASURES),
    pair=st.permutations(range(8)),
)
def test_of_a_lone_pair_one_stays_and_duplicates_go_first(seed, measure, pair):
    i, j = pair[:2]
    filters = rows(seed, length=20)
    filters[j] = filters[i]
    scores = Similarity(measure).score(group(filters))
    first, second = np.argsort(scores)[:2]
    assert first in (i, j)
    assert scores[first] == pytest.approx(0, abs=1e-7)
    # The other one goes when its likeness to the rest says so.
    assert second not in (i, j) or scores[second] > 1e-3


@given(seed=st.integers(0, 999), scale=st.floats(0.3, 3))
def test_of_parallel_filters_the_longest_stays(seed, scale):
    filters = rows(seed)
    hypothesis.assume(abs(scale - 1) > 1e-6)
    filters[3] = scale * filters[6]
    scores = Similarity("cosine").score(group(filters))
    assert np.argmin(scores) == (3 if scale < 1 else 6)


@given(
    seed=st.integers(0, 999),
    measure=st.sampled_from(["cosine", "pearson"]),
    scale=st.floats(0.3, 3),
)
def test_lengths_do_not_matter(seed, measure, scale):
    filters = rows(seed)
    before = Similarity(measure).score(group(filters))
    filters[2] *= scale
    after = Similarity(measure).score(group(filters))
    # Of the last two, length decides: they are alike to all others that stay.
    most = np.argsort(before)[:-2]
    np.testing.assert_allclose(after[most], before[most], atol=1e-9)


def test_a_common_scale_leaves_euclidean_alone():
    filters = rows(0)
    np.testing.assert_allclose(
        Similarity("euclidean").score(group(100 * filters)),
        Similarity("euclidean").score(group(filters)),
    )


def test_opposite_filters_are_not_redundant():
    filters = np.eye(4)
    filters[3] = -filters[0]
    scores = Similarity("cosine").score(group(filters))
    assert sorted(scores[[0, 3]])[-1] == pytest.approx(2)
    assert (scores[[1, 2]] <= 1 + 1e-9).all()


@pytest.mark.parametrize("reduce", ["max", "mean", 2])
@pytest.mark.parametrize("standardize", [False, True])
def test_dead_filters_go_first_and_do_not_take_part(reduce, standardize):
    filters = rows(1)
    criterion = Similarity(reduce=reduce, standardize=standardize)
    alone = criterion.score(group(filters[2:]))
    filters[:2] = 0
    scores = criterion.score(group(filters))
    np.testing.assert_array_equal(scores[2:], alone)
    assert scores[:2].max() < alone.min()


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    "filters",
    [np.zeros((3, 4)), np.ones((3, 4)), np.zeros((3, 0)), np.ones((3, 1))],
    ids=["dead", "equal", "padding", "scalars"],
)
def test_degenerate_groups_have_finite_scores(measure, filters):
    for criterion in (Similarity(measure), Similarity(measure, 2, True)):
        assert np.isfinite(criterion.score(group(filters))).all()


@pytest.mark.parametrize("measure", MEASURES)
def test_filters_that_are_nearly_0_go_first_whatever_their_direction(measure):
    filters = rows(2, 12, 20)
    filters[[1, 5, 7]] *= 0.02
    scores = Similarity(measure).score(group(filters))
    assert set(np.argsort(scores)[:3]) == {1, 5, 7}


def test_short_filters_stay_short_when_others_are_removed():
    filters = rows(3)
    filters /= np.linalg.norm(filters, axis=1, keepdims=True)
    filters[0] *= 0.04
    before = Similarity().score(group(filters))
    filters[4:] = 0
    after = Similarity().score(group(filters))
    assert before[0] == after[0] < min(before[1:].min(), after[1:4].min())


def test_of_the_nearest_pair_the_shorter_goes():
    filters = 10 * np.eye(5)
    filters[4] = 0.9 * filters[1]
    scores = Similarity("distance").score(group(filters))
    assert np.argmin(scores) == 4
    assert scores[4] == pytest.approx(1.0 / 9.8)


def test_producers_are_joined():
    one, two = rows(0), rows(1, length=3)
    np.testing.assert_allclose(
        Similarity().score(group(one, two)),
        Similarity().score(group(np.hstack([one, two]))),
    )


def test_standardized_scores_forget_how_wide_a_layer_spreads():
    short, long = rows(0, 64, 4), rows(1, 64, 400)
    plain = [Similarity("cosine").score(group(k)).mean() for k in (short, long)]
    even = [
        Similarity("cosine", standardize=True).score(group(k)).mean()
        for k in (short, long)
    ]
    assert abs(plain[0] - plain[1]) > 0.3
    s = table(short, "cosine")[np.triu_indices(64, 1)]
    expected = 1 - (s - s.mean()) / s.std()
    scores = Similarity("cosine", standardize=True).score(group(short))
    assert scores.min() == pytest.approx(expected.min())
    # In standard deviations both groups are alike.
    assert abs(even[0] - even[1]) < 1.0


def test_wrong_arguments_are_said():
    with pytest.raises(ValueError, match="Did you mean 'cosine'"):
        Similarity("cosin")
    for reduce in ("top", 0, True, 2.5):
        with pytest.raises(ValueError, match="whole number, 1 or more"):
            Similarity(reduce=reduce)


# -- in use --------------------------------------------------------------------


def test_the_names_reach_it():
    masked = kprune.prune(
        small_net(), "similarity", {"params": 0.4}, allocation="similarity"
    )
    full = kprune.cost(small_net()).params
    assert kprune.rebuild(masked).count_params() <= 0.6 * full
    allocation = kprune.allocation.get("similarity")
    assert isinstance(allocation, Global)
    assert allocation.normalize == "none"


@pytest.mark.parametrize("callback", [PruneCallback, SoftPruneCallback])
def test_hard_and_soft_iterations_meet_the_target(callback):
    masked = kprune.wrap(small_net())
    masked.compile("sgd", loss(), jit_compile=False)
    schedule = kprune.schedules.Linear(begin=0, end=2)
    history = masked.fit(
        dataset(),
        epochs=4,
        verbose=0,
        callbacks=[
            callback(
                "similarity",
                {"macs": 0.6},
                schedule=schedule,
                allocation="similarity",
            )
        ],
    ).history
    assert history["pruned_macs"][-1] >= 0.6
    early = history["pruned_macs"][1]
    assert early >= 0.4 if callback is PruneCallback else early == 0


# -- twins ---------------------------------------------------------------------


@given(
    seed=st.integers(0, 999),
    measure=st.sampled_from(MEASURES),
    mask=st.lists(st.booleans(), min_size=8, max_size=8).filter(any),
)
def test_the_donor_is_the_most_similar_kept_filter(seed, measure, mask):
    filters = rows(seed)
    donors, scales = twins(group(filters), np.array(mask, float), measure)
    s = table(filters, measure)
    kept = np.flatnonzero(mask)
    for i, (donor, scale) in enumerate(zip(donors, scales, strict=True)):
        if mask[i]:
            assert (donor, scale) == (i, 1)
        else:
            assert donor in kept
            assert s[i, donor] == pytest.approx(s[i, kept].max())
            best = filters[i] @ filters[donor] / (filters[donor] ** 2).sum()
            assert scale == pytest.approx(max(best, 0))


def test_merging_parallel_filters_is_exact():
    model = mlp(sizes=(6,))
    layer, head = model.get_layer("d0"), model.get_layer("head")
    kernel = rows(0, 6, 6)
    kernel[:, [3, 5]] = kernel[:, [0, 1]] * [2.0, 0.5]
    layer.kernel.assign(kernel)
    x = rows(5, 10, 6).astype("float32")
    before = keras.ops.convert_to_numpy(model(x))
    mask = np.array([1, 1, 1, 0, 1, 0])
    donors, scales = twins(kprune.trace(model)["d0"], mask)
    assert donors[[3, 5]].tolist() == [0, 1]
    np.testing.assert_allclose(scales[[3, 5]], [2.0, 0.5], rtol=1e-6)
    weights = np.array(keras.ops.convert_to_numpy(head.kernel))
    for i in (3, 5):
        weights[donors[i]] += scales[i] * weights[i]
    head.kernel.assign(weights)
    masked = kprune.wrap(model)
    kprune.set_masks(masked, {"d0": mask})
    after = kprune.rebuild(masked)(x)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(after), before, rtol=1e-4, atol=1e-5
    )


def test_dead_and_opposite_filters_get_no_weight():
    filters = np.array([[1.0, 0], [0, 0], [-1, 0], [0, 0]])
    donors, scales = twins(group(filters), np.array([1, 1, 0, 0]))
    assert donors.tolist() == [0, 1, 0, 0]
    assert scales.tolist() == [1, 1, 0, 0]
    with pytest.raises(ValueError, match="none can replace others"):
        twins(group(filters), np.array([0, 1, 0, 0]))
    with pytest.raises(ValueError, match=r"must have shape \(4,\)"):
        twins(group(filters), np.array([1, 0]))
