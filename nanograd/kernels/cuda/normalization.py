"""Floor 3. layer_norm and rms_norm: a row is held in registers by one or more warps. Twins of ops/normalization.py.

They keep x and one or two numbers for each row instead of the normalized rows, which backward makes again. Where a
sub-layer's output joins the residual stream, the product adds the stream on its way to memory, so no kernel here does
forward; and backward adds to the stream's gradient, which waits, in the pass that makes its own.
Memory traffic, in arrays as large as x: forward 2, backward 3, or 4 where it adds to a gradient.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cuda.launch import Twin, aligned, launch, type_name
from nanograd.ops.normalization import layer_norm, rms_norm
from nanograd.primitive import Needs
from nanograd.tensor import ADDED

Into = tuple[Array | None, ...]
MAX_WARPS = 16  # of a block: 512 threads with 128 registers each
BLOCKS = 264  # of backward: two for each SM of an H100. Always so many: the order of a sum decides its last digits


class Team(NamedTuple):
    """How many threads share a row, how many rows a block has at a time, and whether packs of 16 bytes are read."""

    threads: int
    rows: int
    wide: int


def _team(C: int, *arrays: Array | None) -> Team | None:
    """The team for rows of C numbers; None if that is more than the registers of a block hold."""
    itemsize = next(x.dtype.itemsize for x in arrays if x is not None)
    wide = C * itemsize % 16 == 0 and aligned(*arrays)
    columns = 256 if not wide else 512 if itemsize == 4 else 768  # for a warp: 32 · W · ITEMS of normalization.cu
    warps = math.ceil(C / columns)
    return Team(32 * warps, max(1, 8 // warps), int(wide)) if warps <= MAX_WARPS else None


def _takes(x: Array, *parameters: Array | None) -> bool:
    """Arrays in one piece, of a type that has kernels; parameters as long as x's rows."""
    there = [p for p in parameters if p is not None]
    return (
        x.ndim >= 1
        and 0 < x.size < 2**31 * x.shape[-1]
        and type_name(x.dtype) is not None
        and all(p.shape == x.shape[-1:] for p in there)
        and all(a.flags.c_contiguous for a in [x, *there])
    )


def _layer_norm_forward(xp: ArrayModule, x: Array, weight: Array, bias: Array, *, eps: float = 1e-5) -> Any:
    if not _takes(x, weight, bias) or (team := _team(x.shape[-1], x, weight, bias)) is None:
        return NotImplemented
    C = x.shape[-1]
    N, y, (mean, r) = x.size // C, xp.empty(x.shape, x.dtype), xp.empty((2, x.size // C), np.float32)
    kernel = f"layer_norm_{type_name(x.dtype)}"
    launch(xp, kernel, *_forward_shape(N, team), x, weight, bias, y, mean, r, N, C, float(eps), team.wide)
    return y, (x, mean, r, weight)


def _rms_norm_forward(xp: ArrayModule, x: Array, weight: Array, *, eps: float = 1e-5) -> Any:
    if not _takes(x, weight) or (team := _team(x.shape[-1], x, weight)) is None:
        return NotImplemented
    C = x.shape[-1]
    N, y, r = x.size // C, xp.empty(x.shape, x.dtype), xp.empty(x.size // C, np.float32)
    kernel = f"rms_norm_{type_name(x.dtype)}"
    launch(xp, kernel, *_forward_shape(N, team), x, weight, y, r, N, C, float(eps), team.wide)
    return y, (x, r, weight)


def _forward_shape(N: int, team: Team) -> tuple[int, tuple[int, int]]:
    return math.ceil(N / team.rows), (team.threads, team.rows)


def _layer_norm_backward(
    xp: ArrayModule,
    dy: Array,
    x: Array,
    mean: Array,
    r: Array,
    weight: Array,
    *,
    eps: float = 1e-5,
    needs: Needs,
    into: Into,
) -> Any:
    return _slopes(xp, "layer_norm_backward", dy, x, weight, (mean, r), needs, into)


def _rms_norm_backward(
    xp: ArrayModule, dy: Array, x: Array, r: Array, weight: Array, *, eps: float = 1e-5, needs: Needs, into: Into
) -> Any:
    return _slopes(xp, "rms_norm_backward", dy, x, weight, (r,), needs, into)


def _slopes(
    xp: ArrayModule,
    kernel: str,
    dy: Array,
    x: Array,
    weight: Array,
    statistics: tuple[Array, ...],
    needs: Needs,
    into: Into,
) -> Any:
    """dx, dweight and, if asked for, dbias: the sums over rows first for each block, then over the blocks."""
    C, dy = x.shape[-1], dy if aligned(dy) else dy.copy()
    team: Any = _team(C, x, weight)  # forward has found it: there is one
    N = x.size // C
    blocks = min(BLOCKS, math.ceil(N / team.rows))
    dx, there = _place(xp, into[0], x)
    partial = xp.empty((2, blocks, C), np.float32)
    name, block = f"{kernel}_{type_name(x.dtype)}", (team.threads, team.rows)
    room = 8 * C if team.rows > 1 else 0  # bytes: two rows of sums, passed on from team to team
    launch(xp, name, blocks, block, dy, x, weight, *statistics, dx, partial, there, N, C, team.wide, shared=room)
    return ADDED if there else dx, *_sums(xp, partial, needs[1:], into[1:])


def _place(xp: ArrayModule, gradient: Array | None, x: Array) -> tuple[Array, int]:
    """Where dx goes, and whether it is added there: to the gradient that waits, or to a new array."""
    if gradient is not None and gradient.dtype == x.dtype and aligned(gradient):
        return gradient, 1
    return xp.empty(x.shape, x.dtype), 0


def _sums(xp: ArrayModule, partial: Array, needs: Needs, into: Into) -> list[Any]:
    """The gradients of weight and bias (as many as `needs` has), added to those that are there. All float32."""
    _, blocks, C = partial.shape
    found: list[Any] = [None, None]
    adds = [0, 0]
    for i, gradient in enumerate(into):
        if gradient is not None and gradient.dtype == np.float32 and gradient.flags.c_contiguous:
            found[i], adds[i] = gradient, 1
        elif needs[i]:
            found[i] = xp.empty(C, np.float32)
    if any(needs):
        launch(xp, "norm_sums", (math.ceil(C / 32), len(needs)), (32, 32), partial, *found, *adds, blocks, C)
    return [ADDED if add else gradient for gradient, add, _ in zip(found, adds, needs, strict=False)]


TWINS = (
    Twin(layer_norm, _layer_norm_forward, _layer_norm_backward, accumulates=True),
    Twin(rms_norm, _rms_norm_forward, _rms_norm_backward, accumulates=True),
)
