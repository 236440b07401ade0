"""What the commands say of accuracy, and what they advise."""

from __future__ import annotations

import json
import shlex
import types

import colours
import keras
import numpy as np
import pytest
import typer
from cli.running import assert_fails
from cli.running import run
from keras import layers

import kprune
from kprune.commands import pruning
from kprune.commands.advice import about_original
from kprune.commands.advice import about_result
from kprune.commands.line import CommandLine
from kprune.commands.outcome import Line
from kprune.commands.pruning import make_scorer
from kprune.commands.samples import find_data
from kprune.commands.scoring import FileScorer
from kprune.commands.scoring import Score
from kprune.commands.scoring import Scorer
from kprune.data import pixels
from kprune.data.inputs import ModelInputs
from kprune.data.reading import Samples
from kprune.export.runtime import open_runtime


@pytest.fixture
def photos(tmp_path):
    return colours.write_folder(tmp_path / "photos", *colours.images())


@pytest.fixture
def saved(tmp_path):
    """Takes the place of the model in conftest.py."""
    path = tmp_path / "model.keras"
    colours.model().save(path)
    return path


def unit_images(count=24):
    x, labels = colours.images(count)
    return (x / 255).astype("float32"), labels


def evaluated(path):
    loaded = keras.saving.load_model(path)
    return loaded.evaluate(*unit_images(), verbose=0, return_dict=True)


def right(path):
    """Accuracy of an exported file, on its own runtime."""
    runtime = open_runtime(path)
    x, labels = unit_images()
    (scores,) = runtime.run_batched({runtime.inputs[0].name: x}).values()
    return float((scores.argmax(-1) == labels).mean())


