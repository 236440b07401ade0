from __future__ import annotations

import logging
import re

import keras
import numpy as np
import pytest
from fitting import arrays
from fitting import dataset
from fitting import loss
from fitting import small_net
from harness import difference
from harness import outputs
from harness import prunable_sizes
from harness import random_inputs

import kprune
from kprune import recipes
from kprune.callbacks import PruneCallback
from kprune.callbacks import RegularizeCallback

NAMES = (
    "attenuation",
    "duplication",
    "hgs",
    "msvfp",
    "similarity",
    "similarity-soft",
)
NEED_DATA = ("duplication", "hgs", "msvfp")
TARGET = {"macs": 0.4}


def make(name, epochs=3, **parts):
    return kprune.recipe(
        name, reduce=TARGET, data=arrays(32), epochs=epochs, **parts
    )


def compiled(width=8):
    model = small_net(width)
    # A few steps of a small net: compiling would take longer.
    eager = keras.config.backend() != "jax"
    model.compile(keras.optimizers.SGD(0.05), loss(), run_eagerly=eager)
    return model


def fit(masked, recipe, epochs=None, callbacks=()):
    return masked.fit(
        dataset(),
        epochs=epochs or recipe.epochs,
        callbacks=[*recipe.callbacks, *callbacks],
        verbose=0,
        shuffle=False,
    ).history


def removed(model, original):
    return 1 - kprune.cost(model).macs / kprune.cost(original).macs


class Widths(keras.callbacks.Callback):
    """How many channels are alive, epoch by epoch."""

    def __init__(self):
        super().__init__()
        self.alive = []

    def on_epoch_end(self, epoch, logs=None):
        masks = kprune.masks(self.model).values()
        self.alive.append(int(sum((m > 0).sum() for m in masks)))


# -- all of them -----------------------------------------------------------


def test_every_published_system_has_its_name():
    assert set(NAMES) <= set(recipes.names())


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_from_end_to_end(name):
    model = compiled()
    before = [np.array(w) for w in model.get_weights()]
    recipe = make(name)
    masked = recipe.prepare(model)
    assert masked.compiled
    spy = Widths()
    history = fit(masked, recipe, callbacks=[spy])
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
    compact = kprune.rebuild(masked)
    assert 0.4 <= removed(compact, model) < 0.6
    assert history["pruned_macs"][-1] == pytest.approx(removed(compact, model))
    x = random_inputs(model)
    assert difference(outputs(masked, x), outputs(compact, x)) <= 1e-5
    # Of three epochs the last one fine-tunes what is left.
    assert spy.alive[-1] == sum(prunable_sizes(compact).values())
    assert not masked.losses


@pytest.mark.parametrize("name", ["duplication", "hgs", "similarity"])
def test_the_model_may_be_compiled_after_it_is_prepared(name):
    recipe = make(name, epochs=2)
    masked = recipe.prepare(kprune.wrap(small_net(8), skip=["conv3"]))
    masked.compile("sgd", loss())
    fit(masked, recipe)
    compact = kprune.rebuild(masked)
    assert removed(compact, small_net(8)) >= 0.4
    assert compact.get_layer("conv3").filters == 8


@pytest.mark.parametrize("epochs", [2, 3, 4, 7, 30, 160])
@pytest.mark.parametrize("name", NAMES)
def test_the_defaults_fit_into_any_number_of_epochs(name, epochs):
    recipe = make(name, epochs)
    if name == "duplication":
        last = recipe.parts["merge"].epoch
    else:
        last = recipe.rounds[-1]
    # The cut is done, and at least one epoch of training follows.
    assert 0 <= last < epochs
    assert len(recipe.callbacks) >= 2
    assert recipe.callbacks is recipe.callbacks


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_prints_a_page(name):
    recipe = make(name, epochs=30)
    text = str(recipe)
    assert text.startswith(f"{name}\n")
    assert "40 % of the MACs in 30 epochs" in text
    assert re.search(r"\n  epochs \d+ to 30 +fine-tuning\n", text)
    for part in recipe.defaults:
        assert f"\n  {part} " in text
    assert recipe.url.startswith("https://") and text.endswith(recipe.url)
    assert recipe.citation.split(",")[0] in text
    assert "object at 0x" not in text
    assert max(map(len, text.splitlines())) <= 80


# -- parts -----------------------------------------------------------------


def test_parts_can_be_replaced():
    recipe = kprune.recipe(
        "similarity",
        reduce={"params": 0.3},
        epochs=4,
        criterion="l2",
        schedule=kprune.OneShot(1),
    )
    assert isinstance(recipe.defaults["criterion"], kprune.criteria.Folded)
    assert recipe.parts["allocation"] == "similarity"
    callback = recipe.callbacks[-1]
    assert isinstance(callback, PruneCallback)
    assert callback.criterion == "l2" and callback.schedule == kprune.OneShot(1)
    assert "before epoch 2 " in str(recipe) and "'l2'" in str(recipe)


