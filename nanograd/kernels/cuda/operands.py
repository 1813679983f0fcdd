"""Floor 3. Arrays as the kernels want to see them."""

import math
from typing import Any

import numpy as np

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cuda.launch import aligned

PACK = 16  # bytes: the widest access of one thread


def ready(xp: ArrayModule, x: Array, dtype: Any) -> Array:
    """x in this type, in one piece and at an address that 16 divides: itself if it is so already."""
    if x.dtype != dtype:
        return x.astype(dtype, order="C")
    return x if aligned(x) else xp.array(x, order="C")


def width(x: Array, C: int) -> int:
    """How many numbers of an aligned x with rows of C numbers a thread takes at once: a pack of them, or one."""
    widest = PACK // x.dtype.itemsize
    return widest if C % widest == 0 else 1


def integers(xp: ArrayModule, x: Array) -> tuple[Array, int]:
    """Integers (N,) as kernels read them, by integer_at: bytes, and how many make a number. Rare types become int64."""
    if x.dtype not in (np.uint16, np.int32, np.int64):
        x = x.astype(np.int64)
    x = xp.ascontiguousarray(x)
    return x.reshape(-1).view(xp.uint8), x.dtype.itemsize


def warps(threads: int, most: int = 256) -> int:
    """So many threads, in whole warps, but at most `most`."""
    return min(most, 32 * math.ceil(threads / 32))


def blocks(x: Array, threads: int) -> int:
    """How many blocks of so many threads it takes, if each thread takes one pack of x."""
    return math.ceil(int(x.nbytes) / (threads * PACK))
