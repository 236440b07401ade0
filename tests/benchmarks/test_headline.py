"""Runs that are stopped and go on, on a tiny network and few images."""

from __future__ import annotations

import importlib.util
import json
import sys

import keras
import numpy as np
import pytest
from shared_data import ROOT
from tiny_images import CLASSES
from tiny_images import images
from tiny_images import network

import kprune

sys.path.append(str(ROOT / "benchmarks" / "headline"))

import data
import experiment
import points
import training

# Another folder of benchmarks has a module of that name.
spec = importlib.util.spec_from_file_location(
    "headline", ROOT / "benchmarks" / "headline" / "run.py"
)
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)

OPTIONS = (
    "--weights . --images 32 --batch-size 16 --calibration 32 --seeds 0 "
    "--learning-rate 0.01"
)
SETTING = points.Setting(images=32, batch_size=16, epochs=4)


@pytest.fixture
def model():
    return network()


@pytest.fixture
def command(tmp_path, monkeypatch, model):
    files = data.save(images(), tmp_path / "images", 1)
    monkeypatch.setattr(run, "pretrained", lambda depth, weights: model)
    monkeypatch.setattr(experiment, "BATCH", 12)
    monkeypatch.setattr(data, "CHOICE", slice(None, 12))
    monkeypatch.setattr(data, "REPORT", slice(12, None))
    monkeypatch.setattr(training, "CLASSES", CLASSES)

    def start(folder, *arguments):
        failed = run.main(
            f"--images-npz {files[0]} --results {tmp_path / folder} "
            f"--checkpoints {tmp_path / folder / 'checkpoints'} {OPTIONS}".split()
            + " ".join(arguments).split()
        )
        assert not failed
        return sorted((tmp_path / folder).glob("*.json"))

    return start


@pytest.fixture
def stop_before(monkeypatch):
    """Function after which training is broken off before an epoch, from 0."""
    original = run.Bench.epoch

    def set_(number):
        def epoch(self, network, measured, batches, epoch):
            if epoch == number:
                raise KeyboardInterrupt
            return original(self, network, measured, batches, epoch)

        monkeypatch.setattr(run.Bench, "epoch", epoch)

    return set_


def told(path):
    """A result without what differs from run to run."""
    result = json.loads(path.read_text())
    del result["seconds"], result["pruned"]["seconds"]
    for row in result["epochs"]:
        del row["seconds"]
    return result


# In `similarity` filters go before epochs 1, 2 and 3 of 5.
@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, stops",
    [
        ("--arms random --epochs 2 --no-teacher", [1]),
        pytest.param(
            "--arms best --epochs 2 --mixup 0.4", [0, 1], marks=pytest.mark.slow
        ),
        pytest.param(
            "--arms similarity --epochs 5", [1, 3], marks=pytest.mark.slow
        ),
    ],
)
def test_stopped_runs_come_to_the_same_end(
    command, model, stop_before, monkeypatch, arguments, stops
):
    arguments += " --target 0.4"
    before = [w.copy() for w in model.get_weights()]
    [whole] = command("whole", arguments)
    for stop in stops:
        stop_before(stop)
        with pytest.raises(KeyboardInterrupt):
            command("parts", arguments)
    stop_before(None)
    if "similarity" not in arguments:
        monkeypatch.setattr(kprune, "prune", None)
    [parts] = command("parts", arguments)
    assert parts.name == whole.name
    assert told(parts) == told(whole)

    result = told(whole)
    assert 0.4 <= result["macs"]["removed"] < 0.6
    rows = result["epochs"]
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    assert set(result["final"]) == {"test[5000:]", "test"}
    first = 3 if "similarity" in arguments else 1
    assert result["pruned"]["before_epoch"] == first

    # The teacher is a copy, so the next run starts from the same network.
    assert model.trainable_variables
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_what_is_there_is_not_run_again(command, monkeypatch, capsys):
    def run_(self, task):
        return {"final": {}, "setting": self.setting.config()}

    monkeypatch.setattr(run.Bench, "run", run_)
    arguments = "--arms random-unrepaired --target 0.4 --epochs 1"
    [path] = command("results", arguments)
    assert path.name == (
        "random-unrepaired-macs40-teacher-1epochs-images32-batchsize16"
        "-learningrate0.01-calibration32-0.json"
    )
    monkeypatch.setattr(run.Bench, "run", None)
    capsys.readouterr()
    assert command("results", arguments) == [path]
    assert "0 of 1 runs are missing" in capsys.readouterr().out
    result = json.loads(path.read_text())
    result["setting"]["momentum"] = 0.5
    path.write_text(json.dumps(result))
    with pytest.raises(ValueError, match=r"made with {'momentum': 0\.5}"):
        command("results", arguments)


