"""Atomic writing: what stands at the end is the whole new thing or the whole old one, and nothing beside it."""

import hashlib
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from pre_process import files
from pre_process.files import delete_cut_pickles, new_folder, sha256_file, write_atomic


def test_write_atomic_creates_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for content in (b"first", b"", b"\0" * 100_000):
        write_atomic(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("told", [True, False])
def test_write_atomic_gives_the_rights_an_ordinary_file_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Whether the system tells which those are, or they have to be tried."""
    if not told:
        monkeypatch.setattr(files, "re", SimpleNamespace(search=lambda *_: None, MULTILINE=0))
    before = os.umask(0o027)
    try:
        (tmp_path / "ordinary").write_bytes(b"")
        write_atomic(tmp_path / "atomic", b"")
    finally:
        assert os.umask(before) == 0o027, "left as it was"
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_failing_in_the_middle_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError):
        write_atomic(tmp_path / "file" / "below", b"")
    with pytest.raises(OSError), new_folder(tmp_path / "file" / "below"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_a_device_or_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match="not an ordinary file") as raised:
            write_atomic(tmp_path / name, b"x")
        assert raised.value.filename == str(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "nowhere" / "file"):
        with pytest.raises(OSError) as raised:
            write_atomic(path, b"")
        assert raised.value.filename == str(path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_new_folder_is_invisible_until_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    with new_folder(target) as new:
        (new / "a").write_bytes(b"1")
        assert not target.exists()
    assert (target / "a").read_bytes() == b"1"
    (tmp_path / "ordinary").mkdir()
    assert target.stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    assert [path.name for path in target.parent.iterdir()] == ["folder"]


def test_new_folder_vanishes_after_a_failure(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "folder") as new:
            (new / "a").write_bytes(b"1")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_who_renames_first_wins(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with new_folder(target) as slow:
        (slow / "who").write_text("slow")
        with new_folder(target) as quick:
            (quick / "who").write_text("quick")
    assert (target / "who").read_text() == "quick"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_sha256_file(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(content)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_pickles_that_were_cut_short_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    whole = pickle.dumps({"a": list(range(100))})
    for name, content in {"whole.nbi": whole, "cut.nbc": whole[:-7], "below/empty.nbi": b"", "other.txt": b"x"}.items():
        (tmp_path / name).write_bytes(content)
    delete_cut_pickles(tmp_path, "*.nb[ci]")
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["other.txt", "whole.nbi"]
