"""dropout with the mask made on the way: no array of random words. Twin of nanograd/ops/dropout.py, bit for bit."""

from typing import Any

import numpy as np
from numba import njit, prange

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cpu.support import PARALLEL, SERIAL, ZERO, flat, run, takes
from nanograd.ops.dropout import Key, dropout
from nanograd.primitive import Needs

TILE = 1 << 12  # numbers that one task drops, a multiple of the four words of a counter
HALF_WORD = np.uint64(32)
MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)


@njit(forceinline=True, **SERIAL)  # too long for LLVM to inline unasked, and only inlined can it be vectorised
def philox(block: Any, call: Any, seed: Any) -> Any:
    """The four random words (uint32) of counter (block, call) under the key `seed`, all three uint64.

    The same as nanograd.random.random_words: Philox4x32-10, Salmon et al., SC 2011.
    """
    c0, c1, c2, c3 = np.uint32(block), np.uint32(block >> HALF_WORD), np.uint32(call), np.uint32(call >> HALF_WORD)
    k0, k1 = np.uint32(seed), np.uint32(seed >> HALF_WORD)
    for _ in range(10):
        p0, p1 = np.uint64(c0) * MULTIPLIER_0, np.uint64(c2) * MULTIPLIER_1
        c0, c1 = np.uint32(np.uint32(p1 >> HALF_WORD) ^ c1 ^ k0), np.uint32(p1)
        c2, c3 = np.uint32(np.uint32(p0 >> HALF_WORD) ^ c3 ^ k1), np.uint32(p0)
        k0, k1 = np.uint32(k0 + WEYL_0), np.uint32(k1 + WEYL_1)
    return c0, c1, c2, c3


@njit(**PARALLEL)
def _drop(x: Array, call: Any, seed: Any, threshold: Any, scale: Any, y: Array) -> None:
    """y = x · (scale where the word of the same place reaches `threshold`, else 0).   x, y (N,)"""
    N = x.size
    for tile in prange((N + TILE - 1) // TILE):
        start = tile * TILE
        whole = min(TILE, N - start) // 4
        xt, yt = x[start : start + 4 * whole], y[start : start + 4 * whole]
        for i in range(whole):
            w0, w1, w2, w3 = philox(np.uint64(start // 4 + i), call, seed)
            yt[4 * i] = xt[4 * i] * (scale if w0 >= threshold else ZERO)
            yt[4 * i + 1] = xt[4 * i + 1] * (scale if w1 >= threshold else ZERO)
            yt[4 * i + 2] = xt[4 * i + 2] * (scale if w2 >= threshold else ZERO)
            yt[4 * i + 3] = xt[4 * i + 3] * (scale if w3 >= threshold else ZERO)
    words = philox(np.uint64(N // 4), call, seed)
    for i in range(N - N % 4, N):  # what is left of the last four
        y[i] = x[i] * (scale if words[i % 4] >= threshold else ZERO)


def _dropped(x: Array, p: float, key: Key) -> Array:
    y = np.empty(x.shape, np.float32)
    seed, call = (np.uint64(number % 2**64) for number in key)
    run(_drop, x.size, flat(x), call, seed, np.uint32(int(p * 2**32)), np.float32(1 / (1 - p)), flat(y))
    return y


def _forward(xp: ArrayModule, x: Array, *, p: float, key: Key | None) -> Any:
    if not takes(x) or not 0 < p < 1 or key is None:
        return NotImplemented
    return _dropped(x, p, key), ()


def _backward(xp: ArrayModule, dy: Array, *, p: float, key: Key, needs: Needs) -> Any:
    return _dropped(dy, p, key)


dropout.twin(np, _forward, _backward)
