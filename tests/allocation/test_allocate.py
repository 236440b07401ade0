from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kprune import allocation
from kprune.allocation import Global
from kprune.allocation import Uniform
from kprune.allocation._manual import Manual


@dataclasses.dataclass
class Group:
    name: str
    size: int
    pinned: str | None = None


@dataclasses.dataclass
class Coverage:
    pinned: int
    total: int
    reasons: dict


class Graph:
    def __init__(self, **sizes):
        self.prunable = tuple(Group(n, s) for n, s in sizes.items())
        self.groups = (
            *self.prunable,
            Group("head", 10, "feeds the model output"),
        )
        total = 10 + sum(sizes.values())
        self.coverage = Coverage(10, total, {"feeds the model output": 10})


class Chain:
    """3 input channels, the groups one behind the other, 10 outputs."""

    def __init__(self, graph, area=(64, 16, 4, 1)):
        self.area = np.array(area[: len(graph.prunable) + 1])
        self.full = self.evaluate(np.array([g.size for g in graph.prunable]))

    def evaluate(self, kept):
        widths = np.concatenate([[3], kept, [10]]).astype(float)
        edges = widths[:-1] * widths[1:]
        return {"macs": float(edges @ self.area), "params": float(edges.sum())}


@pytest.fixture
def graph():
    return Graph(a=16, b=32, c=64)


@pytest.fixture
def cost(graph):
    return Chain(graph)


@pytest.fixture
def scores(graph):
    rng = np.random.default_rng(0)
    return {g.name: rng.random(g.size) + 0.1 for g in graph.prunable}


class Session:
    """Stands in for a session: no model, only a graph and its costs."""

    def __init__(self, graph, cost, alive=None):
        self.graph, self.cost_model = graph, cost
        self._alive = alive or {g.name: np.ones(g.size) for g in graph.prunable}

    def alive(self):
        return {name: mask > 0 for name, mask in self._alive.items()}


def allocate(graph, scores, reduce, kind, cost, alive=None, fraction=1.0):
    session = Session(graph, cost, alive)
    return allocation.allocate(session, scores, reduce, kind, fraction)


def counts(masks):
    return np.array([int(m.sum()) for m in masks.values()])


def reduction(cost, masks, key="macs"):
    return 1 - cost.evaluate(counts(masks))[key] / cost.full[key]


@pytest.mark.parametrize(
    "kind", ["uniform", "global", Global(normalize="rank")]
)
@pytest.mark.parametrize("target", [{"macs": 0.3}, {"params": 0.75}, None])
def test_targets_are_reached_from_the_safe_side(
    graph, cost, scores, kind, target
):
    masks = allocate(graph, scores, target, kind, cost)
    for key, share in (target or {"macs": 0.5}).items():
        assert 0 <= reduction(cost, masks, key) - share < 0.06
    for group in graph.prunable:
        assert masks[group.name].shape == (group.size,)
        assert set(np.unique(masks[group.name])) <= {0.0, 1.0}


def test_two_targets_hold_together(graph, cost, scores):
    masks = allocate(
        graph, scores, {"macs": 0.3, "params": 0.7}, "global", cost
    )
    assert reduction(cost, masks, "macs") >= 0.3
    assert reduction(cost, masks, "params") >= 0.7


def test_uniform_takes_the_same_share_up_to_one_filter(graph, cost, scores):
    masks = allocate(graph, scores, {"macs": 0.6}, "uniform", cost)
    kept = counts(masks)
    for i, j in ((0, 1), (1, 2)):
        sizes = np.array([16, 32, 64])
        gap = abs(kept[i] / sizes[i] - kept[j] / sizes[j])
        assert gap <= 1 / sizes[i] + 1 / sizes[j]


def test_uniform_ignores_how_groups_compare(graph, cost, scores):
    scaled = {**scores, "a": scores["a"] * 1000}
    for key, mask in allocate(graph, scores, None, "uniform", cost).items():
        np.testing.assert_equal(
            mask, allocate(graph, scaled, None, "uniform", cost)[key]
        )


def test_global_takes_more_where_scores_spread_more(graph, cost):
    flat = {g.name: np.linspace(1, 1.1, g.size) for g in graph.prunable}
    flat["b"] = np.linspace(0, 2.1, 32)
    masks = allocate(graph, flat, {"params": 0.3}, "global", cost)
    assert counts(masks)[1] < 32
    assert counts(masks)[0] == 16


