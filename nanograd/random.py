"""Floor 0. Randomness without a global generator: one seed, named streams, and Philox for dropout masks.

Each use of chance draws from its own stream, so drawing one more weight never shifts the order of the data.
"""

import math
import zlib
from typing import Any

import numpy as np

from nanograd.backend import Array, ArrayModule

CPU_BLOCKS = 1 << 13  # at a time: the ten rounds then stay in cache, six times faster than in main memory


def generator(seed: int, name: str) -> np.random.Generator:
    """The stream `name` ('init', 'data', 'sample', …) of `seed`: the same numbers on every machine."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(name.encode())])))


class DropoutKeys:
    """Hands out one key per dropout call. A key (seed, call) *is* the mask: it is recomputed, never stored."""

    def __init__(self, seed: int) -> None:
        self.seed, self.calls = seed, 0
        self._base: Array | None = None

    def next(self) -> tuple[int, Any]:
        """The key of one more call. Its second part is an integer, or as `count_on_device` wants it."""
        self.calls += 1
        return self.seed, self.calls if self._base is None else self._base + (self.calls - self._first)

    def count_on_device(self, base: Array | None) -> None:
        """From now on a call's number is read from the device: base, a uint64 without axes, and the calls since now.

        A captured CUDA graph repeats its launches as they are: for new masks the base has to change. None: no more.
        """
        self._base, self._first = base, self.calls


def philox_4x32(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> tuple[Any, ...]:
    """Philox4x32-10: four words of counter and two of key → four random words, all uint32 held in uint64 arrays.

    Source: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, §4.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # 32 × 32 → 64 bits
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def random_words(xp: ArrayModule, shape: tuple[int, ...], key: tuple[int, Any]) -> Array:
    """uint32 array of `shape`, every bit a coin toss: the same for the same key on CPU and GPU.

    Four words to a counter: (block, block >> 32, call, call >> 32). Seed and call count modulo 2⁶⁴.
    """
    size = math.prod(shape)
    words = xp.empty(((size + 3) // 4, 4), xp.uint32)
    step = CPU_BLOCKS if xp is np else max(1, len(words))
    for start in range(0, len(words), step):
        part = words[start : start + step]
        for i, word in enumerate(_blocks(xp, start, len(part), key)):
            part[:, i] = word
    return words.reshape(-1)[:size].reshape(shape)


def _blocks(xp: ArrayModule, start: int, count: int, key: tuple[int, Any]) -> tuple[Array, ...]:
    seed, call = key
    block = xp.arange(start, start + count, dtype=xp.uint64)
    zero = xp.zeros_like(block)
    counter = (block & 0xFFFFFFFF, block >> 32, zero + (call & 0xFFFFFFFF), zero + (call >> 32 & 0xFFFFFFFF))
    return philox_4x32(counter, (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
