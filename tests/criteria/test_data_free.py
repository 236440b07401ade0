from __future__ import annotations

import keras
import numpy as np
import pytest
from models import dense_layers

from kprune import criteria
from kprune.criteria.base import by_length_elsewhere
from kprune.criteria.base import lengths
from kprune.graph import trace


@pytest.fixture
def residual():
    """Two convolutions feed one sum; the Dense head has no normalization."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 3, padding="same", name="stem")(inputs)
    x = keras.layers.BatchNormalization(name="stem_bn")(x)
    y = keras.layers.Conv2D(
        6, 3, padding="same", use_bias=False, name="branch"
    )(x)
    y = keras.layers.BatchNormalization(name="branch_bn")(y)
    x = keras.layers.Add()([x, y])
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(5, activation="relu", name="hidden")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    return model


def flat_filters(model, *names):
    kernels = [model.get_layer(n).kernel.numpy() for n in names]
    return np.concatenate(
        [k.reshape(-1, k.shape[-1]).T for k in kernels], axis=1
    )


def scores(criterion, model):
    return criteria.score_groups(criterion, trace(model).prunable)


def test_l1_sums_absolute_weights_of_all_producers_without_biases(residual):
    result = scores("l1", residual)
    assert set(result) == {"stem", "hidden"}
    expected = np.abs(flat_filters(residual, "stem", "branch")).sum(axis=1)
    np.testing.assert_allclose(result["stem"], expected, rtol=1e-6)
    hidden = residual.get_layer("hidden").kernel.numpy()
    np.testing.assert_allclose(
        result["hidden"], np.abs(hidden).sum(0), rtol=1e-6
    )


def test_l2_is_the_length_of_the_joined_filters(residual):
    expected = np.sqrt(
        (flat_filters(residual, "stem", "branch") ** 2).sum(axis=1)
    )
    np.testing.assert_allclose(
        scores("l2", residual)["stem"], expected, rtol=1e-6
    )


def test_fpgm_sums_euclidean_distances(residual):
    rows = flat_filters(residual, "stem", "branch").astype("float64")
    expected = np.linalg.norm(rows[:, None] - rows[None, :], axis=2).sum(axis=1)
    np.testing.assert_allclose(
        scores("fpgm", residual)["stem"], expected, rtol=1e-6
    )


def test_fpgm_scores_a_filter_amid_the_others_lowest_whatever_its_length():
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(4, use_bias=False, name="a"),
            keras.layers.Dense(1),
        ]
    )
    filters = np.array([[9.0, 0.0], [11.0, 0.0], [10.0, 1.0], [10.0, 0.1]])
    model.get_layer("a").kernel.assign(filters.T)
    assert scores("fpgm", model)["a"].argmin() == 3
    assert scores("l2", model)["a"].argmin() == 0


def test_fpgm_leaves_dead_filters_out(residual):
    for name in ("stem", "branch"):
        kernel = residual.get_layer(name).kernel
        value = kernel.numpy()
        value[..., [1, 4]] = 0
        kernel.assign(value)
    rows = flat_filters(residual, "stem", "branch").astype("float64")
    lives = [0, 2, 3, 5]
    distances = np.linalg.norm(
        rows[lives][:, None] - rows[lives][None, :], axis=2
    )
    result = scores("fpgm", residual)["stem"]
    np.testing.assert_allclose(result[lives], distances.sum(axis=1), rtol=1e-6)
    assert (result[[1, 4]] == 0).all()


def test_bn_scale_is_the_mean_absolute_gamma(residual):
    gammas = [
        residual.get_layer(n).gamma.numpy() for n in ("stem_bn", "branch_bn")
    ]
    expected = np.abs(gammas).mean(axis=0)
    np.testing.assert_allclose(scores("bn_scale", residual)["stem"], expected)


def test_bn_scale_rescales_lengths_where_there_is_no_normalization(residual):
    result = scores("bn_scale", residual)
    lengths = np.linalg.norm(
        residual.get_layer("hidden").kernel.numpy(), axis=0
    )
    np.testing.assert_allclose(
        result["hidden"] / result["hidden"].sum(),
        lengths / lengths.sum(),
        rtol=1e-6,
    )
    assert result["hidden"].mean() == pytest.approx(result["stem"].mean())


def test_bn_scale_without_any_normalization_is_an_error():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)]
    )
    with pytest.raises(ValueError, match="no BatchNormalization with a scale"):
        scores("bn_scale", model)


def test_random_depends_on_seed_and_group_alone(residual):
    first = scores(criteria.Random(seed=3), residual)
    again = scores(criteria.Random(seed=3), residual)
    other = scores(criteria.Random(seed=4), residual)
    np.testing.assert_equal(first, again)
    assert not np.array_equal(first["stem"], other["stem"])
    assert not np.array_equal(first["stem"][:5], first["hidden"])
    default = scores("random", residual)
    np.testing.assert_equal(default, scores(criteria.Random(0), residual))


@pytest.mark.parametrize("seed", [-1, 1.5, True, None])
def test_random_refuses_other_seeds(seed):
    with pytest.raises(ValueError, match="whole number, 0 or more, as `seed`"):
        criteria.Random(seed)


def test_a_plain_function_is_a_criterion(residual):
    def largest(group):
        return np.abs(criteria.filters(group)).max(axis=1)

    expected = np.abs(flat_filters(residual, "stem", "branch")).max(axis=1)
    np.testing.assert_allclose(
        scores(largest, residual)["stem"], expected, rtol=1e-6
    )


def test_functions_may_return_tensors_and_lists(residual):
    tensor = scores(lambda g: keras.ops.arange(g.size), residual)
    plain = scores(lambda g: list(range(g.size)), residual)
    np.testing.assert_equal(tensor, plain)


def test_a_registered_criterion_has_a_name(residual, monkeypatch):
    monkeypatch.setattr(
        criteria.base.registry,
        "_factories",
        dict(criteria.base.registry._factories),
    )

    @criteria.register("position")
    class Position(criteria.GroupCriterion):
        def score(self, group):
            return np.arange(group.size)

    assert "position" in criteria.names()
    assert scores("position", residual)["stem"].tolist() == [0, 1, 2, 3, 4, 5]


def test_all_promised_names_exist():
    promised = "l1 l2 bn_scale fpgm taylor activation apoz random".split()
    assert set(promised) <= set(criteria.names())


def test_a_typo_gets_a_hint():
    with pytest.raises(ValueError, match="Did you mean 'taylor'"):
        criteria.get("tailor")


def test_bad_shapes_are_refused_with_group_and_criterion(residual):
    def two(group):
        return np.zeros((group.size, 2))

    with pytest.raises(ValueError, match=r"two must.*\(6,\).*'stem'.*\(6, 2\)"):
        scores(two, residual)
    with pytest.raises(ValueError, match="one number per channel"):
        scores(lambda group: ["a"] * group.size, residual)
    with pytest.raises(ValueError, match="one number per channel"):
        scores(lambda group: None, residual)


def test_nan_scores_blame_the_weights_where_they_are_the_cause(residual):
    kernel = residual.get_layer("branch").kernel
    value = kernel.numpy()
    value[0, 0, 0, 2] = np.nan
    kernel.assign(value)
    with pytest.raises(
        ValueError,
        match=r"(?s)L1 returned nan for 1 of 6 channels of group 'stem' \(first: "
        r"channel 2\).*'kernel' of layer 'branch'.*diverged",
    ):
        scores("l1", residual)


def test_nan_scores_blame_the_criterion_where_weights_are_finite(residual):
    def divides(group):
        return np.full(group.size, np.inf)

    with pytest.raises(
        ValueError, match=r"divides returned inf.*The weights are finite"
    ):
        scores(divides, residual)


def test_channels_that_are_gone_score_zero_and_may_be_nan(residual):
    alive = {"stem": np.array([1, 0, 1, 1, 1, 0])}
    result = criteria.score_groups(
        lambda g: np.where(np.isin(np.arange(g.size), [1, 5]), np.nan, 7.0),
        [trace(residual)["stem"]],
        alive=alive,
    )
    assert result["stem"].tolist() == [7, 0, 7, 7, 7, 0]


def test_small_floats_are_scored_in_float64():
    keras.config.set_floatx("bfloat16")
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, name="a"),
            keras.layers.Dense(2),
        ]
    )
    expected = np.abs(
        model.get_layer("a").kernel.numpy().astype("float64")
    ).sum(0)
    for name in ("l1", "l2", "fpgm"):
        assert scores(name, model)["a"].dtype == np.float64
    np.testing.assert_allclose(scores("l1", model)["a"], expected)


def test_lamp_divides_by_all_that_are_no_shorter(residual):
    squares = (flat_filters(residual, "stem", "branch") ** 2).sum(axis=1)
    expected = [q / squares[squares >= q].sum() for q in squares]
    found = scores("lamp", residual)["stem"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.max() == pytest.approx(1)


def test_lamp_of_equal_and_of_dead_filters(residual):
    kernel = residual.get_layer("hidden").kernel
    value = np.array(kernel.numpy())
    value[:, 0], value[:, 1] = 0.0, value[:, 2]
    kernel.assign(value)
    found = scores("lamp", residual)["hidden"]
    assert found[0] == 0 and found[1] == found[2]
    kernel.assign(np.zeros(value.shape))
    assert (scores("lamp", residual)["hidden"] == 0).all()


def test_whc_is_the_published_sum(residual):
    rows = flat_filters(residual, "stem", "branch").astype("float64")
    lengths = np.linalg.norm(rows, axis=1)
    expected = [
        sum(
            lengths[j]
            * lengths[i]
            * (1 - abs(rows[i] @ rows[j]) / (lengths[i] * lengths[j]))
            for i in range(len(rows))
            if i != j
        )
        for j in range(len(rows))
    ]
    np.testing.assert_allclose(
        scores("whc", residual)["stem"], expected, rtol=1e-5
    )


def test_effective_magnitude_counts_what_reads_a_filter(residual):
    found = scores("effective_magnitude", residual)
    hidden, head = (
        residual.get_layer(n).kernel.numpy() for n in ("hidden", "head")
    )
    np.testing.assert_allclose(
        found["hidden"],
        np.linalg.norm(hidden, axis=0) * np.linalg.norm(head, axis=1),
        rtol=1e-6,
    )
    branch = residual.get_layer("branch").kernel.numpy()
    reading = np.sqrt((branch**2).sum((0, 1, 3)) + (hidden**2).sum(axis=1))
    length = np.linalg.norm(flat_filters(residual, "stem", "branch"), axis=1)
    np.testing.assert_allclose(found["stem"], length * reading, rtol=1e-5)


def test_groups_scored_by_lengths_keep_their_order_among_negative_scores():
    groups = trace(dense_layers((4, 5), 3)).prunable
    first, second = groups
    filled = by_length_elsewhere(
        {first.name: np.array([-3.0, -2.0, 1.0, -2.0])}, groups, "X", "nothing"
    )
    ratios = filled[second.name] / lengths(second)
    np.testing.assert_allclose(ratios, 2.0 / lengths(second).mean(), rtol=1e-6)
