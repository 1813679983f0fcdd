"""Dropout. The mask is a function of the key, so it is computed again in backward instead of being kept."""

from typing import Any, TypeAlias

from nanograd.backend import Array, ArrayModule
from nanograd.primitive import Needs, Value, primitive
from nanograd.random import random_words

Key: TypeAlias = tuple[int, int]  # from nanograd.random.DropoutKeys


@primitive
def dropout(xp: ArrayModule, x: Array, *, p: float, key: Key | None) -> Value:
    """y = x / (1 − p) with probability 1 − p, else 0; the mean stays.   Srivastava et al. 2014

    The same key draws the same mask, on CPU and GPU alike. Raises ValueError for p outside [0, 1].
    """
    return drop(xp, x, p, key), ()


@dropout.backward
def _(xp: ArrayModule, dy: Array, *, p: float, key: Key | None, needs: Needs) -> Any:
    return drop(xp, dy, p, key)


def drop(xp: ArrayModule, x: Array, p: float, key: Key | None) -> Array:
    """The formula itself: linear in x, so value and gradient are the same map. p = 0 returns x, not a copy."""
    if not 0 <= p <= 1:
        raise ValueError(f"p is a probability, not {p}")
    if p == 0:
        return x
    if p == 1:
        return xp.zeros_like(x)
    if key is None:
        raise ValueError(f"p={p} needs a key: dropout_keys.next()")
    keep = random_words(xp, x.shape, key) >= int(p * 2**32)
    y = x * (1 / (1 - p))
    y *= keep
    return y
