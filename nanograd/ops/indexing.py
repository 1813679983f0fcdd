"""Picking out: x[index] as in NumPy, and the embedding look-up. Gradients go back to where the numbers came from."""

from typing import Any

import numpy as np

from nanograd.backend import Array, ArrayModule, accumulator
from nanograd.primitive import Needs, Value, mover


@mover
def getitem(xp: ArrayModule, x: Array, *, index: Any) -> Value:
    """y = x[index]: integers, slices, None, …, integer arrays, and (CPU only) boolean masks, as in NumPy"""
    return x[index], (x.shape,)


@getitem.backward
def _(xp: ArrayModule, dy: Array, shape: tuple[int, ...], *, index: Any, needs: Needs) -> Any:
    """dx[index] += dy: an element that was picked twice receives both gradients"""
    if _picks_once(index):
        dx = xp.zeros(shape, dy.dtype)
        dx[index] = dy
        return dx
    dx = xp.zeros(shape, accumulator(dy.dtype))
    xp.add.at(dx, index, dy.astype(dx.dtype, copy=False))
    return dx


def _picks_once(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or isinstance(part, int | np.integer | slice) for part in parts)


@mover
def embedding(xp: ArrayModule, weight: Array, ids: Array) -> Value:
    """y[…, :] = weight[ids[…], :].   weight (V, C), ids (…) integers in [0, V) → y (…, C)

    Raises IndexError for an id outside the vocabulary (on a CPU: looking for one would make a GPU wait).
    """
    ids = xp.asarray(ids)
    if ids.dtype.kind not in "iu":
        raise TypeError("ids must be integers")
    if weight.ndim != 2:
        raise ValueError("weight must be (vocab_size, d_model)")
    if xp is np and ids.size and (ids.min() < 0 or ids.max() >= len(weight)):
        worst = ids.min() if ids.min() < 0 else ids.max()
        raise IndexError(f"token id {worst} is outside the vocabulary of vocab_size={len(weight)}")
    return weight[ids], (weight.shape, ids)


@embedding.backward
def _(xp: ArrayModule, dy: Array, shape: tuple[int, ...], ids: Array, *, needs: Needs) -> Any:
    """dweight[i] = Σ of the dy rows whose id is i"""
    V, C = shape
    places = ids.reshape(-1, 1).astype(np.int64) * C + xp.arange(C)  # in the flat dweight: (N, C)
    dweight = xp.zeros(V * C, accumulator(dy.dtype))
    dy = dy.reshape(-1).astype(dweight.dtype, copy=False)
    xp.add.at(dweight, places.reshape(-1), dy)  # NumPy's add.at is several times faster in 1-D
    return dweight.reshape(V, C), None
