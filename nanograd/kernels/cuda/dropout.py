"""Floor 3. dropout with the mask made on the way: no array of random words. Twin of nanograd/ops/dropout.py."""

from typing import Any

import numpy as np

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cuda.launch import Twin, aligned, launch, type_name
from nanograd.kernels.cuda.operands import blocks, ready
from nanograd.ops.dropout import Key, dropout
from nanograd.primitive import Needs

THREADS = 256  # of a block; each takes one pack


def _forward(xp: ArrayModule, x: Array, *, p: float, key: Key | None) -> Any:
    """The formula answers better for p outside of (0, 1) and for a missing key."""
    if not 0 < p < 1 or key is None or type_name(x.dtype) is None or not x.size or not aligned(x):
        return NotImplemented
    return _dropped(xp, x, p, key), ()


def _backward(xp: ArrayModule, dy: Array, *, p: float, key: Key, needs: Needs) -> Array:
    return _dropped(xp, ready(xp, dy, dy.dtype), p, key)


def _dropped(xp: ArrayModule, x: Array, p: float, key: Key) -> Array:
    y = xp.empty(x.shape, x.dtype)
    seed, call = key
    # A CUDA graph repeats the numbers that it was recorded with: a call that has to change lies in device memory.
    here, there = (np.uint64(call % 2**64), None) if isinstance(call, int) else (np.uint64(0), call)
    mask = np.uint64(seed % 2**64), here, there, np.uint32(int(p * 2**32)), 1 / (1 - p)
    launch(xp, f"drop_{type_name(x.dtype)}", blocks(x, THREADS), THREADS, y, x, *mask, np.int64(x.size))
    return y


TWINS = (Twin(dropout, _forward, _backward),)
