"""The memory of the stand-in's new arrays: where CuPy's pool would put it, full of NaN, and with a fence around it."""

import weakref
from typing import Any

import numpy as np

PAGE = 512  # bytes: the pool's addresses are its multiples; and the width of a fence
NOBODY = 255  # the byte that nobody has written: 16 or 32 of such bits are a NaN, and −1 as an integer

_ours: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()  # by id: arrays have no hash


def allocate(like: np.ndarray) -> np.ndarray:
    """New memory for an array of this shape and dtype, its axes in the same order in memory."""
    memory = np.full(like.nbytes + 3 * PAGE, NOBODY, np.uint8)
    _ours[id(memory)] = memory
    start = _start(memory)
    axes = sorted(range(like.ndim), key=lambda i: -like.strides[i])
    dense = memory[start : start + like.nbytes].view(like.dtype).reshape([like.shape[i] for i in axes])
    return dense.transpose(np.argsort(axes)) if axes else dense


def check_fences(arrays: list[np.ndarray]) -> None:
    """Raise MemoryError if somebody has written beside the memory of one of these arrays."""
    for x in arrays:
        memory: Any = x if x.base is None else x.base
        if id(memory) in _ours:
            start, size = _start(memory), memory.size - 3 * PAGE
            if (memory[:start] != NOBODY).any() or (memory[start + size :] != NOBODY).any():
                raise MemoryError(f"something was written beside an array of {size} bytes")


def _start(memory: np.ndarray) -> int:
    return int(PAGE + -memory.ctypes.data % PAGE)
