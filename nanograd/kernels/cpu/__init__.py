"""Numba twins for NumPy arrays in float32."""

import tempfile
from pathlib import Path
from typing import Any

import numba

from nanograd import backend
from nanograd.kernels import cache_folder


def _folder_for_compiled_code() -> Path:
    """The cache folder; where it can't be written, one that lasts as long as the system's temporary files do."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="nanograd-kernels-"))


numba_config: Any = numba.config  # its names are made at run time
if not numba_config.CACHE_DIR:  # else the user has chosen a folder, with NUMBA_CACHE_DIR
    numba_config.CACHE_DIR = str(_folder_for_compiled_code())

backend.let_threads_sleep()
