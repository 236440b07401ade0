from __future__ import annotations

import csv
import itertools
import logging

import keras
import numpy as np
import pytest
from backends import OwnStep
from fitting import arrays
from fitting import dataset
from fitting import loss
from fitting import small_net

import kprune
from kprune.callbacks import AttenuateCallback
from kprune.callbacks import PruneCallback
from kprune.callbacks import PruningCallback
from kprune.callbacks import SoftPruneCallback


def compiled(optimizer="sgd", **options):
    masked = kprune.wrap(small_net())
    masked.compile(optimizer, loss(), metrics=["accuracy"], **options)
    return masked


def fit(masked, callback, epochs=3, callbacks=(), **options):
    options = {"verbose": 0, "shuffle": False, **options}
    return masked.fit(
        dataset(), epochs=epochs, callbacks=[callback, *callbacks], **options
    ).history


def removed(masked):
    full, now = kprune.cost(small_net()), kprune.cost(masked)
    return 1 - now.macs / full.macs


class Spy(keras.callbacks.Callback):
    """Reads the masks at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def on_epoch_end(self, epoch, logs=None):
        self.kept.append(kprune.masks(self.model))


def test_the_schedule_is_followed_and_logged():
    masked = compiled()
    callback = PruneCallback(
        reduce={"macs": 0.6}, schedule=kprune.Linear(begin=1, end=3)
    )
    history = fit(masked, callback, epochs=5)
    shares = history["pruned_macs"]
    assert shares[0] == 0
    for share, goal in zip(shares[1:], [0.2, 0.4, 0.6, 0.6], strict=True):
        assert goal <= share < goal + 0.12
    assert shares[3] == shares[4]
    assert shares[-1] == pytest.approx(removed(masked))
    assert history["pruned_params"] == sorted(history["pruned_params"])


def test_removed_filters_never_return():
    spy = Spy()
    masked = compiled(keras.optimizers.Adam(0.05))
    fit(masked, PruneCallback(schedule="linear"), epochs=6, callbacks=[spy])
    for before, after in itertools.pairwise(spy.kept):
        for name in before:
            assert (after[name] <= before[name]).all()
    # Some epochs remove something and some come after others that have.
    left = {sum(mask.sum() for mask in kept.values()) for kept in spy.kept}
    assert len(left) > 2


def test_by_default_two_thirds_of_the_epochs_prune():
    history = fit(compiled(), PruneCallback(reduce={"macs": 0.8}), epochs=3)
    assert 0.7 <= history["pruned_macs"][0] < history["pruned_macs"][1]
    assert history["pruned_macs"][1] >= 0.8
    assert history["pruned_macs"][1] == history["pruned_macs"][2]


@pytest.mark.slow
def test_validation_sees_the_pruned_net():
    masked = compiled()
    callback = PruneCallback(schedule="one_shot")
    history = fit(masked, callback, epochs=1, validation_data=dataset())
    pruned = masked.evaluate(dataset(), verbose=0)[0]
    assert history["val_loss"][0] == pytest.approx(pruned, rel=1e-5)


def test_the_result_rebuilds_to_what_was_asked():
    masked = compiled()
    fit(masked, PruneCallback("fpgm", {"params": 0.5}), epochs=2)
    compact = kprune.rebuild(masked)
    x, _ = arrays()
    np.testing.assert_allclose(
        compact.predict_on_batch(x),
        masked.predict_on_batch(x),
        rtol=1e-4,
        atol=1e-5,
    )
    assert compact.count_params() <= 0.5 * small_net().count_params()


def test_csv_logger_and_monitors_see_the_shares(tmp_path):
    path = tmp_path / "log.csv"
    logger = keras.callbacks.CSVLogger(str(path))
    stop = keras.callbacks.EarlyStopping(
        monitor="pruned_macs", mode="max", patience=1
    )
    prune = PruneCallback(reduce={"macs": 0.8}, schedule=kprune.Linear(0, 3))
    fit(compiled(), prune, epochs=8, callbacks=[logger, stop])
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["pruned_macs"]) >= 0.8
    assert "pruned_params" in rows[0]
    # Four epochs prune, the fifth brings nothing new.
    assert len(rows) == 5


def test_early_stopping_restores_masks_with_the_weights(caplog):
    masked = compiled()
    x, _ = arrays()

    class Best(keras.callbacks.Callback):
        """Makes the first epoch the best one and remembers its outputs."""

        def on_epoch_end(self, epoch, logs=None):
            logs["score"] = -epoch
            if epoch == 0:
                self.outputs = self.model.predict_on_batch(x)

    best = Best()
    stop = keras.callbacks.EarlyStopping(
        monitor="score", mode="max", patience=2, restore_best_weights=True
    )
    prune = PruneCallback(schedule=kprune.Linear(begin=1, end=9))
    with caplog.at_level(logging.WARNING, logger="kprune"):
        masked.fit(
            dataset(), epochs=9, verbose=0, callbacks=[best, stop, prune]
        )
    assert all(mask.all() for mask in kprune.masks(masked).values())
    np.testing.assert_allclose(
        masked.predict_on_batch(x), best.outputs, rtol=1e-4, atol=1e-6
    )
    (record,) = [r for r in caplog.records if r.name == "kprune"]
    message = record.getMessage()
    assert "0.0% of the macs" in message
    assert "EarlyStopping" in message


def test_early_stopping_that_restores_later_is_told(caplog):
    stop = keras.callbacks.EarlyStopping(
        "pruned_macs", mode="min", restore_best_weights=True
    )
    stop.start_from_epoch = 0
    prune = PruneCallback(schedule=kprune.OneShot(1))
    with caplog.at_level(logging.WARNING, logger="kprune"):
        masked = compiled()
        masked.fit(dataset(), epochs=3, verbose=0, callbacks=[prune, stop])
    assert all(mask.all() for mask in kprune.masks(masked).values())
    (record,) = [r for r in caplog.records if r.name == "kprune"]
    assert "EarlyStopping restores epoch 1" in record.getMessage()
    caplog.clear()
    prune = PruneCallback(schedule="one_shot")
    with caplog.at_level(logging.WARNING, logger="kprune"):
        masked = compiled()
        masked.fit(dataset(), epochs=3, verbose=0, callbacks=[prune, stop])
    assert not all(mask.all() for mask in kprune.masks(masked).values())
    assert not [r for r in caplog.records if r.name == "kprune"]


def test_no_warning_when_the_target_is_reached(caplog):
    with caplog.at_level(logging.WARNING, logger="kprune"):
        fit(compiled(), PruneCallback(), epochs=2)
        fit(compiled(), PruneCallback(allocation={"conv1": 0.5}), epochs=2)
    assert not [r for r in caplog.records if r.name == "kprune"]


def test_a_second_fit_prunes_nothing_twice():
    masked = compiled()
    fit(masked, PruneCallback(), epochs=3)
    first = kprune.masks(masked)
    history = fit(masked, PruneCallback(), epochs=3)
    np.testing.assert_equal(kprune.masks(masked), first)
    assert len(set(history["pruned_macs"])) == 1
    fit(masked, PruneCallback(reduce={"macs": 0.7}), epochs=1)
    assert removed(masked) >= 0.7


def test_model_checkpoint_keeps_masks(tmp_path):
    path = str(tmp_path / "{epoch}.keras")
    masked = compiled()
    saver = keras.callbacks.ModelCheckpoint(path)
    spy = Spy()
    fit(masked, PruneCallback(), epochs=3, callbacks=[saver, spy])
    loaded = keras.saving.load_model(path.format(epoch=1))
    np.testing.assert_equal(kprune.masks(loaded), spy.kept[0])
    # Training goes on from a checkpoint as it did without it.
    fit(loaded, PruneCallback(), epochs=3, initial_epoch=1)
    np.testing.assert_equal(kprune.masks(loaded), spy.kept[-1])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            {"jit_compile": True},
            marks=pytest.mark.not_on("torch", reason="compiles for minutes"),
        ),
        pytest.param(
            {"steps_per_execution": 3},
            marks=pytest.mark.not_on("torch", reason="has one step only"),
        ),
        {"run_eagerly": True},
    ],
    ids=str,
)
def test_ways_to_compile(options):
    options = {"jit_compile": False, **options}
    history = fit(compiled(**options), PruneCallback(), epochs=2)
    assert history["pruned_macs"][-1] >= 0.5


@pytest.mark.parametrize(
    ("policy", "criterion"),
    [("mixed_float16", "taylor"), ("mixed_bfloat16", "apoz")],
)
def test_mixed_precision(policy, criterion):
    keras.config.set_dtype_policy(policy)
    masked = compiled("adam", jit_compile=False)
    callback = PruneCallback(criterion, schedule="one_shot", data=arrays())
    assert fit(masked, callback, epochs=1)["pruned_macs"][-1] >= 0.5


@pytest.mark.parametrize("criterion", ["l1", "taylor"])
def test_a_custom_train_step(criterion):
    plain = small_net()
    masked = kprune.wrap(OwnStep(plain.input, plain.output))
    masked.compile("sgd", loss())
    history = fit(masked, PruneCallback(criterion, data=arrays()), epochs=2)
    assert "own_loss" in history
    assert history["pruned_macs"][-1] >= 0.5


@pytest.mark.parametrize("kind", ["arrays", "dataset", "generator"])
def test_data_for_a_criterion_is_good_for_all_epochs(kind):
    data = {
        "arrays": arrays,
        "dataset": dataset,
        "generator": lambda: (arrays(8) for _ in range(3)),
    }[kind]()
    callback = PruneCallback("taylor", data=data)
    assert fit(compiled(), callback, epochs=3)["pruned_macs"][-1] >= 0.5


def test_the_coverage_is_printed_first_unless_silent(capsys):
    fit(compiled(), PruneCallback(), epochs=1, verbose=2)
    assert "channels prunable" in capsys.readouterr().out.splitlines()[0]
    fit(compiled(), PruneCallback(), epochs=1)
    assert capsys.readouterr().out == ""


def test_an_unwrapped_model_says_how_to_wrap():
    model = small_net()
    model.compile("sgd", loss())
    with pytest.raises(ValueError, match=r"kprune.wrap\(model\)"):
        fit(model, PruneCallback())


def test_an_unreachable_target_is_said_when_training_begins():
    masked = compiled()
    with pytest.raises(ValueError, match=r"Cannot remove 99.9%.*at most"):
        fit(
            masked,
            PruneCallback(reduce={"macs": 0.999}, schedule=lambda e: 0.0),
        )


def test_nan_scores_stop_training_with_the_way_out():
    masked = compiled()
    kernel = masked.get_layer("conv3").layer.kernel
    kernel.assign(kernel.numpy() * np.nan)
    with pytest.raises(
        ValueError, match=r"'kernel' of layer 'conv3'.*TerminateOnNaN"
    ):
        fit(masked, PruneCallback())


def test_a_model_without_a_loss_and_missing_data_are_said_at_once():
    plain = small_net()
    masked = kprune.wrap(OwnStep(plain.input, plain.output))
    masked.compile("sgd")
    with pytest.raises(ValueError, match=r"Call model.compile\(loss=...\)"):
        fit(masked, PruneCallback("taylor", data=arrays()))
    with pytest.raises(ValueError, match="as `data=`"):
        fit(compiled(), PruneCallback("taylor"))


def test_wrong_schedules_are_said_at_construction():
    with pytest.raises(ValueError, match="Did you mean 'linear'"):
        PruneCallback(schedule="liner")
    with pytest.raises(TypeError, match="PruningCallback"):
        PruningCallback()


def test_outside_of_fit_it_says_where_it_belongs():
    with pytest.raises(RuntimeError, match="acts inside `fit`"):
        PruneCallback().on_epoch_begin(0)


@pytest.mark.parametrize(
    "kind", [PruneCallback, SoftPruneCallback, AttenuateCallback]
)
def test_no_epochs_prune_nothing(kind, caplog):
    masked = kprune.wrap(small_net(6))
    masked.compile("sgd", loss())
    callback = kind(reduce={"macs": 0.5})
    masked.fit(dataset(), epochs=0, verbose=0, callbacks=[callback])
    assert all(mask.all() for mask in kprune.masks(masked).values())
    assert not caplog.records
