"""Numba twins for NumPy arrays in float32."""

from typing import Any

import numba

from nanograd import backend
from nanograd.kernels.compilation import code_folder
from pre_process.files import delete_cut_pickles

numba_config: Any = numba.config  # its names are made at run time
delete_cut_pickles(code_folder(), "*.nb[ci]")
numba_config.CACHE_DIR = str(code_folder())
backend.let_threads_sleep()
