"""dropout with the mask made on the way: no array of random words. Twin of nanograd/ops/dropout.py, bit for bit."""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cpu.support import INNER, SERIAL, ZERO, flat, run, takes
from nanograd.kernels.cpu.threads import for_each
from nanograd.ops.dropout import Key, dropout
from nanograd.primitive import Needs

TILE = 1 << 11  # numbers that one task drops: with their factors they fit a first-level cache
COUNTER, LANES = 4, 8  # words that a counter gives; counters that are computed at once, in lanes of 64 bits
HALF_WORD = np.uint64(32)
MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)


@njit(forceinline=True, **INNER)  # too long for LLVM to inline unasked, and only inlined can it be vectorised
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


class Mask(NamedTuple):
    """Which numbers of an array stay, and what they are multiplied by."""

    call: Any  # uint64, with the seed the key
    seed: Any
    threshold: Any  # uint32: words from here on mean that a number stays
    scale: Any  # float32, 1 / (1 − p)


def mask_of(p: float, key: Key | None) -> Mask | None:
    """What kernels want to know of dropout; None where the formula answers better: no key, or p outside (0, 1)."""
    if not 0 < p < 1 or key is None:
        return None
    seed, call = (np.uint64(number % 2**64) for number in key)
    return Mask(call, seed, np.uint32(int(p * 2**32)), np.float32(1 / (1 - p)))


@njit(**INNER)
def factors_of(mask: Mask, start: int, n: int) -> Array:
    """(n,) float32: for number start + i of an array 1 / (1 − p) if it stays, 0 if it is dropped."""
    block = start // COUNTER
    blocks = (start + n + COUNTER - 1) // COUNTER - block
    blocks = (blocks + LANES - 1) // LANES * LANES  # whole vectors: what is left over would be made one by one
    factors = np.empty(COUNTER * blocks, np.float32)
    for i in range(blocks):
        w0, w1, w2, w3 = philox(np.uint64(block + i), mask.call, mask.seed)
        factors[4 * i] = mask.scale if w0 >= mask.threshold else ZERO
        factors[4 * i + 1] = mask.scale if w1 >= mask.threshold else ZERO
        factors[4 * i + 2] = mask.scale if w2 >= mask.threshold else ZERO
        factors[4 * i + 3] = mask.scale if w3 >= mask.threshold else ZERO
    return factors[start % COUNTER : start % COUNTER + n]


@njit(**INNER)
def _drop_tile(tile: int, x: Array, mask: Mask, y: Array) -> None:
    start, stop = tile * TILE, min(x.size, (tile + 1) * TILE)
    xt, yt, factors = x[start:stop], y[start:stop], factors_of(mask, start, stop - start)
    for i in range(len(xt)):
        yt[i] = xt[i] * factors[i]


@njit(**SERIAL)
def _drop(x: Array, mask: Mask, y: Array) -> None:
    """y = x · (scale where the word of the same place reaches the threshold, else 0).   x, y (N,)"""
    for_each(_drop_tile, (x.size + TILE - 1) // TILE, (x, mask, y))


def _dropped(x: Array, mask: Mask | None) -> Array:
    y = np.empty(x.shape, np.float32)
    run(_drop, x.size, flat(x), mask, flat(y))
    return y


def _forward(xp: ArrayModule, x: Array, *, p: float, key: Key | None) -> Any:
    mask = mask_of(p, key)
    return (_dropped(x, mask), ()) if mask and takes(x) else NotImplemented


def _backward(xp: ArrayModule, dy: Array, *, p: float, key: Key, needs: Needs) -> Any:
    return _dropped(dy, mask_of(p, key))


dropout.twin(np, _forward, _backward)
