"""Floor 3. Rotary positions. Twins of nanograd/ops/rotary.py.

Packed or not, the arrays are rows of heads for the kernel: each row has one position, and behind the heads that are
turned may stand numbers that are only copied.
"""

import functools
import math
from typing import Any

import numpy as np

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cuda.launch import Twin, aligned, launch, type_name
from nanograd.kernels.cuda.operands import PACK, integers, ready
from nanograd.ops.rotary import Layout, MaybeScaling, check, check_packed, packed_rotary, rotary
from nanograd.primitive import Needs
from pre_process.encode_position.rotary_scaling import scaled_frequencies

THREADS = 128  # of a block: as many rows as they can take at once


@functools.lru_cache(maxsize=32)
def _speeds(xp: ArrayModule, device: int, D: int, base: float, scaling: MaybeScaling) -> Array:
    """θᵢ / 2π (D/2,) in units of 2⁻⁶⁴ of a turn, uint64: whole turns are of no account. Copied to a device once."""
    theta = base ** (np.arange(0, D, 2) / -D)
    if scaling is not None:
        theta = scaled_frequencies(theta, base=base, scaling=scaling)
    return xp.asarray((theta / (2 * math.pi) % 1 * 2.0**64).astype(np.uint64))


def _turned(
    xp: ArrayModule,
    x: Array,
    positions: Array,
    direction: float,
    heads: int,
    D: int,
    base: float,
    layout: Layout,
    scaling: MaybeScaling,
) -> Array:
    """x (…, T, width), the first `heads` heads of each row turned; a new array"""
    y, N = xp.empty(x.shape, x.dtype), x.size // x.shape[-1]
    places, P = _per_row(xp, positions, x.shape[:-1])
    speeds, amplitude = _speeds(xp, x.device.id, D, float(base), scaling), scaling.amplitude if scaling else 1.0
    pairs, pack = int(layout == "pairs"), PACK // x.dtype.itemsize
    wide = int((D if pairs else D // 2) % pack == 0)
    columns = min(THREADS, 1 << (heads * D // (2 * (pack if wide else 1)) - 1).bit_length())
    block = columns, THREADS // columns
    settings = amplitude, direction, N, P, heads, D, x.shape[-1], pairs, wide
    name = f"rotary_rows_{type_name(x.dtype)}"
    shared = block[1] * D // 2 * 8  # a cosine and a sine for each pair of each row
    launch(xp, name, math.ceil(N / block[1]), block, y, x, *places, speeds, *settings, shared=shared)
    return y


def _per_row(xp: ArrayModule, positions: Array, rows: tuple[int, ...]) -> tuple[tuple[Array, int], int]:
    """The positions as kernels read them, and their number P: row r stands at number r mod P of them."""
    shape = tuple(positions.shape)
    while shape and shape[0] == 1:
        shape = shape[1:]
    if shape != rows[len(rows) - len(shape) :]:
        positions = xp.broadcast_to(positions, rows)
    return integers(xp, positions), positions.size


def _can(x: Array, positions: Array) -> bool:
    return type_name(x.dtype) is not None and x.size > 0 and positions.size > 0 and aligned(x)


def _forward(
    xp: ArrayModule,
    x: Array,
    positions: Array,
    *,
    base: float = 10_000.0,
    layout: Layout = "halves",
    scaling: MaybeScaling = None,
) -> Any:
    positions = xp.asarray(positions)
    check(positions, x.shape[:-1], x.shape[-1] if x.ndim else 1, base, layout)
    if not _can(x, positions):
        return NotImplemented
    return _turned(xp, x, positions, 1.0, 1, x.shape[-1], base, layout, scaling), (positions,)


def _backward(
    xp: ArrayModule,
    dy: Array,
    positions: Array,
    *,
    base: float = 10_000.0,
    layout: Layout = "halves",
    scaling: MaybeScaling = None,
    needs: Needs,
) -> Any:
    dy = ready(xp, dy, dy.dtype)
    return _turned(xp, dy, positions, -1.0, 1, dy.shape[-1], base, layout, scaling), None


def _packed_forward(
    xp: ArrayModule,
    qkv: Array,
    positions: Array,
    *,
    n_heads: int,
    base: float = 10_000.0,
    layout: Layout = "halves",
    scaling: MaybeScaling = None,
) -> Any:
    positions = xp.asarray(positions)
    check_packed(qkv, positions, n_heads, base, layout)
    if not _can(qkv, positions):
        return NotImplemented
    D = qkv.shape[2] // (3 * n_heads)
    return _turned(xp, qkv, positions, 1.0, 2 * n_heads, D, base, layout, scaling), (positions,)


def _packed_backward(
    xp: ArrayModule,
    dy: Array,
    positions: Array,
    *,
    n_heads: int,
    base: float = 10_000.0,
    layout: Layout = "halves",
    scaling: MaybeScaling = None,
    needs: Needs,
) -> Any:
    dy, D = ready(xp, dy, dy.dtype), dy.shape[2] // (3 * n_heads)
    return _turned(xp, dy, positions, -1.0, 2 * n_heads, D, base, layout, scaling), None


TWINS = (Twin(rotary, _forward, _backward), Twin(packed_rotary, _packed_forward, _packed_backward))
