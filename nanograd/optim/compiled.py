"""Floor 4. Whether an optimizer's formulas may be left to the compiled passes of nanograd/kernels."""

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
