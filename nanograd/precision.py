"""Floor 0. The numbers that a model computes in, and the way from float32 to 16 bits.

float32   8 bits of exponent, 24 of precision
bf16      8 bits of exponent,  8 of precision: the upper half of a float32
fp16      5 bits of exponent, 11 of precision: nothing above 65,504, little below 6·10⁻⁸
"""

import zlib
from typing import Any, Literal

import numpy as np

from nanograd.backend import Array, array_module
from nanograd.random import random_words

Precision = Literal["float32", "bf16", "fp16"]

_STREAM = zlib.crc32(b"rounding") << 32  # above the seed's 32 bits: dropout's keys are the seed alone


def float_type(precision: Precision) -> Any:
    """The NumPy dtype. bfloat16 is ml_dtypes's, which CuPy uses too."""
    if precision == "bf16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(np.float16 if precision == "fp16" else np.float32)


def rounding_key(seed: int, step: int | Array) -> tuple[int, Any]:
    """The key of the random words that weights are rounded by after optimizer step `step`: one word for each weight.

    step  an integer, or a uint64 array without axes on the device
    """
    return seed | _STREAM, step


def round_into(narrow: Array, x: Array, key: tuple[int, Any] | None = None) -> None:
    """narrow ← x (n,) float32: to the nearest number of 16 bits, or for bfloat16 and a `key` by chance.

    By chance x goes to the number above it with a probability as large as the part of the way that it has come from
    the number below: right on the average. To the nearest, a weight of 1 would never learn from steps below 2⁻⁹.
    Bits: those of x, plus the upper half of random word i for x[i], cut to their upper half.
    """
    if key is None or narrow.dtype.name != "bfloat16":
        narrow[...] = x.astype(narrow.dtype)
        return
    xp = array_module(x)
    bits = x.view(xp.uint32) + (random_words(xp, x.shape, key) >> 16)  # an infinity's lower half is 0: it stays one
    narrow.view(xp.uint16)[...] = (bits >> 16).astype(xp.uint16)
