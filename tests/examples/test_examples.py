from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from examples.scripts import EXAMPLES
from examples.scripts import before_and_after
from examples.scripts import load
from examples.scripts import run
from shared_data import shared_data

import kprune
from kprune.data import batches
from kprune.data import load_cifar10
from kprune.data import load_digits
from kprune.data import normalize_cifar10
from kprune.report.measure import accuracy
from kprune.report.measure import predict

# -- quickstart ------------------------------------------------------------


def test_quickstart_is_short():
    assert len((EXAMPLES / "quickstart.py").read_text().splitlines()) <= 25


@pytest.mark.slow
def test_quickstart(tmp_path):
    text = run(tmp_path, "quickstart")
    assert (tmp_path / "model.tflite").read_bytes()[4:8] == b"TFL3"
    removed = re.findall(r"pruned_macs: ([\d.]+)", text)
    assert 0.6 <= float(removed[-1]) < 0.63
    reached = re.findall(r"accuracy: ([\d.]+)", text)
    assert float(reached[-1]) > 0.95


# -- transfer learning -----------------------------------------------------


def test_channels_of_a_nested_backbone_are_prunable():
    model = load("transfer_learning").build_model()
    assert isinstance(model.get_layer("backbone"), keras.Model)
    graph = kprune.trace(model)
    assert set(graph.coverage.reasons) == {"feeds the model output 'scores'"}
    inside = {layer.name for layer in model.get_layer("backbone").layers}
    assert sum(group.name in inside for group in graph.prunable) > 5


@pytest.mark.slow
def test_transfer_learning(tmp_path):
    text = run(tmp_path, "transfer_learning", "--epochs", 4, "--reduce", 0.3)
    removed = re.search(r"([\d.]+) % fewer MACs", text)
    assert removed and 30 <= float(removed[1]) < 40
    assert (tmp_path / "transfer-learning" / "compact-int8.tflite").exists()


# -- without labels --------------------------------------------------------


def folder_of_digits(folder: Path, x: np.ndarray) -> Path:
    """Write digits, which are numbers from 0 to 1, as images in two folders."""
    for number, image in enumerate(255 * x):
        path = folder / "even odd".split()[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(path, image, scale=False)
    return folder


def digits_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.GlobalMaxPooling2D(),
            keras.layers.Dense(10),
        ]
    )


def test_a_folder_of_too_few_images_is_told(tmp_path):
    example = load("prune_without_labels")
    folder_of_digits(tmp_path, np.zeros((3, 8, 8, 1)))
    with pytest.raises(SystemExit, match="holds 3 images; 32 are needed"):
        example.read(tmp_path, digits_model(), 100)


def test_images_of_a_folder_have_the_size_of_the_model(tmp_path):
    example = load("prune_without_labels")
    shades = np.linspace(0, 1, 40).round(1)
    folder_of_digits(
        tmp_path, np.ones((40, 4, 6, 1)) * shades[:, None, None, None]
    )
    x = example.read(tmp_path, digits_model(), 33)
    assert x.shape == (33, 8, 8, 1)
    assert x.std(axis=(1, 2, 3)).max() == 0
    assert set(np.unique(x)) <= set((255 * shades).astype("uint8"))
    assert len(np.unique(x)) > 5


@pytest.mark.slow
def test_prune_without_labels(tmp_path):
    (x, y), _, _ = load_digits()
    model = digits_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.005), loss)
    model.fit(batches(x, y, shuffle=True), epochs=15, verbose=0)
    model.save(tmp_path / "digits.keras")
    folder = folder_of_digits(tmp_path / "images", x[:400])
    text = run(
        tmp_path,
        "prune_without_labels",
        *("digits.keras", folder, "small.tflite"),
        *("--scale", 1 / 255, "--reduce", "macs=0.4", "--quantize", "int8"),
    )
    assert (tmp_path / "small.tflite").read_bytes()[4:8] == b"TFL3"
    before, after = before_and_after(text, "MACs")
    assert 0.55 * before < after <= 0.6 * before
    kept = re.search(r"for ([\d.]+)% of 100 images", text)
    assert kept and float(kept[1]) >= 85


# -- CIFAR-10 ResNets ------------------------------------------------------


@pytest.fixture(scope="module")
def cifar():
    return load("cifar10_resnet")


@pytest.mark.parametrize(
    "depth, trainable",
    [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)],
)
def test_resnets_have_the_published_number_of_parameters(
    cifar, depth, trainable
):
    model = cifar.build_resnet(depth)
    shapes = [v.shape for v in model.trainable_variables]
    assert sum(int(np.prod(shape)) for shape in shapes) == trainable
    assert len([n for n in model.layers if "conv" in n.name]) == depth - 1


def test_a_resnet_of_another_depth_is_refused(cifar):
    with pytest.raises(ValueError, match=r"6n \+ 2 .* received 21"):
        cifar.build_resnet(21)


