"""The arms of the method comparison, on a tiny network and few images."""

from __future__ import annotations

import dataclasses
import json
import sys

import keras
import numpy as np
import pytest
from shared_data import ROOT
from tiny_images import images
from tiny_images import network

import kprune
from kprune.parts import code

sys.path.append(str(ROOT / "benchmarks" / "methods"))

import arms
import claims
import data
import experiment
import run

TARGET = 0.4
SETTING = experiment.Setting(
    epochs=3, images=32, batch_size=16, calibration=32, learning_rate=0.01
)


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(data, "CHOICE", slice(None, 12))
    monkeypatch.setattr(data, "REPORT", slice(12, None))
    monkeypatch.setattr(experiment, "BATCH", 12)
    return experiment.Bench(SETTING, images(), network())


# -- arms ------------------------------------------------------------------


@pytest.mark.parametrize("name", arms.ARMS)
def test_every_arm_can_be_made(name):
    x = np.zeros((4, 8, 8, 3), "float32")
    made = [
        arms.ARMS[name].recipe(
            {"macs": 0.5}, (x, np.zeros(4)), arms.Run(4, seed)
        )
        for seed in (0, 1)
    ]
    assert made[0].epochs == 4
    assert made[0].parts is not made[1].parts
    assert [type(c) for c in made[0].callbacks] == [
        type(c) for c in made[1].callbacks
    ]


def test_claims_are_about_arms_that_there_are():
    for claim in claims.CLAIMS:
        assert {claim.arm, claim.versus or claim.arm} <= set(arms.ARMS)


def test_arms_are_found_by_patterns():
    found = arms.find(["duplication-*", "soft", "soft"])
    assert found == [f"duplication-{x}" for x in "bcdef"] + ["soft"]
    with pytest.raises(ValueError, match="No arm matches 'sift'"):
        arms.find(["sift"])


FAST = ("attenuation", "duplication-f", "unpruned")


