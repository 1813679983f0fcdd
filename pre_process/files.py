"""Writing files so that a crash, a full disk or a second writer never leaves half of one."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Inside the block, an OSError that doesn't say which file it met (a full disk, a quota) is told `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or isinstance(error, BrokenPipeError):
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


@contextlib.contextmanager
def hidden_name_as(path: Path) -> Iterator[None]:
    """Inside the block, an OSError about a hidden file, whose name nobody chose, speaks of `path` instead."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step: temporary file, fsync, rename. Raises OSError; the old file survives."""
    with open_atomic(path) as file:
        file.write(content)


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file that becomes `path` in one step at the end, and vanishes on failure; as `write_atomic`."""
    path = Path(path)
    check_replaceable(path)
    with hidden_name_as(path):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with naming_file(path), os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        open_to_readers(Path(temporary))  # mkstemp makes files that only their owner may read
        with hidden_name_as(path):
            Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def check_replaceable(path: Path) -> None:
    """Raise OSError for a device or a pipe: for root, a rename would put a file in the place of /dev/null."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "not an ordinary file, so it isn't replaced by one", str(path))


@contextlib.contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `path` that becomes `path` on success and vanishes on failure.

    A folder that already stands at `path` is kept and the new one dropped: whoever renamed first wins. With `replace`
    it makes room instead. No system swaps two folders in one step: after a crash between the two renames the old one
    is still there under its `replaced_name`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        with naming_file(path):
            yield temporary
        temporary.chmod(0o777 & ~_umask())
        sync_tree(temporary)
        if replace and path.is_dir():
            shutil.rmtree(replaced_name(path), ignore_errors=True)
            path.rename(replaced_name(path))
        _rename_unless_there(temporary, path)
        sync_folder(path.parent)
        if replace:
            shutil.rmtree(replaced_name(path), ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replaced_name(path: Path) -> Path:
    """Where `new_folder` keeps what stood at `path` until the new one has taken its place."""
    return path.with_name(f".{path.name}.replaced")


def _rename_unless_there(temporary: Path, path: Path) -> None:
    try:
        temporary.rename(path)
    except OSError:
        if not path.is_dir():
            raise


def sync_tree(folder: Path) -> None:
    """Wait until all that is in a folder has reached the disk, and the names in it."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            sync_file(path)
    sync_folder(folder)


def delete_cut_pickles(folder: Path, pattern: str) -> None:
    """Delete pickles that were cut short by a power loss: a whole one ends with a full stop. Others are left alone.

    Numba keeps compiled code so (*.nbi, *.nbc), and what it can't read ends every later start.
    """
    for path in folder.rglob(pattern):
        with contextlib.suppress(OSError):
            if not path.read_bytes().endswith(b"."):
                path.unlink()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; reads 1 MiB at a time."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_to_readers(file: Path) -> None:
    """Give a file the permissions of one that open() makes."""
    file.chmod(0o666 & ~_umask())


def _umask() -> int:
    """On Linux the system tells; elsewhere it can only be read by setting it, for all threads that make files."""
    with contextlib.suppress(OSError):
        if found := re.search(rb"^Umask:\s*([0-7]+)", Path("/proc/self/status").read_bytes(), re.MULTILINE):
            return int(found[1], 8)
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_file(path: Path) -> None:
    """Wait until what was written to a file, by whomever, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder have reached the disk: a rename is not safe before."""
    if os.name == "posix":  # Windows has no handle on a folder to sync
        sync_file(path)
