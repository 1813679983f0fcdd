"""Dropout. The mask is a function of the key, so it is computed again in backward instead of being kept."""

from typing import Any, TypeAlias

from nanograd.backend import Array, ArrayModule
from nanograd.primitive import Needs, Value, primitive
from nanograd.random import random_words

Key: TypeAlias = tuple[int, int]  # from nanograd.random.DropoutKeys


@primitive
def dropout(xp: ArrayModule, x: Array, *, p: float, key: Key | None) -> Value:
    """y = x / (1 − p) with probability 1 − p, else 0: the mean stays.   Srivastava et al. 2014

    The same key draws the same mask, on CPU and GPU alike. Raises ValueError for p outside [0, 1].
    """
    return drop(x, kept(xp, x.shape, p, key), p), ()


@dropout.backward
def _(xp: ArrayModule, dy: Array, *, p: float, key: Key | None, needs: Needs) -> Any:
    return drop(dy, kept(xp, dy.shape, p, key), p)


def kept(xp: ArrayModule, shape: tuple[int, ...], p: float, key: Key | None) -> Array | None:
    """Which elements stay: a boolean array, or None (all of them) for p = 0."""
    if not 0 <= p <= 1:
        raise ValueError(f"p is a probability, not {p}")
    if p == 0:
        return None
    if p == 1:
        return xp.zeros(shape, bool)
    if key is None:
        raise ValueError(f"p={p} needs a key: DropoutKeys.next()")
    return random_words(xp, shape, key) >= int(p * 2**32)


def drop(x: Array, keep: Array | None, p: float) -> Array:
    """x ⊙ keep / (1 − p): linear in x, so value and gradient are the same map. Without a mask x itself, not a copy."""
    if keep is None:
        return x
    y = x * keep
    y *= 1 / (1 - p) if p < 1 else 0.0
    return y
