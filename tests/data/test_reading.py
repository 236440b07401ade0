"""Samples as people have them: folders, tables, arrays and prepared data sets."""

from __future__ import annotations

import json
import shutil

import colours
import keras
import numpy as np
import pytest
from PIL import Image
from shared_data import shared_data

from kprune.commands.samples import find_data
from kprune.data import load_cifar10
from kprune.data import pixels
from kprune.data.inputs import Input
from kprune.data.places import find_place
from kprune.data.reading import read_samples

IMAGE = [Input("image", (8, 8, 3), "float32")]


def read(given, inputs, **options):
    return read_samples(find_place(given), inputs, **options)


# -- folders -----------------------------------------------------------------


def test_a_folder_of_class_folders(tmp_path):
    x, labels = colours.images(10)
    folder = colours.write_folder(tmp_path / "photos", x, labels)
    found = read(folder, IMAGE)
    order = np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(found.x, x[order])
    np.testing.assert_array_equal(found.y, labels[order])
    assert found.classes == ("blue", "red") and found.pixels
    # Where the model takes any size, images are scaled to the one asked for.
    any_size = [Input("image", (None, None, 1), "float32")]
    assert read(folder, any_size, image_size=(4, 6)).x.shape == (10, 4, 6, 1)
    with pytest.raises(ValueError, match="--image-size"):
        read(folder, any_size)
    with pytest.raises(ValueError, match="images, which this model does not"):
        read(folder, [Input("row", (4,), "float32")])


def test_parts_of_a_folder_and_images_without_labels(tmp_path):
    x, labels = colours.images(6)
    colours.write_folder(tmp_path / "train", x[:4], labels[:4])
    colours.write_folder(tmp_path / "val", x[4:], labels[4:])
    assert find_place(tmp_path).has_validation
    assert read(tmp_path, IMAGE).size == 4
    assert read(tmp_path, IMAGE, part="validation").size == 2
    flat = read(tmp_path / "train" / "red", IMAGE)
    assert flat.y is None and flat.size == 2
    assert find_place(tmp_path / "train" / "red").unlabelled


def test_classes_of_the_training_part_hold_in_the_other(tmp_path):
    x, _ = colours.images(6)
    three = ("green", "red", "white")
    colours.write_folder(tmp_path / "train", x[:3], [0, 1, 2], three)
    for present in ([2, 1, 2], [2, 2, 2]):
        val = tmp_path / "val"
        colours.write_folder(val, x[3:], present, three)
        found = read(tmp_path, IMAGE, part="validation")
        assert list(found.y) == sorted(present) and found.classes == three
        shutil.rmtree(val)
    colours.write_folder(tmp_path / "val", x[3:], [0, 1, 1])
    with pytest.raises(ValueError, match=r"has 'blue', but .* 'green', 'red'"):
        read(tmp_path, IMAGE, part="validation")


def two_places(train, validation):
    """Read the latter as `--data train --validation validation` does."""
    data = find_data(train, validation)
    model = colours.model()
    if train.suffix == ".csv":
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    return data.checked(model, data.samples(model))


def test_classes_of_data_hold_in_another_folder(tmp_path):
    x, _ = colours.images(6)
    three = ("green", "red", "white")
    train = colours.write_folder(tmp_path / "a", x[:3], [0, 1, 2], three)
    for name, present in (("b", [2, 1, 2]), ("c", [2, 2, 2])):
        val = colours.write_folder(tmp_path / name, x[3:], present, three)
        found = two_places(train, val)
        assert list(found.y) == sorted(present) and found.classes == three
    other = colours.write_folder(tmp_path / "d", x[3:], [0, 1, 1])
    with pytest.raises(ValueError, match=r"d' has 'blue', .* Rename"):
        two_places(train, other)


def test_a_class_can_be_called_train(tmp_path):
    x, labels = colours.images(6)
    classes = ("bus", "train")
    folder = colours.write_folder(tmp_path / "photos", x, labels, classes)
    found = read(folder, IMAGE)
    assert found.classes == classes and found.size == 6
    assert not find_place(folder).unlabelled
    # Below a part of that name, too.
    folder = colours.write_folder(tmp_path / "parts/train", x, labels, classes)
    assert read(folder.parent, IMAGE).classes == classes