@pytest.mark.parametrize("how", ["mean", "max", "l2"])
def test_global_is_blind_to_a_groups_scale(graph, cost, scores, how):
    scaled = {**scores, "a": scores["a"] * 1000}
    kind = Global(normalize=how)
    np.testing.assert_equal(
        counts(allocate(graph, scores, None, kind, cost)),
        counts(allocate(graph, scaled, None, kind, cost)),
    )


def test_global_without_normalisation_sees_the_scale(graph, cost, scores):
    scaled = {**scores, "a": scores["a"] * 1000}
    masks = allocate(
        graph, scaled, {"macs": 0.3}, Global(normalize="none"), cost
    )
    assert masks["a"].all()


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", [0.5, 0.0, 1.5, 2.0]),
        ("max", [0.25, 0.0, 0.75, 1.0]),
        ("l2", np.array([1, 0, 3, 4]) / np.sqrt(26)),
        ("minmax", [0.25, 0.0, 0.75, 1.0]),
        ("zscore", np.array([-1, -2, 1, 2]) / np.sqrt(2.5)),
        ("rank", [0.375, 0.125, 0.625, 0.875]),
        ("none", [1, 0, 3, 4]),
    ],
)
def test_normalisations(how, expected):
    graph = Graph(a=5)
    request = allocation.Request(
        graph,
        Chain(graph),
        {},
        {"a": np.array([1.0, 0.0, 3.0, 4.0, 99.0])},
        {"a": np.array([True, True, True, True, False])},
    )
    (values,) = Global(normalize=how).priorities(request, None)
    np.testing.assert_allclose(values[:4], expected)


@pytest.mark.parametrize(
    "how", ["mean", "max", "l2", "minmax", "zscore", "rank"]
)
def test_groups_of_equal_or_zero_scores_are_no_trouble(graph, cost, how):
    zeros = {g.name: np.zeros(g.size) for g in graph.prunable}
    masks = allocate(graph, zeros, None, Global(normalize=how), cost)
    assert reduction(cost, masks) >= 0.5


def test_what_is_gone_stays_gone_and_counts(graph, cost, scores):
    first = allocate(graph, scores, {"macs": 0.3}, "global", cost)
    other = {name: -values for name, values in scores.items()}
    second = allocate(graph, other, {"macs": 0.6}, "global", cost, alive=first)
    assert 0.6 <= reduction(cost, second) < 0.66
    for name, mask in second.items():
        assert not (mask.astype(bool) & ~first[name].astype(bool)).any()
    third = allocate(graph, scores, {"macs": 0.6}, "global", cost, alive=second)
    np.testing.assert_equal(third, second)


@pytest.mark.parametrize("kind", ["uniform", "global", {"b": 0.5}, {"a": 0.0}])
def test_met_agrees_with_allocate(graph, cost, scores, kind):
    goal = {"macs": 0.4}

    def met(alive=None, fraction=1.0):
        asked = allocation.request(Session(graph, cost, alive), goal, kind)
        asked = dataclasses.replace(asked, fraction=fraction)
        return allocation.get(kind).met(asked)

    assert not met()
    masks = allocate(graph, scores, goal, kind, cost)
    assert met(masks)
    assert met(fraction=0.0)
    again = allocate(graph, scores, goal, kind, cost, alive=masks)
    np.testing.assert_equal(again, masks)


def test_a_fraction_goes_part_of_the_way(graph, cost, scores):
    half = allocate(graph, scores, {"macs": 0.6}, "global", cost, fraction=0.5)
    assert 0.3 <= reduction(cost, half) < 0.36
    shares = allocate(graph, scores, None, {"c": 0.5}, cost, fraction=0.5)
    assert counts(shares).tolist() == [16, 32, 48]


def test_a_dictionary_gives_shares_and_nothing_else_goes(graph, cost, scores):
    masks = allocate(graph, scores, None, {"a": 0.25, "c": 0.5}, cost)
    assert counts(masks).tolist() == [12, 32, 32]
    lowest = np.argsort(scores["a"])[:4]
    assert (masks["a"][lowest] == 0).all()


def test_a_dictionary_with_a_target_leaves_the_rest_to_the_others(
    graph, cost, scores
):
    masks = allocate(graph, scores, {"macs": 0.4}, {"a": 0.0, "b": 0.25}, cost)
    assert counts(masks)[:2].tolist() == [16, 24]
    assert 0.4 <= reduction(cost, masks) < 0.46


def test_a_dictionary_that_cannot_reach_the_target_says_so(graph, cost, scores):
    with pytest.raises(ValueError, match="the given shares"):
        allocate(graph, scores, {"macs": 0.9}, {"a": 0.0, "b": 0.0}, cost)


