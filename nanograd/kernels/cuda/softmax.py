"""Floor 3. softmax and log_softmax over the last axis, one block to a row. Twins of nanograd/ops/softmax.py."""

import math
from typing import Any

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cuda.launch import Twin, launch, type_name
from nanograd.ops.softmax import log_softmax, softmax
from nanograd.primitive import Needs


def threads(C: int, itemsize: int) -> int:
    """Threads for a row of C numbers: whole warps, one 16-byte access each as far as 1,024 threads go."""
    packs = math.ceil(C * itemsize / 16)
    return min(32 * math.ceil(packs / 32), 1024)


def _forward(xp: ArrayModule, kernel: str, x: Array, axis: int, temperature: float) -> Any:
    name = type_name(x.dtype)
    if name is None or not x.size or axis not in (-1, x.ndim - 1) or not 1e-30 < temperature < 1e30:
        return NotImplemented
    if not x.flags.c_contiguous:
        return NotImplemented
    C = x.shape[-1]
    y = xp.empty(x.shape, x.dtype)
    launch(xp, f"{kernel}_{name}", x.size // C, threads(C, x.itemsize), x, y, C, 1 / temperature)
    return y, (y,)


def _backward(xp: ArrayModule, kernel: str, dy: Array, y: Array, temperature: float) -> Array:
    C, dy = y.shape[-1], xp.ascontiguousarray(dy)
    dx = xp.empty(y.shape, y.dtype)
    name = f"{kernel}_{type_name(y.dtype)}"
    launch(xp, name, y.size // C, threads(C, y.itemsize), dy, y, dx, C, 1 / temperature)
    return dx


def _softmax(xp: ArrayModule, x: Array, *, axis: int = -1, temperature: float = 1.0) -> Any:
    return _forward(xp, "softmax_forward", x, axis, temperature)


def _softmax_slope(
    xp: ArrayModule, dy: Array, y: Array, *, axis: int = -1, temperature: float = 1.0, needs: Needs
) -> Any:
    return _backward(xp, "softmax_backward", dy, y, temperature)


def _log_softmax(xp: ArrayModule, x: Array, *, axis: int = -1, temperature: float = 1.0) -> Any:
    return _forward(xp, "log_softmax_forward", x, axis, temperature)


def _log_softmax_slope(
    xp: ArrayModule, dy: Array, y: Array, *, axis: int = -1, temperature: float = 1.0, needs: Needs
) -> Any:
    return _backward(xp, "log_softmax_backward", dy, y, temperature)


TWINS = (Twin(softmax, _softmax, _softmax_slope), Twin(log_softmax, _log_softmax, _log_softmax_slope))