def test_a_single_folder_is_no_class(tmp_path):
    folder = colours.write_folder(tmp_path / "album", *colours.images(4))
    (folder / "blue").rename(folder / "2023")
    for one in (folder / "red").iterdir():
        one.rename(folder / one.name)
    (folder / "red").rmdir()
    found = read(folder, IMAGE)
    assert found.size == 4 and found.y is None and found.classes is None
    assert find_place(folder).unlabelled
    assert "one folder, '2023', so that" in found.notes[0]
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "2023").symlink_to(folder / "2023", target_is_directory=True)
    assert read(linked, IMAGE).size == 2


def test_images_beside_class_folders_are_left_out_with_a_note(tmp_path):
    x, labels = colours.images(4)
    folder = colours.write_folder(tmp_path / "photos", x, labels)
    assert read(folder, IMAGE).notes == ()
    colours.write_folder(tmp_path, x[:1], labels[:1], classes=("photos",))
    found = read(folder, IMAGE)
    assert found.size == 4 and found.notes[0].startswith("1 of the images ")


def test_class_folders_may_be_links(tmp_path):
    folder = colours.write_folder(tmp_path / "photos", *colours.images(4))
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("blue", "red"):
        (linked / name).symlink_to(folder / name, target_is_directory=True)
    one, other = read(folder, IMAGE), read(linked, IMAGE)
    np.testing.assert_array_equal(one.x, other.x)
    np.testing.assert_array_equal(one.y, other.y)


def test_a_file_that_is_no_image_is_named(tmp_path):
    folder = colours.write_folder(tmp_path / "photos", *colours.images(4))
    (folder / "red" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"red/broken\.png' is not an image"):
        read(folder, IMAGE)
    # TensorFlow does not turn a bitmap in colour into a grey image.
    (folder / "red" / "broken.png").unlink()
    bitmap = folder / "red" / "colour.bmp"
    Image.fromarray(colours.images(1)[0][0]).save(bitmap)
    assert read(folder, IMAGE).size == 5
    with pytest.raises(ValueError, match=r"red/colour\.bmp' .* as grayscale"):
        read(folder, [Input("image", (8, 8, 1), "float32")])


# -- arrays ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "part", "expected"),
    [
        (("x", "y"), "train", (0, 1)),
        (("x", "y"), "validation", (0, 1)),
        (("x_train", "y_train", "x_test", "y_test"), "train", (0, 1)),
        (("x_train", "y_train", "x_test", "y_test"), "validation", (2, 3)),
        (("x", "y", "x_test", "y_test"), "train", (0, 1)),
        (("x", "y", "x_test", "y_test"), "validation", (2, 3)),
        (("x", "y", "x_val", "y_val"), "train", (0, 1)),
        (("x_test", "y_test"), "train", (0, 1)),
        (("x_test", "y_test"), "validation", (0, 1)),
        (("images", "labels"), "train", (0, 1)),
        (("image", "whatever"), "train", (0, 1)),
        (("pictures", "names", "label"), "train", (0, 2)),
        (("pictures",), "train", (0, None)),
    ],
)
def test_arrays_that_fit(tmp_path, names, part, expected):
    x, labels = colours.images(4)
    arrays = [x, labels, x[:2], labels[:2]]
    if names[0] == "pictures":
        arrays = [x, labels + 5, labels]
    np.savez(tmp_path / "d.npz", **dict(zip(names, arrays, strict=False)))
    found = read(tmp_path / "d.npz", IMAGE, part=part)
    one, other = expected
    np.testing.assert_array_equal(found.x, arrays[one])
    wanted = None if other is None else arrays[other]
    np.testing.assert_array_equal(found.y, wanted)
    both = len(names) == 4
    assert find_place(tmp_path / "d.npz").has_validation == both


