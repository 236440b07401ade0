"""Files and folders appear whole or not at all."""

from __future__ import annotations

import errno
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from kprune.outputs import Folder
from kprune.outputs import atomic_file
from kprune.outputs import atomic_folder
from kprune.outputs import check_file

MARKED = Folder("mark", ("mark", "parts/*"))


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
    (path / "parts").mkdir()
    (path / "parts" / "old").write_text("x")
    with atomic_folder(path, MARKED) as temporary:
        fill(temporary, "new")
        assert (path / "mark").read_text() == "old"
    assert os.listdir(path) == ["mark"] and (path / "mark").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_failure_keeps_the_old_folder(tmp_path):
    path = tmp_path / "saved"
    fill(path, "old")
    with pytest.raises(RuntimeError), atomic_folder(path, MARKED) as temporary:
        fill(temporary, "half")
        raise RuntimeError
    assert (path / "mark").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_failing_rename_puts_the_old_folder_back(tmp_path):
    path = tmp_path / "saved"
    fill(path, "old")
    with pytest.raises(OSError), atomic_folder(path, MARKED):
        pass  # The block wrote nothing, so there is nothing to rename.
    assert (path / "mark").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_of_another_kind_is_never_replaced(tmp_path):
    path = tmp_path / "photos"
    path.mkdir()
    (path / "me.jpg").write_text("x")
    with pytest.raises(FileExistsError, match="holds no 'mark'"):
        with atomic_folder(path, MARKED):
            pass
    assert (path / "me.jpg").exists()


def test_folder_over_a_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(FileExistsError, match="is a file"):
        with atomic_folder(path, MARKED):
            pass


def test_what_a_folder_holds_besides_stays(tmp_path):
    path = tmp_path / "saved"
    fill(path, "old")
    (path / "notes.txt").write_text("mine")
    (path / "parts" / "deep").mkdir(parents=True)
    (path / "plots" / "a").mkdir(parents=True)
    (path / "plots" / "a" / "b.txt").write_text("mine too")
    (path / "link").symlink_to("plots")
    before = (path / "notes.txt").stat().st_ino
    with atomic_folder(path, MARKED) as temporary:
        fill(temporary, "new")
    assert sorted(os.listdir(path)) == ["link", "mark", "notes.txt", "plots"]
    assert (path / "mark").read_text() == "new"
    assert (path / "notes.txt").stat().st_ino == before
    assert (path / "link" / "a" / "b.txt").read_text() == "mine too"
    assert list(tmp_path.iterdir()) == [path]


def test_links_are_followed(tmp_path):
    real, link = tmp_path / "far" / "real.txt", tmp_path / "link.txt"
    real.parent.mkdir()
    link.symlink_to(real)  # to a file that is not there yet
    for text in ("first", "second"):
        with atomic_file(link) as temporary:
            temporary.write_text(text)
        assert link.is_symlink() and real.read_text() == text
    folder = tmp_path / "folder"
    fill(tmp_path / "far" / "folder", "old")
    folder.symlink_to("far/folder")
    with atomic_folder(folder, MARKED) as temporary:
        fill(temporary, "new")
    assert folder.is_symlink() and (folder / "mark").read_text() == "new"


def test_permissions_are_kept(tmp_path):
    path, new = tmp_path / "a.txt", tmp_path / "b.txt"
    path.write_text("old")
    path.chmod(0o640)
    for file in (path, new):
        with atomic_file(file) as temporary:
            temporary.write_text("new")
    assert path.stat().st_mode & 0o777 == 0o640
    plain = tmp_path / "plain"
    plain.write_text("")
    assert new.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda p: p.symlink_to(os.devnull)]
)
def test_devices_and_pipes_are_refused(make, tmp_path):
    path = tmp_path / "special.keras"
    make(path)
    with pytest.raises(OSError, match="is a device, a pipe or a socket"):
        check_file(path)


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("x" * 248 + ".keras")
    with atomic_file(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'.*nowhere' does not exist"):
        check_file(tmp_path / "nowhere" / "a.keras")


def test_full_disk_is_said_of_the_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(
        OSError, match=r"Cannot write '.*a\.txt': No space"
    ) as got:
        with atomic_file(path), open("/dev/full", "w") as full:
            full.write("new")
    assert got.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match=r"Cannot write '.*a\.txt': No space"):
        with atomic_file(path):
            # As HDF5 and TensorFlow put it.
            raise RuntimeError("error message = 'No space left on device'")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_errors_about_other_files_are_left_alone(tmp_path):
    with pytest.raises(FileNotFoundError) as got:
        with atomic_file(tmp_path / "a.txt"):
            pathlib.Path("other.txt").read_text()
    assert got.value.filename == "other.txt"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_when_the_process_is_asked_to_end(number, tmp_path):
    code = f"""
import os, time
from kprune.outputs import atomic_file
with atomic_file({str(tmp_path / "a.txt")!r}) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE
    ) as p:
        p.stdout.readline()
        assert len(list(tmp_path.iterdir())) == 1
        p.send_signal(number)
        assert p.wait(10) == 128 + number
    assert not list(tmp_path.iterdir())