def test_prune_shows_the_accuracy_of_each_model_and_file(
    saved, photos, tmp_path
):
    out, same = tmp_path / "small.tflite", tmp_path / "small.keras"
    prune = ("prune", saved, "--data", photos, "--criterion", "l1")
    result = run(*prune, out, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    original, pruned, exported = told["results"]
    truth = evaluated(saved)
    for name, value in original["metrics"].items():
        assert value == pytest.approx(truth[name], abs=1e-6)
    assert truth["accuracy"] == pytest.approx(20 / 24)
    assert exported["metrics"]["accuracy"] == pytest.approx(right(out))
    assert exported["bytes"] == out.stat().st_size
    assert told["data"]["labelled"] and told["data"]["samples"] == 24
    assert told["export"]["data"] == "calibration data"
    # Weights count, the state of the optimizer does not.
    assert original["bytes"] == 4 * colours.model().count_params()
    assert pruned["bytes"] == 4 * pruned["params"]
    result = run(*prune, same)
    after = evaluated(same)
    assert pruned["metrics"]["loss"] == pytest.approx(after["loss"], abs=1e-5)
    for accuracy in (truth["accuracy"], after["accuracy"]):
        assert f"{100 * accuracy:.2f} %" in result.stdout
    assert "pixels 0 to 1, as the statistics" in result.stderr


def test_the_run_has_what_the_command_shows(saved, photos, tmp_path):
    x, y = unit_images()
    np.savez(tmp_path / "other.npz", x=x[:9], y=y[:9])
    out, folder = tmp_path / "small.tflite", tmp_path / "runs"
    result = run(
        *("prune", saved, out, "--data", photos, "--criterion", "l1"),
        *("--validation", tmp_path / "other.npz"),
        *("--run-dir", folder, "--json"),
    )
    assert result.exit_code == 0, result.output
    shown = {row["name"]: row for row in json.loads(result.stdout)["results"]}
    record = kprune.Run(folder).record
    kept = {row["name"]: row for row in record["results"]}
    for name, other in (
        ("original", "original"),
        ("compact", "pruned"),
        ("small.tflite", "small.tflite"),
    ):
        assert kept[name]["metrics"] == pytest.approx(shown[other]["metrics"])
        assert kept[name]["samples"] == 9
    assert kept["small.tflite"]["bytes"] == out.stat().st_size
    assert record["checks"][-1]["what"].startswith("small.tflite against")


def test_without_labels_agreement_is_shown(saved, tmp_path):
    np.save(tmp_path / "x.npy", unit_images()[0])
    result = run(
        *("prune", saved, tmp_path / "s.keras", "--data", tmp_path / "x.npy"),
        *("--criterion", "l1"),
    )
    assert result.exit_code == 0, result.output
    assert "same class" in result.stdout and "accuracy" not in result.stdout


def test_samples_that_do_not_fit_are_told_by_their_option(saved, tmp_path):
    np.savez(tmp_path / "x.npz", x=unit_images()[0])
    np.savez(tmp_path / "bad.npz", x=np.zeros((4, 3)))
    given = ("--data", tmp_path / "x.npz")
    given += ("--validation", tmp_path / "bad.npz")
    result = run("prune", saved, tmp_path / "s.keras", *given)
    assert_fails(result, "`--validation` has shape (4, 3)")


def test_without_data_it_is_said_that_nothing_is_known(saved, tmp_path):
    given = ("--recover", "none", "--criterion", "l1")
    result = run("prune", saved, tmp_path / "s.keras", *given)
    assert "nothing is known about accuracy" in result.stderr


def test_one_hot_targets_are_what_the_loss_wants(saved, photos, tmp_path):
    colours.model(loss="categorical_crossentropy").save(saved)
    data = find_data(photos)
    model = keras.saving.load_model(saved)
    found = Scorer(data.samples(model), model).model(model)
    assert found.metrics["accuracy"] == pytest.approx(20 / 24)


def test_labels_of_one_output_among_several_are_left_out():
    inputs = keras.Input((8, 8, 3))
    pooled = layers.GlobalAveragePooling2D()(inputs)
    outputs = [layers.Dense(2, name=name)(pooled) for name in ("kind", "age")]
    model = keras.Model(inputs, outputs, name="two")
    model.compile("sgd", "mse")
    scorer, (found,) = make_scorer(
        Samples(*unit_images(), "photos"), model, "--data"
    )
    assert "2 outputs of model 'two' have a loss: kind, age" in found.message
    score = scorer.model(model)
    assert not scorer.labelled and score.accuracy is None


def test_labels_that_are_no_numbers_are_left_out_with_or_without_a_loss():
    x, _ = unit_images(4)
    y = np.array([["a", "b"]] * 4)
    for kind in ({}, {"loss": None}):
        model = colours.model(**kind)
        scorer, (found,) = make_scorer(Samples(x, y, "d.npz"), model, "--data")
        assert not scorer.labelled
        assert found.message.startswith("Accuracy is not measured. ")
        assert "targets of dtype <U1" in found.message


# -- advice ------------------------------------------------------------------


def test_a_wrong_range_and_another_order_are_told(saved, tmp_path):
    x, labels = colours.images(48)
    data = {
        "raw.npz": (x.astype("float32"), labels),
        "order.npz": (x.astype("float32") / 255, 1 - labels),
    }
    told = []
    for name, (inputs, targets) in data.items():
        np.savez(tmp_path / name, x=inputs, y=targets)
        given = ("--data", tmp_path / name, "--criterion", "l1")
        result = run("prune", saved, tmp_path / "s.keras", *given)
        told.append(" ".join(result.stderr.split()))
    assert "in another range (0 to 255)" in told[0]
    assert f"--data {tmp_path}/raw.npz --pixels unit" in told[0]
    assert "an accuracy of only 16.67 %" in told[1]
    assert "order of training, the accuracy would be 83.33 %" in told[1]
    # The samples are to be mended first, not the pruning.
    assert [text.count("kprune: warning") for text in told] == [1, 1]


@pytest.mark.parametrize("out", ["s.keras", "s.tflite"])
def test_unlabelled_samples_in_another_range_are_told_once(
    saved, tmp_path, out, caplog
):
    """Also in JSON."""
    np.save(tmp_path / "x.npy", colours.images(48)[0].astype("float32"))
    given = ("--data", tmp_path / "x.npy", "--criterion", "l1")
    result = run("prune", saved, tmp_path / out, *given, "--json")
    assert result.exit_code == 0
    assert not any("look like" in text for text in caplog.messages)
    told = "the samples in `--data` do not look like the model"
    assert result.stderr.count(told) == 1
    (found,) = json.loads(result.stdout)["warnings"]
    assert found["message"].startswith(told)


def scorer(labelled=True):
    x, labels = unit_images(240)
    samples = Samples(x, labels if labelled else None, "photos")
    return Scorer(samples, colours.model())


def score(accuracy):
    return Score({"accuracy": accuracy}, recall=accuracy)


@pytest.mark.parametrize(
    ("after", "options", "repaired", "words"),
    [
        (0.94, {"--data": "d"}, False, ()),
        (0.8, {"--data": "d", "--criterion": "l1"}, False,
         ("lost 15.0 points", "Repair the layers", "c.keras --data d")),
        (0.8, {"--data": "d"}, True,
         ("lost 15.0 points", "--data d --recover mimic")),
        (0.8, {"--data": "d", "--recover": "mimic"}, True,
         ("labels too", "--method refit")),
        (0.5, {"--data": "d"}, True, ("hardly better than guessing",)),
        (0.8, {"--data": "d", "--method": "hgs", "--epochs": 9}, True,
         ("Repair the layers", "--method hgs --epochs 9 --recover reconstruct")),
        (0.8, {"--data": "d", "--recover": "bn", "--method": "hgs", "--epochs": 9},
         True, ("longer", "--method hgs --epochs 18")),
        (0.8, {"--data": "d", "--method": "refit", "--epochs": 9}, False,
         ("longer", "--method refit --epochs 18")),
        (0.8, {"--validation": "v"}, False, ("--validation v --data v",)),
    ],
)  # fmt: skip
def test_what_is_advised_after_a_loss(after, options, repaired, words):
    command = CommandLine(("prune", "m.keras", "c.keras"), options)
    found = about_result(scorer(), score(0.95), score(after), command, repaired)
    assert len(found) == (1 if words else 0)
    for word in words:
        assert word in f"{found[0].message} {found[0].command}"


MIMICKED = {"--data": "d.npz", "--recover": "mimic"}
LATENCY, RAM = ({"--reduce": [f"{cost}=0.5"]} for cost in ("latency", "ram"))


@pytest.mark.parametrize(
    ("options", "repaired"),
    [
        ({"--validation": "d.npz", "--round-to": 8}, False),
        (
            {"--data": "d.npz", "--round-to": 8, "--allocation": "uniform"},
            False,
        ),
        ({"--data": "d.npz", **LATENCY, "--runtime": "litert"}, True),
        (
            {**MIMICKED, "--allocation": "similarity", "--criterion": "taylor"},
            True,
        ),
        ({**MIMICKED, "--round-to": 8}, True),
        ({**MIMICKED, "--round-to": 8, "--allocation": "uniform"}, True),
        ({**MIMICKED, **LATENCY, "--latency-table": "t.json"}, True),
        ({**MIMICKED, **LATENCY, "--runtime": "litert"}, True),
        (
            {**MIMICKED, **RAM, "--dtype": "int8", "--allocation": "global"},
            True,
        ),
        ({"--data": "d.npz", "--method": "similarity"}, True),
    ],
)
def test_commands_that_are_advised_are_accepted(
    options, repaired, tmp_path, monkeypatch
):
    def accepted(*arguments, **options):
        raise ValueError("accepted")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kprune.commands.prune.start_keras", accepted)
    np.savez("d.npz", x=np.zeros((4, 2)), y=np.zeros(4))
    for name in ("m.keras", "t.json"):
        (tmp_path / name).touch()
    given = CommandLine(("prune", "m.keras", "c.keras"), options)
    found = about_result(scorer(), score(0.95), score(0.8), given, repaired)
    words = shlex.split(found[0].command)
    assert run(*words[1:]).stderr == "kprune: error: accepted\n"
    chosen = {"--criterion", "--allocation", "--recover"}
    assert options.keys() - chosen <= set(words)


def test_without_labels_it_is_advised_to_mimic():
    command = CommandLine(("prune", "m.keras", "c.keras"), {"--data": "d"})
    (found,) = about_result(
        scorer(labelled=False), Score(), Score(agreement=0.7), command, True
    )
    assert "70.00 %" in found.message
    assert found.command.endswith("--data d --recover mimic")


# -- export and bench --------------------------------------------------------


def test_export_shows_the_accuracy_of_model_and_file(saved, photos, tmp_path):
    out = tmp_path / "model.tflite"
    export = ("export", saved, out, "--data", photos, "--quantize", "int8")
    told = json.loads(run(*export, "--json").stdout)
    model, file = told["results"]
    assert model["metrics"]["accuracy"] == pytest.approx(20 / 24)
    assert file["metrics"]["accuracy"] == pytest.approx(right(out))
    assert told["data"] == "calibration data"


def test_a_guessed_range_of_pixels_names_the_option(photos, capsys):
    found = find_data(photos)
    inputs = ModelInputs(colours.model()).inputs
    found.read(found.train, "train", inputs, lambda x: np.zeros((len(x), 3)))
    said = capsys.readouterr().err
    assert "pixels 0 to 1, a guess" in said
    assert said.endswith(": --pixels sets another\n")


@pytest.mark.parametrize(
    ("mode", "end"),
    [
        ("unit", "pixels 0 to 1, as requested\n"),
        ("raw", "although 0 to 1 fits better: as the statistics in the model "),
    ],
)
def test_a_requested_range_that_fits_badly_is_used_with_a_note(
    photos, capsys, mode, end
):
    found = find_data(photos, pixels=mode)
    samples = found.samples(colours.model())
    assert samples.mode == mode
    assert (samples.x.max() > 1) == (mode == "raw")
    assert end in capsys.readouterr().err


@pytest.mark.parametrize("held", ["raw", "unit", "tf"])
@pytest.mark.parametrize("mode", ["raw", "unit", "tf", "caffe"])
def test_arrays_of_fractions_are_scaled_as_requested(
    tmp_path, capsys, held, mode
):
    x = colours.images()[0]
    np.save(tmp_path / "x.npy", pixels.scaled(x, held))
    found = find_data(tmp_path / "x.npy", pixels=mode)
    samples = found.samples(colours.model())
    np.testing.assert_allclose(samples.x, pixels.scaled(x, mode), atol=1e-4)
    assert samples.mode == mode
    told = f"in the file they are {pixels.MODES[held]}"
    assert (told in capsys.readouterr().err) == (mode != held != "raw")


def test_the_range_that_is_advised_for_scaled_arrays_is_what_helps(tmp_path):
    x, labels = unit_images()
    np.savez(tmp_path / "x.npz", x=x, y=labels)
    model = colours.model(scale=1.0)
    before = Scorer(find_data(tmp_path / "x.npz").samples(model), model)
    command = CommandLine(("prune", "m.keras", "c.keras"), {"--data": "d"})
    (found,) = about_original(before, before.model(model), command)
    assert found.command.endswith("--pixels raw")
    mended = find_data(tmp_path / "x.npz", pixels="raw").samples(model)
    assert Scorer(mended, model).model(model).accuracy > 0.8


# -- images without a channel axis -------------------------------------------


def grey(shape=(8, 8, 1), units=2):
    """Tells bright from dark where pixels are from 0 to 1; nothing says so."""
    inputs = keras.Input(shape)
    mean = layers.Flatten()(inputs)
    score = layers.Dense(units, "sigmoid", name="scores")(mean)
    net = keras.Model(inputs, score)
    signs = np.array([-1, 1])[-units:]
    kernel = np.ones((64, 1)) * signs / 64
    net.get_layer("scores").set_weights([kernel, -0.45 * signs])
    return net


LABELS = np.arange(24) % 2
GREY = np.full((24, 8, 8), 80, "uint8") + 70 * LABELS[:, None, None].astype(
    "uint8"
)


@pytest.mark.parametrize(
    ("y", "model"),
    [
        (LABELS, {}),
        (LABELS[:, None], {}),
        (np.eye(2)[LABELS], {}),
        (LABELS, {"units": 1}),
        (LABELS, {"shape": (8, 8)}),
    ],
)
def test_integer_images_without_a_channel_axis(tmp_path, capsys, y, model):
    np.savez(tmp_path / "grey.npz", x=GREY, y=y)
    net = grey(**model)
    samples = find_data(tmp_path / "grey.npz").samples(net)
    assert samples.mode == "unit" and samples.x.shape[1:] == net.input_shape[1:]
    np.testing.assert_allclose(samples.x.reshape(GREY.shape), GREY / 255, 1e-6)
    assert (
        "the range in which the model is right most" in capsys.readouterr().err
    )
    # Another range is used if it is asked for.
    samples = find_data(tmp_path / "grey.npz", pixels="tf").samples(net)
    np.testing.assert_allclose(samples.x.max(), 150 / 127.5 - 1, 1e-6)


def test_another_range_is_told_without_a_channel_axis():
    samples = Samples(GREY.astype("float32"), LABELS, "grey")
    scorer = Scorer(samples, grey())
    command = CommandLine(("prune", "m.keras", "c.keras"), {"--data": "d"})
    score = scorer.model(scorer.original)
    (found,) = about_original(scorer, score, command)
    assert "With the range 0 to 1, the accuracy on 24" in found.message
    assert found.command.endswith("--data d --pixels unit")


def test_a_range_without_effect_is_a_wrong_option(tmp_path):
    np.savez(tmp_path / "rows.npz", x=np.ones((4, 3)))
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    with pytest.raises(typer.BadParameter, match="holds no images"):
        find_data(tmp_path / "rows.npz", pixels="unit").samples(model)
    np.savez(tmp_path / "grey.npz", x=GREY)
    with pytest.raises(typer.BadParameter, match="images of three colours"):
        find_data(tmp_path / "grey.npz", pixels="torch").samples(grey())


def test_bench_shows_the_accuracy_of_files_and_models(
    saved, photos, tmp_path, monkeypatch
):
    out = tmp_path / "model.tflite"
    kprune.export(keras.saving.load_model(saved), out)
    original = kprune.benchmark
    monkeypatch.setattr(
        kprune, "benchmark", lambda m, threads: original(m, runs=10, seconds=0)
    )
    for file in (saved, out):
        (model,) = json.loads(
            run("bench", file, "--data", photos, "--json").stdout
        )["models"]
        assert model["score"]["metrics"]["accuracy"] == pytest.approx(20 / 24)


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"sparse_top_k_categorical_accuracy": 0.9}, None),
        ({"top_5_accuracy": 0.9, "accuracy": 0.5}, 0.5),
        ({"kind_top5_accuracy": 0.9, "kind_accuracy": 0.5}, 0.5),
        ({"binary_accuracy": 0.7, "acc": 0.5}, 0.5),
        ({"laptop_k_accuracy": 0.7, "loss": 1.0}, 0.7),
        ({"top_1_accuracy": 0.7}, 0.7),
    ],
)
def test_only_the_first_class_counts_as_right(metrics, expected):
    assert Score(metrics).accuracy == expected