@pytest.mark.parametrize(
    "name",
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in arms.ARMS
    ],
)
def test_every_arm_meets_its_target(bench, name):
    target = 0.0 if arms.ARMS[name].whole else TARGET
    before = [w.copy() for w in bench.model.get_weights()]
    result = bench.run(name, target, 0)
    if "dynamic" in result:
        # Filters that few images need are gone from the static model at once.
        assert target <= result["macs"]["removed"] < 1
        assert result["dynamic"]["mean_macs"]["removed"] < 1
        assert result["masked_to_compact"]["relative_difference"] < 1e-5
        return
    assert target <= result["macs"]["removed"] < target + 0.15
    assert [row["epoch"] for row in result["epochs"]] == [1, 2, 3]
    assert result["epochs"][-1]["macs_removed"] == result["macs"]["removed"]
    assert result["masked_to_compact"]["relative_difference"] < 1e-5
    if result["removals"]:
        last = result["removals"][-1]
        assert last["macs_removed"] == result["macs"]["removed"]
        assert 0 <= last["accuracy"] <= 100
    else:
        assert not target
    final = result["final"]
    halves = final["test[:5000]"] + final["test[5000:]"]
    assert final["test"] == pytest.approx(halves / 2, abs=1e-2)
    assert final["test[:5000]"] == result["epochs"][-1]["accuracy"]
    json.dumps(result)
    # the next arm starts from the same network
    for old, new in zip(before, bench.model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_merged_at_once_is_small_before_training(bench):
    recipe = arms.ARMS["duplication-f"].recipe(
        {"macs": TARGET}, bench.calibration(0), arms.Run(3, 0)
    )
    masked = bench.masked()
    prepared = recipe.prepare(masked)
    assert prepared.compiled
    assert prepared.count_params() < masked.count_params()


def test_arms_measure_what_removing_costs_once(bench):
    data_ = bench.calibration(0)
    curves = bench.curves(0)
    assert bench.curves(0) is curves
    arm = arms.ARMS["duplication-b"]
    kept = []
    for run_ in (arms.Run(3, 0, lambda: curves), arms.Run(3, 0)):
        recipe = arm.recipe({"macs": TARGET}, data_, run_)
        masked = bench.masked()
        kprune.prune(
            masked, "l1", {"macs": TARGET}, recipe.parts["allocation"], data_
        )
        kept.append(kprune.masks(masked))
        # What was measured is not written out.
        assert len(code(recipe.parts["allocation"])) < 60
    for name, mask in kept[0].items():
        np.testing.assert_array_equal(mask, kept[1][name])


# -- images ----------------------------------------------------------------


def drawn(seed=0, epochs=2, backend_noise=0, setting=SETTING):
    keras.random.uniform((backend_noise + 1,))
    dataset = data.training(images(), setting, seed)
    found = []
    for _ in range(epochs):
        if isinstance(dataset, keras.utils.PyDataset):
            batches = [dataset[n] for n in range(dataset.num_batches)]
            dataset.on_epoch_end()
        else:
            batches = [(x.numpy(), y.numpy()) for x, y in dataset]
        found.append(tuple(map(np.concatenate, zip(*batches, strict=True))))
    return found


@pytest.fixture(params=["this backend", "NumPy"])
def pipeline(request, monkeypatch):
    if request.param == "NumPy":
        monkeypatch.setattr(keras.config, "backend", lambda: "jax")


def test_epochs_differ_and_seeds_repeat(pipeline):
    keras.utils.set_random_seed(5)
    first = drawn()
    keras.utils.set_random_seed(5)
    again = drawn(backend_noise=7)
    other = drawn(seed=1)
    for (x, y), (same_x, same_y) in zip(first, again, strict=True):
        np.testing.assert_array_equal(x, same_x)
        np.testing.assert_array_equal(y, same_y)
    assert first[0][0].shape == (32, 8, 8, 3)
    assert (first[0][0] != first[1][0]).any()
    assert (first[0][0] != other[0][0]).any()


def test_images_keep_their_labels(pipeline):
    # without a shift each image is one of the originals, or its mirror image
    known = images()
    originals = SETTING.prepare(known.x_train)
    for x, y in drawn(setting=dataclasses.replace(SETTING, padding=0)):
        distance, mirrored = (
            np.abs(x[:, None] - found[None]).max((2, 3, 4))
            for found in (originals, originals[:, :, ::-1])
        )
        assert (mirrored.min(1) < distance.min(1)).any()
        distance = np.minimum(distance, mirrored)
        chosen = distance.argmin(1)
        assert distance.min(1).max() < 1e-5
        assert len(set(chosen)) == 32
        np.testing.assert_array_equal(y, known.y_train[chosen])


def test_augmentation_flips_and_crops():
    original = images(train=200).x_train
    out = data.flip_and_crop_numpy(original, np.random.default_rng(0), 2)
    padded = np.pad(original, ((0, 0), (2, 2), (2, 2), (0, 0)))
    seen = set()
    for image, wide in zip(out, padded, strict=True):
        matches = [
            (top, left, step)
            for top in range(5)
            for left in range(5)
            for step in (1, -1)
            if (wide[top : top + 8, left : left + 8][:, ::step] == image).all()
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) > 45  # of 50


def test_saved_parts_are_the_whole(tmp_path):
    known = images()
    loaded = data.load(files=data.save(known, tmp_path / "parts", 3))
    for old, new in zip(known, loaded, strict=True):
        assert old.dtype == new.dtype
        np.testing.assert_array_equal(old, new)


def test_missing_arrays_are_named(tmp_path):
    np.savez(tmp_path / "some.npz", x_train=np.zeros(1))
    with pytest.raises(ValueError, match=r"y_train.* are missing"):
        data.load(files=[tmp_path / "some.npz"])


def test_the_smallest_network_takes_raw_images():
    small = dataclasses.replace(SETTING, depth=8)
    pixels = images().x_test
    np.testing.assert_array_equal(small.prepare(pixels), pixels)
    assert small.prepare(pixels).dtype == np.float32
    assert np.abs(SETTING.prepare(pixels)).max() < 5
    batches = data.training(images(), small, 0)
    x = next(iter(batches))[0] if hasattr(batches, "take") else batches[0][0]
    assert np.array(x).max() > 100


def test_epochs_cannot_be_larger_than_the_data():
    with pytest.raises(ValueError, match=r"at least 16 .* at most 48"):
        data.training(images(), dataclasses.replace(SETTING, images=64), 0)


# -- the command -----------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch):
    files = data.save(images(), tmp_path / "images", 1)
    monkeypatch.setattr(run, "pretrained", lambda depth, weights: network())
    monkeypatch.setattr(experiment, "BATCH", 12)
    monkeypatch.setattr(data, "CHOICE", slice(None, 12))
    monkeypatch.setattr(data, "REPORT", slice(12, None))
    results = tmp_path / "results"

    def start(*arguments):
        return run.main(
            f"--images-npz {files[0]} --weights . --results {results} --epochs 1 "
            "--images 16 --batch-size 16 --calibration 16 --seeds 0".split()
            + list(arguments)
        )

    start.results = results / "resnet20-all-1x16"
    return start


def test_command_runs_what_is_missing(command, capsys):
    assert command("--arms", "hard-global-l1", "--target", "0.3") == 0
    [path] = command.results.iterdir()
    assert path.name == "hard-global-l1-30-0.json"
    written = path.read_bytes()
    capsys.readouterr()
    # Recipes take two epochs or more: that run fails, the series goes on.
    assert command("--arms", "hard-global-l1", "msvfp", "--target", "0.3") == 1
    captured = capsys.readouterr()
    assert "1 of 2 runs are missing" in captured.out
    assert "2 epochs or more" in captured.err
    assert [p.name for p in command.results.iterdir()] == [path.name]
    assert path.read_bytes() == written
    with pytest.raises(ValueError, match=r"'learning_rate': 0\.02"):
        command(
            *"--arms hard-global-l1 --target 0.3 --learning-rate 0.1".split()
        )


def test_list_runs_nothing(command, capsys):
    assert command("--list") == 0
    assert not command.results.exists()
    lines = capsys.readouterr().out.splitlines()
    # two targets each, but one where no MACs are to go
    whole = sum(arm.whole for arm in arms.ARMS.values())
    assert len(lines) == 1 + 2 * len(arms.ARMS) - whole
