"""Floor 3. relu, relu², silu, gelu and swiglu, number by number. Twins of nanograd/ops/activation.py.

They keep x alone: Φ costs less to compute again than to read from memory.
"""

import functools
import math
from typing import Any

import numpy as np

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cuda.launch import Twin, aligned, launch, type_name
from nanograd.kernels.cuda.operands import blocks, ready, warps, width
from nanograd.ops.activation import Gelu, gelu, relu, relu_squared, silu, swiglu
from nanograd.primitive import Needs

THREADS = 256  # of a block; each takes one pack, so there is nothing to share and no block too small to be hidden
MOST_ROWS = 65_535  # of a grid's second axis


def _value(kernel: str, xp: ArrayModule, x: Array) -> Any:
    if type_name(x.dtype) is None or not x.size or not aligned(x):
        return NotImplemented
    y = xp.empty(x.shape, x.dtype)
    launch(xp, f"{kernel}_forward_{type_name(x.dtype)}", blocks(x, THREADS), THREADS, y, x, np.int64(x.size))
    return y, (y if kernel == "relu" else x,)  # relu's slope can be seen at y, which the next operation keeps anyway


def _slope(kernel: str, xp: ArrayModule, dy: Array, x: Array, *, needs: Needs) -> Array:
    dx = xp.empty(x.shape, x.dtype)
    name = f"{kernel}_backward_{type_name(x.dtype)}"
    launch(xp, name, blocks(x, THREADS), THREADS, dx, ready(xp, dy, x.dtype), x, np.int64(x.size))
    return dx


def _gelu(xp: ArrayModule, x: Array, *, approximate: Gelu = "none") -> Any:
    return _value(_GELU[approximate], xp, x) if approximate in _GELU else NotImplemented


def _gelu_slope(xp: ArrayModule, dy: Array, x: Array, *, approximate: Gelu = "none", needs: Needs) -> Array:
    return _slope(_GELU[approximate], xp, dy, x, needs=needs)


_GELU = {"none": "gelu", "tanh": "gelu_tanh"}


def _swiglu(xp: ArrayModule, x: Array) -> Any:
    if type_name(x.dtype) is None or not x.size or not aligned(x) or x.ndim < 1 or x.shape[-1] % 2:
        return NotImplemented
    F = x.shape[-1] // 2
    y = xp.empty((*x.shape[:-1], F), x.dtype)
    launch(xp, f"swiglu_forward_{type_name(x.dtype)}", *_rows(x, F), y, x, y.size // F, F)
    return y, (x,)


def _swiglu_slope(xp: ArrayModule, dy: Array, x: Array, *, needs: Needs) -> Array:
    F = x.shape[-1] // 2
    dx, dy = xp.empty(x.shape, x.dtype), ready(xp, dy, x.dtype)
    launch(xp, f"swiglu_backward_{type_name(x.dtype)}", *_rows(x, F), dx, dy, x, dy.size // F, F)
    return dx


def _rows(x: Array, F: int) -> tuple[tuple[int, int], int]:
    """Grid and block: some columns of a row for each block."""
    packs = F // width(x, F)
    threads = warps(packs, THREADS)
    return (math.ceil(packs / threads), min(x.size // (2 * F), MOST_ROWS)), threads


TWINS = (
    *(
        Twin(op, functools.partial(_value, op.name), functools.partial(_slope, op.name))
        for op in (relu, relu_squared, silu)
    ),
    Twin(gelu, _gelu, _gelu_slope),
    Twin(swiglu, _swiglu, _swiglu_slope),
)
