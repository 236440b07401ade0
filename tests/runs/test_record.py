"""A run folder says what a run did, and recording changes nothing of it."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from fitting import arrays
from fitting import dataset
from fitting import loss
from runs.running import compiled
from runs.running import plain

import kprune
from kprune import runs
from kprune.callbacks import PruneCallback
from kprune.runs.measure import Batches as Repeated
from kprune.runs.schema import read_run


def weights(model):
    return [np.asarray(w) for w in model.get_weights()]


def kept(masks):
    return {name: np.flatnonzero(m == 0).tolist() for name, m in masks.items()}


def removed(run):
    return {g["name"]: g["removed"] for g in run["groups"] if not g["pinned"]}


def test_a_run_of_prune_says_what_was_decided(one_shot):
    _, model, masked, run = one_shot
    assert run["status"] == "finished"
    assert run["notes"] == []
    assert removed(run) == kept(kprune.masks(masked))
    pinned = {g["name"]: g["pinned"] for g in run["groups"] if g["pinned"]}
    assert "layer 'conv3' was left out of wrap()" in pinned.values()
    parts = run["asked"]["parts"]
    assert parts["criterion"]["class"].endswith(":Reconstruction")
    assert parts["recover"] == "reconstruct"
    assert run["asked"]["repeat"].startswith(
        "kprune.prune(model, reduce={'macs'"
    )
    before, after = run["results"]
    assert (before["macs"], after["macs"]) == (
        kprune.cost(model).macs,
        kprune.cost(masked).macs,
    )
    expected = model.evaluate(dataset(), verbose=0, return_dict=True)
    assert before["metrics"] == pytest.approx(expected, rel=1e-4)
    assert after["samples"] == 48
    rebuilt, original = run["checks"]
    assert rebuilt["difference"] < 1e-5
    assert original["difference"] > 1e-5


def test_labels_of_words_are_recorded(tmp_path):
    x, _, *_ = arrays()
    words = np.array(["cat"] * len(x))
    kprune.prune(plain(), data=(x, words), criterion="l1", run_dir=tmp_path)
    run = read_run(tmp_path / "latest" / "run.json")
    assert run["status"] == "finished" and run["notes"] == []
    assert run["data"]["arrays"] == [
        f"float32 {x.shape}",
        f"<U3 {words.shape}",
    ]


def test_the_weakest_of_a_group_have_the_lowest_scores(one_shot):
    run = one_shot[-1]
    assert any(group["removed"] for group in run["groups"])
    for group in run["groups"]:
        if group["pinned"] is None:
            scores = np.array(group["scores"])
            assert len(scores) == group["size"]
            gone = np.isin(np.arange(group["size"]), group["removed"])
            assert scores[gone].max() <= scores[~gone].min()


def test_models_of_the_folder_load(one_shot):
    root, model, masked, run = one_shot
    folder = root / "latest"
    x = arrays()[0]
    compact = kprune.load(folder / run["files"]["compact"])
    np.testing.assert_allclose(
        compact.predict_on_batch(x), masked.predict_on_batch(x), atol=1e-5
    )
    original = kprune.load(folder / run["files"]["original"])
    for ours, theirs in zip(weights(original), weights(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert runs.folder_of(masked) == folder.resolve()


def test_a_replay_has_the_same_masks_and_weights(one_shot, caplog):
    root, model, masked, _ = one_shot
    again = kprune.replay(root / "latest", model, arrays())
    assert kept(kprune.masks(again)) == kept(kprune.masks(masked))
    for ours, theirs in zip(weights(again), weights(masked), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    assert not caplog.records


def test_a_replay_on_other_weights_or_samples_says_so(one_shot, caplog):
    root, _, masked, _ = one_shot
    keras.utils.set_random_seed(4)
    x, _ = arrays()
    again = kprune.replay(root / "latest" / "run.json", plain(), x + 1)
    assert kept(kprune.masks(again)) == kept(kprune.masks(masked))
    assert "other weights" in caplog.text
    assert "not the samples" in caplog.text
    with pytest.raises(ValueError, match=r"had 6 channels, but has 5"):
        kprune.replay(root / "latest", plain(5), x)
    with pytest.raises(
        ValueError, match="Reconstruct runs the model on samples"
    ):
        kprune.replay(root / "latest")


def test_recording_changes_nothing_of_training(training):
    _, ((ours, history, state), (theirs, other, other_state)), _ = training
    assert history == other
    assert state == other_state
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_of_fit_has_every_epoch_and_round(training):
    run, ((masked, history, _), _), _ = training
    assert [e["logs"] for e in run["epochs"]] == [
        {name: pytest.approx(values[n]) for name, values in history.items()}
        for n in range(4)
    ]
    assert [e["epoch"] for e in run["events"]] == [1, 2]
    sizes = [sum(e["kept"].values()) for e in run["events"]]
    assert sizes[0] > sizes[1]
    assert removed(run) == kept(kprune.masks(masked))
    assert run["asked"]["parts"]["schedule"]["config"]["begin"] == 1
    assert run["seeds"] == {"keras.utils.set_random_seed": 3}


def test_a_replay_of_training_has_its_masks(training, tmp_path):
    run, ((masked, _, _), _), _ = training
    (tmp_path / "run.json").write_text(json.dumps(run))
    again = kprune.replay(tmp_path, compiled())
    assert kept(kprune.masks(again)) == kept(kprune.masks(masked))


class Refusing(PruneCallback):
    def act(self, session, fraction):
        raise RuntimeError("out of luck")


def test_a_failed_run_says_why(tmp_path):
    masked = kprune.wrap(compiled())
    callback = Refusing(schedule=kprune.OneShot(1), run_dir=tmp_path)
    with pytest.raises(RuntimeError, match="out of luck"):
        masked.fit(dataset(), epochs=3, verbose=0, callbacks=[callback])
    run = read_run(tmp_path / "latest" / "run.json")
    assert run["status"] == "failed"
    assert run["error"] == "RuntimeError: out of luck"
    assert run["method"] == "refusing"
    assert len(run["epochs"]) == 1


class Interrupting(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


def test_an_interrupted_run_is_no_longer_running(tmp_path):
    masked = kprune.wrap(compiled())
    callback = PruneCallback(run_dir=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        masked.fit(
            dataset(), verbose=0, epochs=3, callbacks=[callback, Interrupting()]
        )
    path = (tmp_path / "latest").resolve() / "run.json"
    assert read_run(path)["status"] == "running"
    masked.fit(dataset(), verbose=0, epochs=3, callbacks=[callback])
    run = read_run(path)
    assert run["status"] == "failed"
    assert run["error"] == "It was stopped before its end."
    assert read_run(tmp_path / "latest" / "run.json")["status"] == "finished"


def test_a_run_without_a_compact_model_ends_and_says_why(tmp_path, monkeypatch):
    def refuse(masked):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("kprune.runs.record.rebuild", refuse)
    masked = kprune.prune(compiled(), "l1", {"macs": 0.5}, run_dir=tmp_path)
    run = read_run(tmp_path / "latest" / "run.json")
    assert run["status"] == "finished"
    assert "compact" not in run["files"]
    assert [note for note in run["notes"] if "out of luck" in note]
    assert removed(run) == kept(kprune.masks(masked))


def test_folders_are_never_reused(tmp_path):
    names = {runs.folder.new_folder(tmp_path, "A b", "l1").name for _ in "123"}
    assert len(names) == 3
    assert all("-a-b-l1" in name for name in names)
    assert (tmp_path / "latest").resolve().name in names
    with pytest.raises(FileNotFoundError, match=r"no run in .*run\.json"):
        runs.find_run(tmp_path)


def test_other_files_are_no_record(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{"kprune_run": 2}')
    with pytest.raises(ValueError, match=r"run\.json' is not the record"):
        read_run(path)


def test_a_vector_metric_is_recorded_as_its_mean(tmp_path):
    x, y, *_ = arrays()
    model = plain()
    model.compile(
        "sgd", "mse", metrics=[keras.metrics.F1Score()], run_eagerly=True
    )
    one_hot = np.eye(3, dtype="float32")[y]
    data = Repeated([(x, one_hot, None)])
    kprune.prune(model, "l1", data=(x, one_hot), run_dir=tmp_path / "prune")
    masked = kprune.wrap(model)
    masked.fit(
        data, verbose=0, callbacks=[PruneCallback(run_dir=tmp_path / "fit")]
    )
    run = read_run(tmp_path / "prune" / "latest" / "run.json")
    expected = model.evaluate(data, verbose=0, return_dict=True)["f1_score"]
    assert run["results"][0]["metrics"]["f1_score"] == pytest.approx(
        np.mean(expected), rel=1e-5
    )
    trained = read_run(tmp_path / "fit" / "latest" / "run.json")
    (epoch,) = trained["epochs"]
    assert 0 <= epoch["logs"]["f1_score"] <= 1
    assert run["notes"] == trained["notes"] == []


@pytest.mark.parametrize("kind", ["text", "error"])
def test_a_metric_without_a_number_costs_only_itself(kind, tmp_path):
    class Odd(keras.metrics.Metric):
        def update_state(self, y_true, y_pred, sample_weight=None):
            pass

        def result(self):
            if kind == "error":
                raise RuntimeError("no result")
            return "a word"

    model = plain()
    model.compile("sgd", loss(), metrics=[Odd(name="odd")], run_eagerly=True)
    kprune.prune(model, "l1", data=arrays(), run_dir=tmp_path)
    run = read_run(tmp_path / "latest" / "run.json")
    assert run["status"] == "finished"
    assert run["files"].keys() == {"original", "compact"}
    assert [row["macs"] for row in run["results"]] == [
        kprune.cost(model).macs,
        pytest.approx(kprune.cost(model).macs / 2, rel=0.2),
    ]
    assert len(run["checks"]) == 2
    assert any("odd" in n or "no result" in n for n in run["notes"])
    assert ("loss" in run["results"][1]["metrics"]) == (kind == "text")


def test_a_run_that_ends_in_nan_has_failed(tmp_path, caplog):
    model = plain()
    model.compile(keras.optimizers.SGD(1e20), loss(), run_eagerly=True)
    masked = kprune.wrap(model)
    callbacks = [
        PruneCallback(run_dir=tmp_path),
        keras.callbacks.TerminateOnNaN(),
    ]
    masked.fit(dataset(), epochs=4, verbose=0, callbacks=callbacks)
    run = read_run(tmp_path / "latest" / "run.json")
    assert run["status"] == "failed"
    assert "has NaN or infinite values" in run["error"]
    told = " ".join(r.getMessage() for r in caplog.records)
    assert run["error"] in told and "schedule" not in told
    assert runs.folder_of(masked) is None


@keras.saving.register_keras_serializable("test_record")
class Barrier(keras.layers.Layer):
    """Adds a constant with infinite values, as masks of logits do."""

    def build(self, shape):
        self.mask = self.add_weight(shape=(shape[-1],), trainable=False)

    def call(self, x):
        return x + keras.ops.maximum(self.mask, -100.0)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def test_constants_may_be_infinite(tmp_path):
    base = plain()
    barrier = Barrier()
    model = keras.Model(base.input, barrier(base.output))
    barrier.mask.assign([0.0] * (base.output.shape[-1] - 1) + [-np.inf])
    kprune.prune(model, "l1", {"macs": 0.4}, run_dir=tmp_path)
    run = read_run(tmp_path / "latest" / "run.json")
    assert run["status"] == "finished" and "compact" in run["files"]