@pytest.mark.parametrize("names", [("x", "y"), ("pictures", "label")])
def test_words_of_bytes_are_utf8(tmp_path, names):
    x, _ = colours.images(4)
    words = np.array(["été", "pluie", "été", "été"])
    data = tmp_path / "d.npz"
    np.savez(data, **{names[0]: x, names[1]: np.char.encode(words, "utf-8")})
    found = read(data, IMAGE)
    assert found.classes == ("pluie", "été")
    np.testing.assert_array_equal(found.y, [1, 0, 1, 1])
    np.savez(data, **{names[0]: x, names[1]: np.char.encode(words, "latin-1")})
    told = rf"array '{names[1]}' of '.*d\.npz' .* not UTF-8: b'\\xe9t\\xe9'"
    with pytest.raises(ValueError, match=told):
        read(data, IMAGE)


def test_a_table_in_another_encoding_is_named(tmp_path):
    table = tmp_path / "d.csv"
    table.write_bytes("1,2,été\n3,4,hiver\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"d.csv' is not a table in UTF-8"):
        read(table, [Input("row", (2,), "float32")])


def test_arrays_of_several_inputs_and_arrays_that_fit_twice(tmp_path):
    two = [Input("a", (3,), "float32"), Input("b", (2,), "float32")]
    np.savez(
        tmp_path / "d.npz", a=np.ones((4, 3)), b=np.ones((4, 2)), y=[1] * 4
    )
    found = read(tmp_path / "d.npz", two)
    assert sorted(found.x) == ["a", "b"] and found.size == 4
    np.testing.assert_array_equal(found.y, [1] * 4)
    np.savez(tmp_path / "d.npz", p=np.ones((4, 3)), q=np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"2 arrays that fit .*\['p', 'q'\]"):
        read(tmp_path / "d.npz", two[:1])


# -- tables ------------------------------------------------------------------

ROWS = [Input("row", (2,), "float32")]


@pytest.mark.parametrize(
    ("text", "x", "y", "classes"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]], None, None),
        ("1,2,0\n3,4,1\n", [[1, 2], [3, 4]], [0, 1], None),
        ("a,label,b\n1,0,2\n3,1,4\n", [[1, 2], [3, 4]], [0, 1], None),
        ("1,2,wet\n3,4,dry\n", [[1, 2], [3, 4]], [1, 0], ("dry", "wet")),
        ("a,b,price\n1,2,0.5\n3,4,1\n", [[1, 2], [3, 4]], [0.5, 1], None),
        ("0,1,price\n1,2,0.5\n3,4,1\n", [[1, 2], [3, 4]], [0.5, 1], None),
        ("0,1,label\n1,2,wet\n3,4,dry\n", [[1, 2], [3, 4]], [1, 0], ("dry", "wet")),
        ("1,2,y\n3,4,n\n5,6,y\n", [[1, 2], [3, 4], [5, 6]], [1, 0, 1], ("n", "y")),
        ("5,1,a\n4,9,b\n3,4,0\n", [[5, 1], [4, 9], [3, 4]], [1, 2, 0], ("0", "a", "b")),
        ("5,1,a\n4,9,0\n3,4,b\n", [[5, 1], [4, 9], [3, 4]], [1, 0, 2], ("0", "a", "b")),
        ("0,1,price\n1,2,0.5\n3,4,\n", [[1, 2], [3, 4]], [1, 0], ("", "0.5")),
        (",a,b\n0,1,2\n1,3,4\n", [[1, 2], [3, 4]], None, None),
        (",0,1,2\n0,1,2,8\n1,3,4,9\n", [[1, 2], [3, 4]], [8, 9], None),
        (",0,1,y\n9,1,2,p\n7,3,4,q\n", [[1, 2], [3, 4]], [0, 1], ("p", "q")),
        (",5,7,9\nu,1,2,0\nv,3,4,1\n", [[1, 2], [3, 4]], [0, 1], None),
        (",5,7\n0,1,2\n1,3,4\n", [[1, 2], [3, 4]], None, None),
        (",a,b\n9,1,2\n7,3,4\n", [[1, 2], [3, 4]], None, None),
        ("Unnamed: 0,a,b,y\nu,1,2,0\nv,3,4,1\n", [[1, 2], [3, 4]], [0, 1], None),
    ],
)  # fmt: skip
def test_tables(tmp_path, text, x, y, classes):
    (tmp_path / "t.csv").write_text(text)
    found = read(tmp_path / "t.csv", ROWS)
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_array_equal(found.y, y)
    assert found.classes == classes
    words = ["alphabetical order: " in note for note in found.notes]
    assert any(words) == (classes is not None)
    assert (not all(words)) == text.startswith((",", "Unnamed"))