def test_a_dictionary_as_allocation_sets_the_target():
    recipe = kprune.recipe(
        "similarity",
        epochs=2,
        allocation={"conv1": 0.5, "conv3": 0.25},
    )
    masked = recipe.prepare(compiled())
    fit(masked, recipe)
    assert prunable_sizes(kprune.rebuild(masked)) == {"conv1": 4, "conv3": 6}


def test_half_of_the_macs_by_default():
    assert kprune.recipe("attenuation", epochs=3).reduce == {"macs": 0.5}


# -- one by one ------------------------------------------------------------


def test_attenuation_keeps_all_filters_until_the_end():
    recipe = make("attenuation", epochs=9)
    masked = recipe.prepare(compiled())
    spy = Widths()
    history = fit(masked, recipe, callbacks=[spy])
    assert spy.alive[:3] == [16] * 3 and spy.alive[3] < spy.alive[2]
    assert all(weak > 0 for weak in history["weak_filters"][:3])
    assert history["weak_filters"][3] == 0


def test_similarity_goes_in_rounds_and_the_soft_one_at_once():
    hard, soft = make("similarity", 9), make("similarity-soft", 9)
    history = fit(hard.prepare(compiled()), hard)["pruned_macs"]
    assert 0 < history[0] < history[3] == history[5]
    history = fit(soft.prepare(compiled()), soft)["pruned_macs"]
    assert history[:3] == [0, 0, 0] and history[3] >= 0.4


def test_similarity_has_at_most_ten_rounds():
    rounds = [
        kprune.recipe("similarity", epochs=e).rounds for e in range(2, 99)
    ]
    assert max(map(len, rounds)) == 10
    assert all(
        max(r) == min(max(1, round(e / 3)), e - 1)
        for e, r in enumerate(rounds, 2)
    )


def test_msvfp_takes_three_percent_per_epoch_if_there_is_time():
    assert make("msvfp", 160).parts["schedule"].step == 0.03
    assert len(make("msvfp", 160).rounds) == 14  # 40 % / 3 %
    assert make("msvfp", 9).rounds == [0, 1, 2]


@pytest.mark.parametrize("name", ["hgs", "orthoreg"])
def test_a_penalty_needs_epochs_before_the_schedule(name):
    for wrong in ("one_shot", kprune.Linear(end=2), lambda epoch: 1.0):
        with pytest.raises(
            ValueError, match="`schedule` must begin at epoch 1"
        ):
            make(name, epochs=6, schedule=wrong)
    for late, until in (
        (lambda epoch: float(epoch >= 3), 3),
        (lambda epoch: float(epoch >= 9), 6),
        (kprune.OneShot(6), 6),
        (kprune.Linear(begin=2, end=4), 2),
    ):
        _, penalty, _ = make(name, epochs=6, schedule=late).callbacks
        assert penalty.until == until


def test_hgs_penalises_until_it_prunes():
    values = []

    class Penalties(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            losses = map(keras.ops.convert_to_numpy, self.model.losses)
            values.append(float(sum(losses)))

    recipe = make("hgs", epochs=6)
    masked = recipe.prepare(compiled())
    assert len(masked.losses) == 3
    fit(masked, recipe, callbacks=[Penalties()])
    assert values[0] > values[1] > 0 and values[2] == 0


def test_duplication_replaces_filters_in_prepare_and_merges_them():
    model = compiled()
    recipe = make("duplication", epochs=3)
    masked = recipe.prepare(model)
    # As wide as before, but with copies that a rebuild would merge.
    assert removed(masked, model) == 0
    assert removed(kprune.rebuild(masked), model) >= 0.4
    history = fit(masked, recipe)
    assert history["copies"][0] > 0 and history["copies"][1:] == [0, 0]


# -- recipes of one's own ---------------------------------------------------


@pytest.fixture
def registered(monkeypatch):
    """Puts the registry back."""
    registry = recipes.base.registry
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))


def test_a_class_is_a_recipe(registered):
    @recipes.register("uniform_l1")
    class UniformL1(recipes.Recipe):
        summary = "The shortest filters go."

        @property
        def defaults(self):
            return {"criterion": "l1", "allocation": "uniform"}

        def actions(self):
            return [PruneCallback(**self.parts, **self.task)]

    recipe = kprune.recipe("uniform_l1", epochs=2, reduce=TARGET)
    assert isinstance(recipe, UniformL1)
    masked = recipe.prepare(compiled())
    fit(masked, recipe)
    assert removed(masked, small_net(8)) >= 0.4
    assert str(recipe).startswith("uniform_l1\nThe shortest filters go.\n")


