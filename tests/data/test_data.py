from __future__ import annotations

import sys

import numpy as np
import pytest
import tensorflow as tf
from shared_data import shared_data
from sklearn import datasets

from kprune.data import Splits
from kprune.data import batches
from kprune.data import flip_and_crop
from kprune.data import load_cifar10
from kprune.data import load_digits
from kprune.data import normalize_cifar10


def rows(images: np.ndarray) -> list[bytes]:
    return [image.tobytes() for image in images]


def test_digits_are_scikit_learns_images_each_in_one_split():
    data = load_digits()
    assert [len(x) for x, _ in data] == [1000, 297, 500]
    raw = datasets.load_digits()
    # The same image may occur twice, so pairs are counted, not looked up.
    together = sorted(
        (image, int(label))
        for x, y in data
        for image, label in zip(rows(x * 16), y, strict=True)
    )
    expected = raw.images.astype("float32")[..., None]
    assert together == sorted(
        zip(rows(expected), raw.target.tolist(), strict=True)
    )


def test_digits_have_the_documented_form():
    for x, y in load_digits():
        assert x.shape[1:] == (8, 8, 1) and x.dtype == np.float32
        assert x.min() == 0 and x.max() == 1
        assert y.dtype == np.int32
        shares = np.bincount(y, minlength=10) / len(y)
        assert shares == pytest.approx(np.full(10, 0.1), abs=0.01)


def test_digits_depend_on_the_seed_alone():
    once, again, other = load_digits(3), load_digits(3), load_digits(4)
    np.testing.assert_array_equal(once.test[0], again.test[0])
    assert not np.array_equal(once.test[0], other.test[0])


def test_digits_name_the_extra_when_scikit_learn_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r'pip install "kprune\[data\]"'):
        load_digits()


def test_splits_have_names():
    splits = Splits(("a", 1), ("b", 2), ("c", 3))
    assert (splits.train, splits.validation, splits.test) == tuple(splits)


def test_cifar10_names_the_extra_when_tfds_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r'pip install "kprune\[data\]"'):
        load_cifar10("test")


def test_cifar10_that_is_not_there_is_not_downloaded(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(FileNotFoundError, match="download=True"):
        load_cifar10("test", data_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cifar10_slices_are_slices_of_the_whole():
    cifar10_dir = shared_data("tfds")
    images, labels = load_cifar10("test", cifar10_dir)
    assert images.shape == (10000, 32, 32, 3) and images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [1000] * 10
    part, part_labels = load_cifar10("test[5000:5100]", cifar10_dir)
    np.testing.assert_array_equal(part, images[5000:5100])
    np.testing.assert_array_equal(part_labels, labels[5000:5100])


def test_cifar10_normalisation_is_that_of_the_pretrained_networks():
    images = (
        np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3)).astype("uint8")
    )
    mean = np.array([0.485, 0.456, 0.406])
    std = np.array([0.229, 0.224, 0.225])
    expected = (images / 255.0 - mean) / std
    for result in (
        normalize_cifar10(images),
        normalize_cifar10(tf.constant(images)),
    ):
        assert result.dtype == "float32"
        np.testing.assert_allclose(result, expected, atol=1e-6)


def test_batches_keep_order_and_remainder():
    x, y = np.arange(10.0), np.arange(10)
    parts = list(batches(x, y, 4).as_numpy_iterator())
    assert [len(a) for a, _ in parts] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([a for a, _ in parts]), x)
    np.testing.assert_array_equal(np.concatenate([b for _, b in parts]), y)


def test_batches_shuffle_anew_every_epoch_and_alike_for_a_seed():
    x = np.arange(50)

    def epochs(seed):
        dataset = batches(x, -x, 8, shuffle=True, seed=seed)
        return [
            [np.concatenate(parts) for parts in zip(*dataset, strict=True)]
            for _ in range(2)
        ]

    first, second = epochs(1)
    for inputs, targets in (first, second):
        np.testing.assert_array_equal(inputs, -targets)
        assert sorted(inputs) == list(x)
    assert not np.array_equal(first[0], second[0])
    np.testing.assert_array_equal(epochs(1)[1][0], second[0])
    assert not np.array_equal(epochs(2)[0][0], first[0])


def test_batches_switch_autotune_off():
    options = batches(np.zeros(4), np.zeros(4)).options()
    assert options.autotune.enabled is False


def test_batches_want_a_target_per_input():
    with pytest.raises(ValueError, match=r"3 examples and y 2"):
        batches(np.zeros(3), np.zeros(2))


def test_preprocessing_follows_augmentation():
    x = np.full((3, 2), 7.0, "float32")
    dataset = batches(
        x, x, augment=lambda x, seed: x + 1, preprocess=lambda x: x * 10
    )
    ((inputs, targets),) = dataset.as_numpy_iterator()
    assert (inputs == 80).all() and (targets == 7).all()


def shifted(
    image: np.ndarray, down: int, right: int, padding: int
) -> np.ndarray:
    height, width, _ = image.shape
    wide = np.pad(image, [(padding, padding), (padding, padding), (0, 0)])
    return wide[down : down + height, right : right + width]


def test_flip_and_crop_gives_shifted_and_mirrored_images():
    images = (
        np.random.default_rng(0)
        .integers(1, 256, (200, 6, 5, 3))
        .astype("uint8")
    )
    results = flip_and_crop(images, np.array([1, 2]), padding=1).numpy()
    assert results.dtype == np.uint8
    seen = set()
    for image, result in zip(images, results, strict=True):
        matches = [
            (down, right, flip)
            for down in range(3)
            for right in range(3)
            for flip in (False, True)
            if np.array_equal(
                shifted(image, down, right, 1)[:, :: -1 if flip else 1], result
            )
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) == 18


def test_augmentation_differs_between_epochs_and_repeats_with_the_seed():
    x = np.random.default_rng(0).random((16, 8, 8, 1)).astype("float32")
    y = np.arange(16)

    def two_epochs():
        dataset = batches(x, y, 16, seed=5, augment=flip_and_crop)
        return [next(iter(dataset))[0].numpy() for _ in range(2)]

    first, second = two_epochs()
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(two_epochs()[1], second)