def test_checkpoints_of_other_options_are_not_gone_on_with(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    checkpoint = training.Checkpoint(tmp_path)
    setting = points.Setting().config()
    begun = checkpoint.progress(setting)
    begun.add({"epoch": 1})
    checkpoint.save(model, begun)
    assert checkpoint.progress(setting) == begun
    other = points.Setting(momentum=0.5).config()
    with pytest.raises(
        ValueError, match=r"state\.npz was made with other options"
    ):
        checkpoint.progress(other)


def test_list_is_in_the_order_of_what_matters(command, capsys):
    assert command("results", "--list --seeds 0 1") == []
    _, *lines = capsys.readouterr().out.splitlines()
    names = [line.strip().partition("-40epochs")[0] for line in lines]
    assert names == 2 * [
        "best-macs65-teacher",
        "best-macs75-teacher",
        "random-macs65-teacher",
        "random-macs75-teacher",
        "similarity-macs61.1-params58.3-teacher",
        "similarity-macs61.1-params58.3-alone",
        "msvfp-macs50-teacher",
    ]
    assert [line[-2:] for line in lines] == 7 * ["-0"] + 7 * ["-1"]


def test_names_say_what_differs(tmp_path):
    def name(point, **options):
        setting = points.Setting(**options)
        [task] = points.tasks([point], [3], setting, tmp_path)
        return task.path.name

    best = points.Point("best", {"macs": 0.65})
    assert name(best, epochs=8) == "best-macs65-teacher-8epochs-3.json"
    assert name(best, weight_decay=2e-3, mixup=0.2) == (
        "best-macs65-teacher-40epochs-weightdecay0.002-mixup0.2-3.json"
    )
    alone = points.Point("best", {"params": 0.5}, teacher=False)
    assert name(alone) == "best-params50-alone-40epochs-3.json"


def test_arms_are_found_by_patterns():
    found = points.points("b", ["random*"], [0.5])
    assert found == [
        points.Point("random", {"macs": 0.5}),
        points.Point("random-unrepaired", {"macs": 0.5}),
    ]
    assert points.points("b", [], []) == points.POINTS["b"]
    with pytest.raises(ValueError, match="No arm matches 'bets'"):
        points.points("b", ["bets"], [])


def test_chance_chooses_by_the_seed_and_is_repaired(model):
    x = images().x_train.astype("float32") / 255

    def kept(arm, seed):
        masked = points.ARMS[arm].prune(model, {"macs": 0.4}, x, seed)
        return kprune.masks(masked), masked.get_weights()

    repaired, weights = kept("random", 0)
    plain, raw = kept("random-unrepaired", 0)
    other, _ = kept("random", 1)
    for group, mask in repaired.items():
        np.testing.assert_array_equal(mask, plain[group])
    assert any((repaired[g] != other[g]).any() for g in repaired)
    assert any((w != r).any() for w, r in zip(weights, raw, strict=True))


# -- images ----------------------------------------------------------------


def drawn(setting, seed=0, epoch=0):
    batches = training.epoch_batches(images(), setting, seed, epoch)
    if isinstance(batches, keras.utils.PyDataset):
        return [batches[n] for n in range(batches.num_batches)]
    return [(x.numpy(), y.numpy()) for x, y in batches]


@pytest.fixture(params=["this backend", "NumPy"])
def pipeline(request, monkeypatch):
    monkeypatch.setattr(training, "CLASSES", CLASSES)
    if request.param == "NumPy":
        monkeypatch.setattr(keras.config, "backend", lambda: "jax")


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_images_depend_on_seed_and_epoch_alone(pipeline, mixup):
    setting = points.Setting(images=32, batch_size=16, mixup=mixup)
    first = drawn(setting, 1, 2)
    for (x, y), (same_x, same_y) in zip(
        first, drawn(setting, 1, 2), strict=True
    ):
        np.testing.assert_array_equal(x, same_x)
        np.testing.assert_array_equal(y, same_y)
    for other in drawn(setting, 1, 3), drawn(setting, 2, 2):
        assert (first[0][0] != other[0][0]).any()


def test_mixup_blends_images_and_labels_alike(pipeline):
    plain = drawn(SETTING)
    mixed = drawn(points.Setting(images=32, batch_size=16, mixup=0.4))
    eye = np.eye(CLASSES)
    for (x, y), (blend, labels) in zip(plain, mixed, strict=True):
        away = x - x[::-1]
        share = (away * (blend - x[::-1])).sum() / (away**2).sum()
        assert 0 <= share <= 1
        np.testing.assert_allclose(
            blend, share * x + (1 - share) * x[::-1], atol=1e-5
        )
        np.testing.assert_allclose(
            labels, share * eye[y] + (1 - share) * eye[y[::-1]], atol=1e-5
        )


def test_the_teacher_is_compared_by_softened_probabilities(model):
    compact = kprune.rebuild(kprune.prune(model, "l1", {"macs": 0.3}))
    experiment.compile_model(compact, SETTING)
    distiller = training.with_teacher(compact, model, one_hot=False)
    x = SETTING.prepare(images().x_train[:16])
    y = images().y_train[:16]

    def log_softmax(scores):
        scores = scores - scores.max(axis=1, keepdims=True)
        return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

    wanted, given = (np.array(net(x), "float64") for net in (model, compact))
    labels = -log_softmax(given)[np.arange(16), y].mean()
    softened = [log_softmax(z / points.TEMPERATURE) for z in (wanted, given)]
    p, q = softened
    divergence = points.TEMPERATURE**2 * (np.exp(p) * (p - q)).sum(1).mean()
    loss = distiller.compute_loss(
        x, y, distiller(x, training=False), training=True
    )
    assert float(loss) == pytest.approx((labels + divergence) / 2, rel=1e-3)