def test_files_take_samples_without_a_last_axis_of_1(tmp_path):
    path = tmp_path / "grey.tflite"
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten()])
    kprune.export(model, path)
    x = np.random.default_rng(0).random((5, 8, 8), "float32")
    scorer = FileScorer(Samples(x, None, "rows"), path, "--data")
    np.testing.assert_array_equal(scorer.run(path)[0], x.reshape(5, 64))
    scorer = FileScorer(Samples(x[:, 1:], None, "rows"), path, "--data")
    with pytest.raises(ValueError, match=r"\(8, 8, 1\). Received \(7, 8\)"):
        scorer.run(path)


def test_models_of_one_batch_size_are_scored_on_all_samples():
    inputs = keras.Input(batch_shape=(4, 6))
    x = keras.ops.reshape(inputs, (4, 3, 2))
    outputs = layers.Dense(3)(layers.Flatten()(x))
    model = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    rng = np.random.default_rng(0)
    x, y = rng.random((10, 6), "float32"), rng.integers(0, 3, 10)
    weights, bias = model.get_weights()
    found = Scorer(Samples(x, y, "rows"), model).model(model)
    right = (x @ weights + bias).argmax(-1) == y
    assert found.metrics == {"accuracy": pytest.approx(right.mean())}
    assert found.agreement is None