def test_a_function_is_a_recipe(registered):
    @recipes.register("slow_l2")
    def slow(reduce, data, epochs, power=1):
        """A few filters before each epoch.

        Until the end.
        """
        schedule = kprune.Polynomial(end=epochs - 1, power=power)
        return [PruneCallback("l2", reduce, schedule)]

    recipe = kprune.recipe("slow_l2", TARGET, epochs=3, power=2)
    assert recipe.parts == {"power": 2} and recipe.defaults == {"power": 1}
    assert recipe.callbacks[-1].schedule == kprune.Polynomial(end=2, power=2)
    assert "slow_l2\nA few filters before each epoch.\n" in str(recipe)
    masked = recipe.prepare(compiled())
    fit(masked, recipe)
    assert removed(masked, small_net(8)) >= 0.4
    with pytest.raises(ValueError, match="'slow_l2' has no part 'powr'"):
        kprune.recipe("slow_l2", epochs=3, powr=2)


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="'hgs' is taken"):
        recipes.register("hgs")(recipes.MSVFP)


# -- errors ----------------------------------------------------------------


def test_an_unknown_name():
    with pytest.raises(ValueError, match="Did you mean 'attenuation'"):
        kprune.recipe("atenuation", epochs=3)


def test_an_unknown_part():
    with pytest.raises(ValueError, match=r"no part 'facto'.*mean 'factor'"):
        kprune.recipe("attenuation", epochs=3, facto=0.5)


@pytest.mark.parametrize("name", NEED_DATA)
def test_data_that_is_missing(name):
    with pytest.raises(ValueError, match=f"'{name}' lacks data.*`data=`"):
        kprune.recipe(name, epochs=3)


@pytest.mark.parametrize("parts", [
    {"criterion": "taylor"},
    {"allocation": kprune.allocation.GreedyLoss()},
    {"allocation": kprune.allocation.GreedyLoss(criteria=["apoz"])},
])  # fmt: skip
def test_data_that_a_part_needs(parts):
    with pytest.raises(ValueError, match="'similarity' lacks data"):
        kprune.recipe("similarity", epochs=3, **parts)


def test_duplication_by_another_allocation_needs_no_data():
    recipe = kprune.recipe("duplication", epochs=2, allocation="uniform")
    masked = recipe.prepare(compiled())
    assert removed(kprune.rebuild(masked), small_net(8)) >= 0.5


@pytest.mark.parametrize("epochs, message", [
    (None, "for example epochs=30"),
    (1, "needs 2 epochs or more"),
    (2.5, "whole number of epochs"),
    (0, "whole number of epochs"),
    (True, "whole number of epochs"),
    ("ten", "whole number of epochs"),
])  # fmt: skip
def test_epochs_that_do_not_do(epochs, message):
    with pytest.raises(ValueError, match=message):
        kprune.recipe("attenuation", epochs=epochs)


def test_a_target_that_is_no_dictionary():
    with pytest.raises(TypeError, match=r"Received: 0\.5"):
        kprune.recipe("attenuation", reduce=0.5, epochs=3)


def test_a_recipe_is_not_made_twice():
    with pytest.raises(TypeError, match="a recipe already"):
        kprune.recipe(kprune.recipe("attenuation", epochs=3))


def test_a_run_of_another_length_is_told(caplog):
    recipe = make("similarity", epochs=3)
    with caplog.at_level(logging.WARNING, logger="kprune"):
        for epochs in (3, 2):
            assert not caplog.records
            callback = recipe.callbacks[0]
            callback.set_params({"epochs": epochs})
            callback.on_train_begin()
    assert "made for 3 epochs, but fit has epochs=2" in caplog.text


# -- penalties for a while --------------------------------------------------


def test_a_penalty_from_before_is_replaced_and_all_end_with_training():
    masked = kprune.wrap(compiled())
    kprune.regularizers.attach(masked, keras.regularizers.L1(1.0))
    before = sum(map(float, masked.losses))
    seen = []

    class Spy(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append(sum(map(float, self.model.losses)))

    callback = RegularizeCallback(keras.regularizers.L1(0.5), layers=["conv1"])
    masked.fit(dataset(), epochs=2, callbacks=[callback, Spy()], verbose=0)
    assert 0 < seen[1] < seen[0] < before
    assert not masked.losses


def test_a_resumed_run_has_no_penalty_after_its_end():
    masked = kprune.wrap(compiled())
    counts = []

    class Spy(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            counts.append(len(self.model.losses))

    callback = RegularizeCallback("l2", until=2)
    for first in (1, 2):
        masked.fit(
            dataset(),
            initial_epoch=first,
            epochs=3,
            callbacks=[callback, Spy()],
            verbose=0,
        )
    assert counts == [3, 0, 0]


@pytest.mark.parametrize(
    ("name", "epochs", "last"),
    [
        ("attenuation", 12, 4),
        ("attenuation", 140, 100),
        ("similarity", 30, 10),
        ("similarity-soft", 30, 10),
        ("msvfp", 30, 9),
        ("hgs", 30, 10),
    ],
)
def test_the_last_filter_goes_early(name, epochs, last):
    assert make(name, epochs).rounds[-1] == last


@pytest.mark.parametrize("until", [0, 1.5, True, "two"])
def test_a_penalty_that_never_acts(until):
    with pytest.raises(ValueError, match="1 or more, as `until`"):
        RegularizeCallback("l2", until=until)
