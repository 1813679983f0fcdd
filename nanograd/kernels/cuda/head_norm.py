"""Floor 3. Queries and keys at one length: a head is held by a few neighbours in a warp. Twin of ops/head_norm.py.

Memory traffic, in arrays as large as qkv: forward 2, backward 3 (of the values, which pass unchanged, 2).
"""

import math
from typing import Any

import numpy as np

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cuda.launch import Twin, aligned, launch, type_name
from nanograd.ops.head_norm import check_packed, packed_head_norm
from nanograd.primitive import Needs

THREADS = 256  # of a block, as in head_norm.cu
MOST_HEADS = 2**31 - THREADS  # of all rows: the kernels number them by an int


def _lanes(D: int, itemsize: int) -> tuple[int, int]:
    """How many lanes of a warp (a power of two) hold a head (D,), and if in packs of 16 bytes; (0, 0): too long."""
    wide = D * itemsize % 16 == 0
    pieces = D * itemsize // 16 if wide else D
    if pieces > 32 * (4 if wide else 8):  # ITEMS of head_norm.cu
        return 0, 0
    return min(32, 1 << (pieces - 1).bit_length()), int(wide)


def _launch(xp: ArrayModule, kernel: str, arrays: tuple[Array, ...], qkv: Array, n_heads: int, *more: Any) -> None:
    B, T, width = qkv.shape
    D, H = width // (3 * n_heads), n_heads
    lanes, wide = _lanes(D, qkv.dtype.itemsize)
    blocks = math.ceil(B * T * 3 * H / (THREADS // lanes))
    launch(xp, f"{kernel}_{type_name(qkv.dtype)}", blocks, THREADS, *arrays, B * T, H, D, lanes, *more, wide)


def _forward(xp: ArrayModule, qkv: Array, *, n_heads: int, eps: float = 1e-5) -> Any:
    check_packed(qkv, n_heads)
    if type_name(qkv.dtype) is None or not aligned(qkv) or not qkv.size:
        return NotImplemented
    D = qkv.shape[2] // (3 * n_heads)
    if qkv.size // D >= MOST_HEADS or _lanes(D, qkv.dtype.itemsize)[0] == 0:
        return NotImplemented
    y, r = xp.empty(qkv.shape, qkv.dtype), xp.empty((*qkv.shape[:2], 2 * n_heads), np.float32)
    _launch(xp, "head_norm", (qkv, y, r), qkv, n_heads, float(eps))
    return y, (qkv, r)


def _backward(
    xp: ArrayModule, dy: Array, qkv: Array, r: Array, *, n_heads: int, eps: float = 1e-5, needs: Needs
) -> Any:
    dy, dx = dy if aligned(dy) else dy.copy(), xp.empty(qkv.shape, qkv.dtype)
    _launch(xp, "head_norm_backward", (dy, qkv, r, dx), qkv, n_heads)
    return dx


TWINS = (Twin(packed_head_norm, _forward, _backward),)
