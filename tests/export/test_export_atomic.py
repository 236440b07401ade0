"""Files and folders appear whole or not at all."""

from __future__ import annotations

import os

import pytest

from kprune.export.atomic import atomic_file
from kprune.export.atomic import atomic_folder


def test_file_appears_at_the_end_only(tmp_path):
    path = tmp_path / "a.keras"
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".keras" and temporary.parent == tmp_path
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.keras"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_file_over_a_folder_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError), atomic_file(tmp_path):
        pass


def fill(folder, text):
    folder.mkdir()
    (folder / "mark").write_text(text)


def test_folder_replaces_one_of_its_kind(tmp_path):
    path = tmp_path / "saved"
    fill(path, "old")
    (path / "extra").write_text("x")
    with atomic_folder(path, "mark") as temporary:
        fill(temporary, "new")
        assert (path / "mark").read_text() == "old"
    assert os.listdir(path) == ["mark"] and (path / "mark").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_failure_keeps_the_old_folder(tmp_path):
    path = tmp_path / "saved"
    fill(path, "old")
    with pytest.raises(RuntimeError), atomic_folder(path, "mark") as temporary:
        fill(temporary, "half")
        raise RuntimeError
    assert (path / "mark").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_failing_rename_puts_the_old_folder_back(tmp_path):
    path = tmp_path / "saved"
    fill(path, "old")
    with pytest.raises(OSError), atomic_folder(path, "mark"):
        pass  # The block wrote nothing, so there is nothing to rename.
    assert (path / "mark").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_of_another_kind_is_never_replaced(tmp_path):
    path = tmp_path / "photos"
    path.mkdir()
    (path / "me.jpg").write_text("x")
    with pytest.raises(FileExistsError, match="holds no 'mark'"):
        with atomic_folder(path, "mark"):
            pass
    assert (path / "me.jpg").exists()


def test_folder_over_a_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(FileExistsError, match="is a file"):
        with atomic_folder(path, "mark"):
            pass
