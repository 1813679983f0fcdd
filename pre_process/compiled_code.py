"""Where compiled code is kept: a folder for each package of kernels, under a name that changes with its sources.

Numba itself compares a kernel's own file only: a change in a file that the kernel calls would go unseen.
"""

import contextlib
import functools
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pre_process.files import delete_cut_pickles


def cache_folder(name: str, *packages: Path) -> Path:
    """The folder for the code of `name`, which is made from the sources in `packages`; it need not be there yet."""
    return _user_folder() / f"{name}-{_hash_of_sources(*packages)}"


@contextlib.contextmanager
def numba_cache_in(folder: Path) -> Iterator[None]:
    """Inside the block Numba keeps its code in `folder`: a global setting, read when a function is decorated."""
    import numba

    config: Any = numba.config  # its names are made at run time
    before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before


@functools.cache
def writable(folder: Path) -> Path:
    """`folder`, made and cleaned; where it can't be written, one that lasts as long as temporary files do."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            delete_cut_pickles(folder, "*.nb[ci]")
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))


@functools.cache
def _hash_of_sources(*packages: Path) -> str:
    sources = b"".join(path.read_bytes() for package in packages for path in sorted(package.glob("*.py")))
    return hashlib.sha256(sources).hexdigest()[:16]


def _user_folder() -> Path:
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("nanograd", appauthor=False))