def test_labels_that_are_words_are_numbered_with_a_note(tmp_path):
    x = np.ones((3, 2), "float32")
    words = np.array(["wet", "dry", "wet"])
    for y in (words, words.astype("S"), words[:, None]):
        np.savez(tmp_path / "d.npz", x=x, y=y, x_test=x[:1], y_test=y[:1])
        found = read(tmp_path / "d.npz", ROWS)
        np.testing.assert_array_equal(found.y, [1, 0, 1])
        assert found.classes == ("dry", "wet")
        (note,) = found.notes
        assert "words, numbered in alphabetical order: 0 'dry', 1 'wet'" in note
        known = read(
            *(tmp_path / "d.npz", ROWS), part="validation", known=found.classes
        )
        np.testing.assert_array_equal(known.y, [1])
        assert not known.notes
    np.savez(
        tmp_path / "d.npz", x=np.ones((12, 2)), y=np.array([*"abcdefghijkl"])
    )
    (note,) = read(tmp_path / "d.npz", ROWS).notes
    assert note.endswith("7 'h', ..., 11 'l'")


@pytest.mark.parametrize(
    ("train", "validation", "y"),
    [
        (("cat", "dog", "emu"), ("dog", "emu"), [1, 2]),
        (("cat", "dog", "emu"), ("emu",), [2]),
        (("0", "a", "b"), ("b", "a"), [2, 1]),
        (("1", "2", "b"), ("2", "1"), [1, 0]),
        (("cat", "dog", "emu"), ("2", "1"), [2, 1]),
    ],
)
def test_classes_of_data_hold_in_another_table(tmp_path, train, validation, y):
    paths = [tmp_path / "train.csv", tmp_path / "val.csv"]
    for path, labels in zip(paths, (train, validation), strict=True):
        rows = "".join(f"1,2,{label}\n" for label in labels)
        path.write_text("a,b,label\n" + rows)
    found = two_places(*paths)
    np.testing.assert_array_equal(found.y, y)
    paths[1].write_text("a,b,label\n1,2,owl\n")
    with pytest.raises(ValueError, match=r"val\.csv' has 'owl', but "):
        two_places(*paths)


def test_a_first_row_taken_for_names_on_one_word_is_noted(tmp_path):
    (tmp_path / "t.csv").write_text("5,1,a\n4,9,0\n3,4,1\n")
    (note,) = read(tmp_path / "t.csv", ROWS).notes
    assert "all cells below 'a' are numbers" in note
    for text in ("0,1,price\n1,2,0.5\n", "5,1,label\n1,2,0\n", "a,b\n1,2\n"):
        (tmp_path / "t.csv").write_text(text)
        assert not read(tmp_path / "t.csv", ROWS).notes


def test_a_table_of_one_column_can_have_a_header(tmp_path):
    row = [Input("row", (1,), "float32")]
    for text in ("temp\n20.5\n21\n", "20.5\n21\n", ",0\n0,20.5\n1,21\n"):
        (tmp_path / "t.csv").write_text(text)
        found = read(tmp_path / "t.csv", row)
        np.testing.assert_array_equal(found.x, [[20.5], [21]])