def test_option_a_shortcut_is_a_strided_and_padded_input(cifar):
    model = cifar.build_resnet(8)
    add = model.get_layer("layer2_0_add")
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    before = model.get_layer("layer1_0_relu2").output
    shortcut = next(
        t for t in add.input if "bn2" not in t._keras_history[0].name
    )
    inner, outer = keras.Model(model.input, [before, shortcut])(x)
    expected = np.zeros((2, 16, 16, 32), "float32")
    expected[..., 8:24] = np.asarray(inner)[:, ::2, ::2]
    np.testing.assert_array_equal(outer, expected)


def test_weights_are_loaded_by_name(cifar, tmp_path):
    model = cifar.build_resnet(8)
    rng = np.random.default_rng(0)
    bn = {"weight": "gamma", "bias": "beta"}
    bn |= {"running_mean": "moving_mean", "running_var": "moving_variance"}
    arrays, expected = {}, {}
    for layer in model.layers:
        key = layer.name.replace("_", ".")
        names = {"kernel": "weight", "bias": "bias"}
        if "bn" in layer.name:
            names = {keras_name: name for name, keras_name in bn.items()}
        for variable in layer.weights:
            value = rng.normal(size=variable.shape).astype("float32")
            arrays[f"{key}.{names[variable.name]}"] = value
            expected[variable.path] = value
    np.savez(tmp_path / "w.npz", **arrays)
    cifar.load_weights(model, tmp_path / "w.npz")
    for variable in model.weights:
        np.testing.assert_array_equal(variable, expected[variable.path])


def test_a_baseline_that_is_not_the_published_one_stops_the_example(cifar):
    model = cifar.build_resnet(8)
    x = np.zeros((4, 32, 32, 3), "float32")
    with pytest.raises(SystemExit, match=r"published are 91\.73"):
        cifar.check_baseline(model, 20, x, np.arange(4))


@pytest.mark.slow
@pytest.mark.parametrize(
    "depth, published", [(20, 91.73), (32, 92.63), (44, 93.10), (56, 93.39)]
)
def test_pretrained_weights_reach_the_published_accuracy(
    cifar, depth, published
):
    weights = shared_data("weights", f"cifar10_resnet{depth}.npz")
    x, y = load_cifar10("test", shared_data("tfds"))
    model = cifar.build_resnet(depth)
    cifar.load_weights(model, weights)
    measured = 100 * accuracy(predict(model, normalize_cifar10(x)), y)
    assert measured == pytest.approx(published, abs=0.001)


@pytest.mark.slow
def test_the_cifar10_example_prunes_and_prints_the_table(tmp_path):
    text = run(
        tmp_path,
        "cifar10_resnet",
        *(
            "--data-dir",
            shared_data("tfds"),
            "--weights",
            shared_data("weights"),
        ),
        *("--epochs", 1, "--train-images", 1280, "--reduce", 0.3),
    )
    assert "baseline on all 10000 test images: 91.73 %" in text
    removed = re.search(r"([\d.]+) % fewer MACs", text)
    assert removed and 30 <= float(removed[1]) < 32
    for row in (
        "original",
        "masked",
        "compact",
        "TFLite",
        "TFLite-int8",
        "ONNX",
    ):
        assert f"│ {row} " in text


STAY_AS_THEY_ARE = ("manidp",)
"""Recipes without a target: what is saved depends on the sample."""


@pytest.mark.slow
@pytest.mark.parametrize("method", kprune.recipes.names())
def test_a_resnet_is_pruned_by_each_recipe(cifar, method):
    options = cifar.parse(
        f"--method {method} --epochs 2 --reduce 0.3 --batch-size 16 "
        "--random-images 32".split()
    )
    model = cifar.build_resnet(8)
    x, y = cifar.random_images(32, 0)
    masked = cifar.fine_tune(model, x, y, options)
    compact = kprune.rebuild(masked)
    images = normalize_cifar10(x)
    one, other = predict(masked, images), predict(compact, images)
    assert np.isfinite(one).all()
    np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(one).max())
    left = kprune.cost(compact).macs / kprune.cost(model).macs
    if method not in STAY_AS_THEY_ARE:
        assert 0.4 < left <= 0.7


@pytest.mark.slow
def test_the_cifar10_example_runs_without_files(tmp_path):
    text = run(
        tmp_path,
        "cifar10_resnet",
        *("--random-images", 64, "--epochs", 2, "--batch-size", 32),
        *("--method", "similarity", "--reduce", 0.3),
    )
    assert "Removes 30 % of the MACs in 2 epochs." in text
    assert "pruned, all 64:" in text
    assert (tmp_path / "cifar10-resnet" / "compact-int8.tflite").exists()


def test_weights_or_random_images_are_asked_for(cifar, capsys):
    with pytest.raises(SystemExit):
        cifar.parse([])
    assert "--random-images 256" in capsys.readouterr().err