def test_dictionaries_with_wrong_names_or_shares(graph, cost, scores):
    with pytest.raises(ValueError, match=r"group 'bb'.*Did you mean 'b'"):
        allocate(graph, scores, None, {"bb": 0.5}, cost)
    with pytest.raises(
        ValueError, match="'head' cannot be pruned: feeds the model"
    ):
        allocate(graph, scores, None, {"head": 0.5}, cost)
    for share in (1.0, -0.1, "half", True, float("nan")):
        with pytest.raises(ValueError, match="from 0 to below 1"):
            Manual({"a": share})
    with pytest.raises(ValueError, match="at least one group"):
        Manual({})


def test_a_function_ranks_channels_over_all_groups(graph, cost, scores):
    def only_c(scores):
        return {n: s + (0 if n == "c" else 10) for n, s in scores.items()}

    masks = allocate(graph, scores, {"params": 0.4}, only_c, cost)
    assert counts(masks)[:2].tolist() == [16, 32]
    assert reduction(cost, masks, "params") >= 0.4
    with pytest.raises(ValueError, match="must return 16 finite numbers"):
        allocate(
            graph,
            scores,
            None,
            lambda s: {n: v[:1] for n, v in s.items()},
            cost,
        )


def test_keep_min_and_max_share_hold(graph, cost, scores):
    for kind in (Global(keep_min=6, max_share=1.0), Uniform(keep_min=6)):
        masks = allocate(graph, scores, {"macs": 0.85}, kind, cost)
        assert counts(masks).min() >= 6
    masks = allocate(
        graph, scores, {"macs": 0.85}, Global(max_share=0.75), cost
    )
    assert (counts(masks) >= [4, 8, 16]).all()


def test_a_group_smaller_than_keep_min_stays_whole():
    graph = Graph(a=2, b=32)
    scores = {"a": np.ones(2), "b": np.ones(32)}
    masks = allocate(
        graph, scores, {"macs": 0.2}, Uniform(keep_min=4), Chain(graph)
    )
    assert masks["a"].all()


def test_an_unreachable_target_says_what_is_in_reach_and_why(
    graph, cost, scores
):
    def check(goal):
        session = Session(graph, cost)
        Global().check(allocation.request(session, goal))

    least = cost.evaluate(np.array([2, 4, 7]))["macs"]
    most = f"{1 - least / cost.full['macs']:.1%}"
    with pytest.raises(
        ValueError,
        match=rf"Cannot remove 99.0% of the macs: at most {most} of the macs can be "
        r"removed.*max_share=0.9 of Global.*10 of 122 channels are pinned \(10: "
        r"feeds the model output\).*for example reduce=\{'macs': 0.9\d?\}"
        r", allow more per group with Global\(max_share=1.0\) or unpin channels\.$",
    ):
        allocate(graph, scores, {"macs": 0.99}, "global", cost)
    with pytest.raises(ValueError, match="Cannot remove"):
        check({"macs": 0.99})
    check({"macs": 0.9})


@pytest.mark.parametrize(
    ("goal", "error", "message"),
    [
        ({"latancy": 0.5}, ValueError, "Did you mean 'latency'"),
        ({"mac": 0.5}, ValueError, "Cannot reduce 'mac'. Did you mean 'macs'"),
        ({"macs": 50}, ValueError, "Did you mean 0.5"),
        ({"macs": 1.0}, ValueError, "between 0 and 1. Received: 1.0"),
        ({"macs": 0}, ValueError, "between 0 and 1. Received: 0"),
        ({"macs": True}, ValueError, "Received: True"),
        ({"macs": "half"}, ValueError, "Received: 'half'"),
        (0.5, TypeError, r"reduce=\{\"macs\": 0.5\}.*Received: 0.5"),
        ({}, TypeError, "Received: {}"),
    ],
)
def test_targets_are_checked(graph, cost, scores, goal, error, message):
    with pytest.raises(error, match=message):
        allocate(graph, scores, goal, "global", cost)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Global(keep_min=0), "1 or more, as `keep_min`"),
        (lambda: Uniform(keep_min=1.5), "Uniform needs a whole number"),
        (lambda: Global(max_share=0), "as `max_share`"),
        (lambda: Uniform(max_share=1.1), "as `max_share`"),
        (lambda: Global(normalize="median"), "normalize='median'.*Known"),
        (lambda: allocation.get("globel"), "Did you mean 'global'"),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_names_resolve():
    assert {"global", "uniform"} <= set(allocation.names())
    assert isinstance(allocation.get("uniform"), Uniform)
    assert isinstance(allocation.get({"a": 0.5}), Manual)
