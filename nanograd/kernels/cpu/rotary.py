"""Rotary positions, with the turns looked up in a table. Twins of nanograd/ops/rotary.py.

Packed or not, the arrays are rows of heads for the loops: each row has one position, behind the heads that are turned
may stand numbers that are only copied.
"""

import functools
from typing import Any

import numpy as np
from numba import njit

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cpu.support import INNER, SERIAL, copy_row, rows, run, takes
from nanograd.kernels.cpu.threads import for_each
from nanograd.ops.rotary import Layout, MaybeScaling, check, check_packed, cos_and_sin, packed_rotary, rotary
from nanograd.primitive import Needs

ROWS = 16  # that one task turns
LONGEST = 1 << 17  # positions in a table: larger ones, and negative ones, are left to the formula


@njit(**SERIAL)
def _turn_halves(x: Array, places: Array, table: Array, sign: Any, heads: int, D: int, y: Array) -> None:
    """y = x, the first `heads` heads of each row turned.   x, y (N, …), places (N,), table (P, D): cosines, then sines

    sign  1, or −1 to turn back
    """
    for_each(_turn_halves_of_rows, (len(x) + ROWS - 1) // ROWS, (x, places, table, sign, heads, D, y))


@njit(**INNER)
def _turn_halves_of_rows(
    task: int, x: Array, places: Array, table: Array, sign: Any, heads: int, D: int, y: Array
) -> None:
    N, half = len(x), D // 2
    for i in range(task * ROWS, min(N, (task + 1) * ROWS)):
        cos, sin = table[places[i], :half], table[places[i], half:]
        for h in range(heads):
            x1, x2 = x[i, h * D : h * D + half], x[i, h * D + half : h * D + D]
            y1, y2 = y[i, h * D : h * D + half], y[i, h * D + half : h * D + D]
            for j in range(half):
                y1[j] = x1[j] * cos[j] - x2[j] * (sign * sin[j])
                y2[j] = x1[j] * (sign * sin[j]) + x2[j] * cos[j]
        copy_row(y[i, heads * D :], x[i, heads * D :])


@njit(**SERIAL)
def _turn_pairs(x: Array, places: Array, table: Array, sign: Any, heads: int, D: int, y: Array) -> None:
    """The same for numbers that are neighbours."""
    for_each(_turn_pairs_of_rows, (len(x) + ROWS - 1) // ROWS, (x, places, table, sign, heads, D, y))


@njit(**INNER)
def _turn_pairs_of_rows(
    task: int, x: Array, places: Array, table: Array, sign: Any, heads: int, D: int, y: Array
) -> None:
    N, half = len(x), D // 2
    for i in range(task * ROWS, min(N, (task + 1) * ROWS)):
        cos, sin = table[places[i], :half], table[places[i], half:]
        for h in range(heads):
            xh, yh = x[i, h * D : h * D + D], y[i, h * D : h * D + D]
            for j in range(half):
                yh[2 * j] = xh[2 * j] * cos[j] - xh[2 * j + 1] * (sign * sin[j])
                yh[2 * j + 1] = xh[2 * j] * (sign * sin[j]) + xh[2 * j + 1] * cos[j]
        copy_row(y[i, heads * D :], x[i, heads * D :])


@functools.lru_cache(maxsize=8)
def _table(length: int, D: int, base: float, scaling: MaybeScaling) -> Array:
    """(length, D) float32: row m holds cos m θᵢ, then sin m θᵢ."""
    like = np.empty(0, np.float32)
    return np.concatenate(cos_and_sin(np, np.arange(length), like, D, base, scaling), axis=-1)


def _turned(
    x: Array, positions: Array, sign: int, heads: int, D: int, base: float, layout: Layout, scaling: MaybeScaling
) -> Array:
    """x (…, T, width), the first `heads` heads of each row turned; a new array"""
    length = 1 << int(positions.max()).bit_length()  # tables of few lengths, for the next batch may be longer
    places = np.ascontiguousarray(np.broadcast_to(positions, x.shape[:-1]), np.int64).reshape(-1)
    y, kernel = np.empty(x.shape, np.float32), _turn_halves if layout == "halves" else _turn_pairs
    table = _table(length, D, float(base), scaling)
    run(kernel, x.size, rows(x), places, table, np.float32(sign), heads, D, rows(y))
    return y


def _can(x: Array, positions: Array) -> bool:
    return takes(x) and positions.size > 0 and positions.min() >= 0 and positions.max() < LONGEST


def _forward(
    xp: ArrayModule,
    x: Array,
    positions: Array,
    *,
    base: float = 10_000.0,
    layout: Layout = "halves",
    scaling: MaybeScaling = None,
) -> Any:
    positions = np.asarray(positions)
    check(positions, x.shape[:-1], x.shape[-1] if x.ndim else 1, base, layout)
    if not _can(x, positions):
        return NotImplemented
    return _turned(x, positions, 1, 1, x.shape[-1], base, layout, scaling), (positions,)


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
    return _turned(dy, positions, -1, 1, dy.shape[-1], base, layout, scaling), None


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
    positions = np.asarray(positions)
    check_packed(qkv, positions, n_heads, base, layout)
    if not _can(qkv, positions):
        return NotImplemented
    return _turned(qkv, positions, 1, 2 * n_heads, qkv.shape[2] // (3 * n_heads), base, layout, scaling), (positions,)


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
    return _turned(dy, positions, -1, 2 * n_heads, dy.shape[2] // (3 * n_heads), base, layout, scaling), None


rotary.twin(np, _forward, _backward)
packed_rotary.twin(np, _packed_forward, _packed_backward)
