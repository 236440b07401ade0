"""Samples in files."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest

from kprune.data.files import load_arrays


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def zipped(name, content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def npy(header):
    start = b"\x93NUMPY\x01\x00"
    return start + len(header).to_bytes(2, "little") + header.encode()


def test_inputs_and_targets(tmp_path):
    x, y = np.arange(6.0).reshape(3, 2), np.arange(3)
    np.savez(tmp_path / "a.npz", x=x, y=y, other=y)
    np.savez(tmp_path / "b.npz", x=x)
    np.save(tmp_path / "c.npy", x)
    for file, targets in (("a.npz", y), ("b.npz", None), ("c.npy", None)):
        found = load_arrays(tmp_path / file)
        np.testing.assert_array_equal(found[0], x)
        np.testing.assert_array_equal(found[1], targets)


GOOD = npz(x=np.zeros((4, 3)), y=np.zeros(4))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        b"PK\x03\x04 not a zip",
        GOOD[:-30],
        GOOD[:40] + b"\xff" * 40 + GOOD[80:],
        npz(x=np.array([{"a": 1}], dtype=object)),
        pickle.dumps({"x": 1}),
        zipped("x.npy", b"no array"),
        zipped("x.npy", b""),
        zipped("x", b"bytes"),
        npy(
            "{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999,)}\n"
        ),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}\n"),
        npy("{'descr': '<q9', 'fortran_order': False, 'shape': (3,)}\n"),
        npy("{'descr': (((((\n"),
    ],
)
def test_anything_else_is_refused_by_name(content, tmp_path):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"bad\.npz' is not a NumPy file"
    ) as error:
        load_arrays(path)
    assert "\n" not in str(error.value)


def test_missing_arrays_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros(3))
    with pytest.raises(
        ValueError, match=r"a\.npz' holds the arrays \['images'\]"
    ):
        load_arrays(tmp_path / "a.npz")
