"""Floor 4. Whether an optimizer's formulas may be left to the compiled passes of nanograd/kernels."""

import importlib
from typing import Any

import numpy as np

from nanograd import backend
from nanograd.backend import Array

SMALLEST = 1 << 16  # parameters; for fewer, NumPy's passes are not worth loading a compiler for


def compiled(x: Array) -> Any | None:
    """The module of kernels for arrays like `x` (n,), or None: then the formulas run. Imported on first use."""
    suits = type(x) is np.ndarray and x.dtype == np.float32 and x.flags.c_contiguous and x.size >= SMALLEST
    if not (suits and backend.kernels_enabled()):
        return None
    from nanograd.kernels.cpu import optim

    return optim


def compiled_for_gpu(x: Array, name: str) -> Any | None:
    """The module nanograd.kernels.cuda.NAME for an array on a GPU, or None: then the formulas run."""
    xp = backend.array_module(x)
    if xp is np or not backend.kernels_enabled():
        return None
    from nanograd.kernels.cuda import launch

    return importlib.import_module(f"nanograd.kernels.cuda.{name}") if launch.has_twins(xp) else None
