"""kprune.load: what it opens, what it refuses, and how it says so."""

from __future__ import annotations

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers
from shared_data import shared_data

import kprune

SUFFIXES = (".keras", ".h5")


@keras.saving.register_keras_serializable("tests")
class OwnLoss(keras.losses.MeanSquaredError):
    pass


def small():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3),
            layers.Conv2D(8, 3),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


@pytest.fixture
def trained():
    keras.utils.set_random_seed(0)
    model = small()
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    for number, variable in enumerate(model.optimizer.variables):
        variable.assign(variable + number)
    return model


def samples():
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 8, 8, 1)).astype("float32")


def assert_same(one, other):
    x = samples()
    np.testing.assert_array_equal(one(x), other(x))
    assert one.loss == other.loss == "mse"
    pairs = zip(one.optimizer.variables, other.optimizer.variables, strict=True)
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)
    assert len(other.optimizer.variables) > 2


@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        (".keras", "m.keras"),
        (".keras", "m.h5"),
        (".h5", "m.hdf5"),
        (".h5", "m.keras"),
        (".h5", "m"),
    ],
)
def test_content_counts_and_not_the_name(suffix, name, trained, tmp_path):
    trained.save(tmp_path / f"saved{suffix}")
    path = (tmp_path / f"saved{suffix}").rename(tmp_path / name)
    assert_same(trained, kprune.load(path))
    assert not kprune.load(str(path), compile=False).compiled


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_masked_files(suffix, trained, tmp_path):
    masked = kprune.prune(trained, "l1", {"macs": 0.5})
    path = tmp_path / f"masked{suffix}"
    masked.save(path)
    compact = kprune.rebuild(kprune.load(path, compile=False))
    x = samples()
    np.testing.assert_allclose(compact(x), masked(x), atol=1e-5)
    assert compact.count_params() < trained.count_params()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_loss_that_is_unknown_leaves_the_network(suffix, tmp_path):
    model = small()
    model.compile("sgd", OwnLoss())
    path = tmp_path / f"m{suffix}"
    model.save(path)
    known = keras.saving.get_custom_objects()
    own = known.pop("tests>OwnLoss")
    try:
        with pytest.warns(UserWarning, match=r"OwnLoss.*Compile the model"):
            assert not kprune.load(path).compiled
        loaded = kprune.load(path, custom_objects={"tests>OwnLoss": own})
    finally:
        known["tests>OwnLoss"] = own
    assert type(loaded.loss) is OwnLoss


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_code_is_refused(suffix, tmp_path):
    path = tmp_path / f"m{suffix}"
    keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: 2 * x)]).save(
        path
    )
    with pytest.raises(ValueError, match=r"Python code.*safe_mode=False"):
        kprune.load(path)
    loaded = kprune.load(path, safe_mode=False)
    np.testing.assert_array_equal(loaded(np.ones((1, 4))), 2 * np.ones((1, 4)))


def edit(path, change, version=keras.__version__):
    """Change the configuration in a `.keras` or HDF5 file."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            change(config["config"]["layers"])
            file.attrs["model_config"] = json.dumps(config).encode()
            file.attrs["keras_version"] = version.encode()
        return
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(content["config.json"])
    change(config["config"]["layers"])
    content["config.json"] = json.dumps(config).encode()
    content["metadata.json"] = json.dumps({"keras_version": version}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("old", [False, True], ids=["keras3", "keras2"])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "entry",
    [
        {
            "module": "os",
            "class_name": "function",
            "config": "system",
            "registered_name": "system",
        },
        {
            "module": "trap",
            "class_name": "Trap",
            "config": {"name": "x"},
            "registered_name": "Trap",
        },
    ],
    ids=["function", "module"],
)
def test_no_module_is_imported_for_a_file(
    entry, suffix, old, tmp_path, monkeypatch
):
    (tmp_path / "trap.py").write_text("raise SystemExit('code ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / f"m{suffix}"
    small().save(path)

    def change(found):
        if entry["class_name"] == "Trap":
            found[1].update(entry)
        else:
            found[1]["config"]["activation"] = entry

    edit(path, change, "2.15.0" if old else keras.__version__)
    with pytest.raises(ValueError, match=r"m\.(h5|keras)"):
        kprune.load(path)


def other_files(folder):
    """Write files that are no models, and yield what the message says."""

    def write(name, content):
        (folder / name).write_bytes(content)
        return folder / name

    yield write("m.tflite", b"\x1c\0\0\0TFL3" + bytes(50)), "TFLite"
    yield write("m.onnx", b"\x08\x07" + bytes(50)), "ONNX"
    yield write("m.json", b'{"class_name": "Sequential"}'), "no weights"
    yield write("empty.keras", b""), "empty"
    yield write("noise.h5", bytes(range(100))), "not a Keras model file"
    np.savez(folder / "x.npz", x=np.zeros(3))
    yield folder / "x.npz", "NumPy archive"
    small().save_weights(folder / "m.weights.h5")
    yield folder / "m.weights.h5", "weights but no model"
    (folder / "plain").mkdir()
    yield folder / "plain", "is a folder"
    for name, what in (
        ("exported", "holds a TensorFlow graph"),
        ("old", "tf_keras"),
    ):
        (folder / name).mkdir()
        (folder / name / "saved_model.pb").write_bytes(b"")
        if name == "old":
            (folder / name / "keras_metadata.pb").write_bytes(b"")
        yield folder / name, what


def test_other_files_are_told_apart(tmp_path):
    for path, what in other_files(tmp_path):
        with pytest.raises(ValueError, match=what) as caught:
            kprune.load(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        kprune.load(tmp_path / "missing.keras")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files_give_one_line(suffix, trained, tmp_path):
    path = tmp_path / f"m{suffix}"
    trained.save(path)
    content = path.read_bytes()
    for share in (0.01, 0.3, 0.6, 0.95):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ValueError, match=f"m{suffix}") as caught:
            kprune.load(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_a_later_keras_says_so(suffix, tmp_path):
    path = tmp_path / f"m{suffix}"
    small().save(path)

    def change(found):
        found[1]["config"]["invented_later"] = 1

    edit(path, change, "99.1.0")
    with pytest.raises(ValueError, match=r"invented_later.*99\.1\.0.*update"):
        kprune.load(path)


def test_a_file_that_names_no_version(trained, tmp_path):
    path = tmp_path / "m.keras"
    trained.save(path)
    edit(path, lambda found: None, version=None)
    assert_same(trained, kprune.load(path))


def test_an_unzipped_file(trained, tmp_path):
    trained.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        archive.extractall(tmp_path / "folder")
    assert_same(trained, kprune.load(tmp_path / "folder"))


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore:.*not restored:UserWarning")
@pytest.mark.parametrize("name", ["ad", "ic_resnet8", "sww", "vww"])
def test_published_models_of_keras_2(name, tmp_path):
    model = kprune.load(shared_data("models", f"mlperf_tiny_{name}.h5"))
    pruned = kprune.prune(model, "l1", {"macs": 0.5})
    compact = kprune.rebuild(pruned)
    before, after = kprune.cost(model).macs, kprune.cost(compact).macs
    assert after <= before / 2
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, *model.input_shape[1:])).astype("float32")
    report = kprune.export(
        compact, tmp_path / "m.tflite", "int8", calibration=x
    )
    assert (tmp_path / "m.tflite").stat().st_size < 400_000, report