def test_a_metric_with_a_value_for_each_class_is_shown_as_their_mean():
    model = colours.model()
    model.compile("sgd", "mse", metrics=[keras.metrics.F1Score()])
    x, labels = unit_images()
    y = keras.utils.to_categorical(labels, model.output_shape[-1])
    score = Scorer(Samples(x, y, "colours"), model).model(model)
    expected = model.evaluate(x, y, verbose=0, return_dict=True)["f1_score"]
    assert score.metrics["f1_score"] == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("name", ["original", "compact", "pruned"])
def test_an_output_never_shares_the_row_of_a_model(name, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(pruning, "folder_of", lambda masked: tmp_path)
    monkeypatch.setattr(
        pruning, "annotate", lambda folder, rows, checks: found.extend(rows)
    )
    work = pruning.Pruning.__new__(pruning.Pruning)
    work.out, work._resumable = tmp_path / name, None
    work.scorer = types.SimpleNamespace(samples=types.SimpleNamespace(size=4))
    lines = [Line(str(n), file=n, score=Score({"loss": n})) for n in range(3)]
    report = types.SimpleNamespace(max_rel=0.0, top1=None, samples=4)
    work._record(None, lines, report)
    names = [row["name"] for row in found]
    assert names == ["original", "compact", f"{name}/"]
    assert [row["bytes"] for row in found] == [0, 1, 2]