def test_a_column_without_a_name_is_left_out_with_a_note(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(",a,b\n0,1,2\n1,3,4\n")
    found = find_data(tmp_path / "t.csv")
    found.read(found.train, "train", ROWS, np.asarray)
    assert "t.csv' has no name: it is an index" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,2\n3\n", "Row 2 .* has 1 column instead of 2"),
        ("1;2\n3;4\n", "has 1 column .*separated by semicolons"),
        ("a\tb\n3\t4\n", "has 1 column .*separated by tabs"),
        ("1,?\n3,4\n", "Row 1 .* holds '\\?' where a number"),
        (",2,0\n3,4,1\n5,6,0\n", "Row 1 .* holds '' where a number"),
        (",2,wet\n3,4,dry\n5,6,wet\n", "Row 1 .* holds '' where a number"),
        (",2\n3,4\n,6\n", "Row 1 .* holds '' where a number"),
        ("1,2\nx,4\n", "Row 2 .* holds 'x' where a number"),
        ("1,2,3,4\n", "has 4 columns; the model takes 2"),
        (
            ",b,label\n0,2,1\n",
            "has 2 columns beside its index; the model takes 2",
        ),
        ("", "is empty"),
        ("a,b,label\n", "is empty"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        read(tmp_path / "t.csv", ROWS)


def test_a_row_fills_an_image(tmp_path):
    (tmp_path / "t.csv").write_text("label,a,b,c,d\n7,1,2,3,4\n")
    found = read(tmp_path / "t.csv", [Input("image", (2, 2, 1), "float32")])
    np.testing.assert_array_equal(found.x[0, ..., 0], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(found.y, [7])


# -- data sets ---------------------------------------------------------------


@pytest.mark.slow
def test_a_prepared_data_set():
    folder = shared_data("tfds")
    inputs = [Input("image", (32, 32, 3), "float32")]
    place = find_place("cifar10:test[:12]", folder)
    assert place.split == "test[:12]" and not place.has_validation
    found = read_samples(place, inputs)
    x, y = load_cifar10("test[:12]", folder)
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_array_equal(found.y, y)
    assert found.classes[3] == "cat" and found.pixels
    assert find_place("cifar10", folder).parts == {
        "train": "train",
        "validation": "test",
    }


@pytest.mark.parametrize(
    ("splits", "apart"),
    [(["test"], False), (["train"], False), (["test", "train"], True)],
)
def test_validation_samples_are_apart_from_those_to_train_on(
    tmp_path, splits, apart
):
    place = tmp_path / "flowers" / "1.0.0"
    place.mkdir(parents=True)
    info = {"splits": [{"name": name} for name in splits]}
    (place / "dataset_info.json").write_text(json.dumps(info))
    assert find_place("flowers", tmp_path).has_validation == apart


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("photo", "no data set of that name .*Did you mean 'photos'"),
        ("flower", "Did you mean 'flowers'"),
        ("data.npy", "no file 'data.npy'. Did you mean 'data.npz'"),
        ("flowers:tset", "no split 'tset'. Did you mean 'test'"),
        ("text.txt", "Cannot read data from 'text.txt'"),
        ("empty", "no images in 'empty'"),
    ],
)
def test_what_is_not_there_is_suggested(tmp_path, monkeypatch, given, said):
    monkeypatch.chdir(tmp_path)
    colours.write_folder(tmp_path / "photos", *colours.images(2))
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    np.savez("data.npz", x=np.ones(3))
    place = tmp_path / "sets" / "flowers" / "1.0.0"
    place.mkdir(parents=True)
    splits = {"splits": [{"name": "test"}, {"name": "train"}]}
    (place / "dataset_info.json").write_text(json.dumps(splits))
    with pytest.raises((FileNotFoundError, ValueError), match=said):
        find_place(given, tmp_path / "sets")


# -- pixels ------------------------------------------------------------------


def chosen(model, x, labels=None):
    def predict(x):
        return np.asarray(model(x, training=False))

    return pixels.choose_range(x, labels, predict, model)[0]


def test_the_range_of_pixels_is_what_the_model_says():
    x, labels = colours.images(24)
    assert chosen(colours.model(scale=255.0), x) == "unit"
    assert chosen(colours.model(scale=1.0), x) == "raw"
    assert chosen(colours.model(rescale=True), x) == "raw"
    # Statistics as built say nothing; how often the model is right does.
    model = colours.model()
    norm = model.get_layer("norm")
    mean, variance = norm.get_weights()[2:]
    scale = np.sqrt(variance)
    norm.set_weights([1 / scale, -mean / scale, 0 * mean, variance**0])
    assert chosen(model, x, labels) == "unit"


@pytest.mark.parametrize("mode", ["raw", "unit", "tf"])
def test_ranges_are_there_and_back(mode):
    x = colours.images(4)[0]
    there = pixels.scaled(x, mode)
    assert pixels.guess_range(there) == mode
    np.testing.assert_allclose(pixels.unscaled(there, mode), x, atol=1e-4)
