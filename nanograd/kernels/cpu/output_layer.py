"""The output layer and its cross-entropy by our own product: losses, and all gradients, a chunk of rows at a time.

A chunk's exponentials e (exponentials.py) are the left operand of two products. With f = the factors of its rows, the
gradient of the logits is f e but for its targets, whose e is 0; they are added in float32:

    dx = f (e W)  + c W[t]         e is read where it lies
    dW = eᵀ (f x) + c x at row t   e is packed as pairs of rows
Where p is nearly 1 the target's gradient p − 1 would drown in the rounding of a p in bf16; c is exact.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import get_num_threads, njit

from nanograd.backend import Array
from nanograd.kernels.cpu.avx512 import LANES, depth, get
from nanograd.kernels.cpu.blocking import Grid, Part, Shape, Summand, even, multiply_block, multiply_lanes, part_of
from nanograd.kernels.cpu.exponentials import N_SUMS, STRIDE, Layer, exponentials, losses_and_factors
from nanograd.kernels.cpu.gemm import LANE_TYPES, SMALL, grid_of, matmul_precision, panels_size, prepack
from nanograd.kernels.cpu.micro_kernel import TILE_COLUMNS, TILE_ROWS
from nanograd.kernels.cpu.packing import (
    BLOCK_ROWS,
    BLOCK_SIZE,
    BLOCK_STEPS,
    COLUMN_STRIDE,
    Span,
    interleave_rows,
    pack_panels,
)
from nanograd.kernels.cpu.support import INNER, INT_0, INT_1, SERIAL, aligned_empty, numbers
from nanograd.kernels.cpu.threads import for_each

ROWS_AT_ONCE = 2 * TILE_ROWS  # chunks are whole multiples of this: two threads have the same number of tiles
_COLUMNS = 4096  # columns of db for one thread at a time

Constants = tuple[Any, Any, Any]  # ε, ζ and 1 / number of rows, float32


class Rows(NamedTuple):
    """What the rows of e still need to become gradients of logits, (N,) each."""

    factors: Array  # of the whole row
    corrections: Array  # the gradient at the target, where e is 0
    targets: Array


def losses_and_gradients(
    x: Array,
    weight: Array,
    bias: Array | None,
    t: Array,
    constants: Constants,
    losses: Array,
    gradients: Any,
    step: int,
) -> None:
    """Fill `losses` (N,) and, unless they are None, `gradients` (dx, dW, db); all targets are real.

    step    rows at a time, about; in bf16 twice as many take the same memory
    """
    x, weight = numbers(x), numbers(weight)
    step *= 1 if matmul_precision() == "float32" else 2
    step = min(int(even(len(x), step, ROWS_AT_ONCE)), len(x)) if gradients else len(x)
    head = _Head(weight, bias, step, back=gradients is not None)
    for i in range(0, len(x), step):
        chunk = slice(i, i + step)
        rows = head.exponentials(x[chunk], t[chunk], constants, losses[chunk])
        if gradients:
            dx, dweight, dbias = gradients
            head.add_gradients(x[chunk], rows, dx[chunk], dweight, dbias, i > 0)
    if gradients and constants[0]:
        _smooth(x, weight, constants[0] * constants[2] / np.float32(len(weight)), gradients)


def _smooth(x: Array, weight: Array, share: Any, gradients: Any) -> None:
    """The uniform part of smoothed targets: the same number is taken from the gradient of every logit."""
    dx, dweight, dbias = gradients
    dx -= share * weight.sum(axis=0)
    dweight -= share * x.sum(axis=0)
    if dbias is not None:
        dbias -= share * np.float32(len(x))


class _Head:
    """W packed both ways, and the memory of a chunk."""

    def __init__(self, weight: Array, bias: Array | None, step: int, *, back: bool) -> None:
        self.weight, self.bias = weight, None if bias is None else numbers(bias)
        self.lanes = LANE_TYPES[matmul_precision()]
        self.threads = 1 if step * weight.size < SMALL else get_num_threads()
        self.forth = prepack(weight, transpose=True).panels
        self.back = prepack(weight).panels if back else None
        self.e = _room_for_lanes(step if back else self.threads, len(weight), self.lanes)
        self.scratch = aligned_empty((self.threads, BLOCK_ROWS, int(STRIDE)))

    def exponentials(self, x: Array, t: Array, constants: Constants, losses: Array) -> Rows:
        """Fill `losses` and self.e."""
        (N, C), V = x.shape, len(self.weight)
        bias = (0, 0, 0) if self.bias is None else (self.bias.ctypes.data, 0, 1)
        layer = Layer(_room_for_lanes(N, C, self.lanes), self.forth, (N, C, V), bias, t)
        sums = np.full((N_SUMS, N), np.nan, np.float32)
        exponentials(x, layer, self.threads, self.scratch, self.e, self.back is not None, sums)
        rows = Rows(np.empty(N, np.float32), np.empty(N, np.float32), t)
        losses_and_factors(sums, V, *constants, losses, rows.factors, rows.corrections)
        return rows

    def add_gradients(self, x: Array, rows: Rows, dx: Array, dweight: Array, dbias: Array, accumulate: bool) -> None:
        """What the rows in self.e give to dx, dW and db."""
        (N, C), V, e = x.shape, len(self.weight), self.e[: len(x)]
        input_gradient(e, self.back, self.weight, rows, grid_of(self.threads, N, C), dx)
        panels = aligned_empty((panels_size((N, C), self.lanes),), self.lanes)
        blocks = aligned_empty((self.threads, BLOCK_SIZE), self.lanes)
        scaled = rows.factors[:, None] * x
        weight_gradient(e, x, scaled, rows, panels, blocks, grid_of(self.threads, V, C), dweight, accumulate)
        if dbias is not None:
            bias_gradient(e, rows, dbias)


def _room_for_lanes(N: int, K: int, lanes: Any) -> Array:
    """For N rows or a few more of a left operand (N, K): whole tiles, for the micro-kernel reads all rows of a tile.

    Each row has an odd number of cache lines, for the sake of the cache's sets, and room for LANES more values, because
    so many are packed at a time.
    """
    per_lane = 1 if lanes is np.float32 else 2
    lines = -(-(K + LANES) // (LANES * per_lane)) | 1
    return aligned_empty((-(-N // TILE_ROWS) * TILE_ROWS, lines * LANES), lanes)


@njit(**SERIAL)
def input_gradient(e: Array, panels: Array, weight: Array, rows: Rows, grid: Grid, dx: Array) -> None:
    """dx (N, C) = factors · (e W) + corrections · W[t]"""
    for_each(_input_share, grid[0] * grid[1], (e, panels, weight, rows, grid, dx))


@njit(**INNER)
def _input_share(number: int, e: Array, panels: Array, weight: Array, rows: Rows, grid: Grid, dx: Array) -> None:
    N, C = dx.shape
    shape, out = (N, len(weight), C), (np.int64(dx.ctypes.data), C)
    part = part_of(number, grid, shape)
    multiply_lanes(e, panels, shape, part, out, (out[0], C, INT_0))
    for i in range(part[0], part[1]):
        for j in range(part[2] * TILE_COLUMNS, min(part[3] * TILE_COLUMNS, C)):
            dx[i, j] = dx[i, j] * rows.factors[i] + rows.corrections[i] * weight[rows.targets[i], j]


@njit(**SERIAL)
def weight_gradient(
    e: Array, x: Array, scaled: Array, rows: Rows, panels: Array, blocks: Array, grid: Grid, dweight: Array, add: bool
) -> None:
    """dW (V, C) [+]= eᵀ scaled,  dW[t] += corrections · x"""
    parts = grid[0] * grid[1]
    for_each(_pack_share, parts, (scaled, panels, parts))
    for_each(_weight_share, parts, (e, x, rows, panels, blocks, grid, dweight, add))


@njit(**INNER)
def _pack_share(share: int, scaled: Array, panels: Array, shares: int) -> None:
    N, C = scaled.shape
    pack_panels((np.int64(scaled.ctypes.data), C, INT_0), N, C, panels, share, shares)


@njit(**INNER)
def _weight_share(
    number: int,
    e: Array,
    x: Array,
    rows: Rows,
    panels: Array,
    blocks: Array,
    grid: Grid,
    dweight: Array,
    add: bool,
) -> None:
    (N, C), V = x.shape, len(dweight)
    part = part_of(number, grid, (V, N, C))
    _multiply_turned(e, panels, blocks[number], (V, N, C), part, (np.int64(dweight.ctypes.data), C, int(add)))
    _add_targets(x, rows, part, dweight)


@njit(**INNER)
def _multiply_turned(e: Array, panels: Array, block: Array, shape: Shape, part: Part, out: Summand) -> None:
    """One part of out [+]= eᵀ B."""
    ks = even(shape[1], BLOCK_STEPS * depth(panels), depth(panels))
    to, so_far, nothing = (out[0], out[1]), (out[0], out[1], INT_1), (out[0], out[1], INT_0)
    for k in range(0, shape[1], ks):
        for i in range(part[0], part[1], BLOCK_ROWS):
            rows, k_to = (i, min(i + BLOCK_ROWS, part[1])), min(k + ks, shape[1])
            _pack_turned(e, rows, (k, k_to), block)
            place, summands = (INT_0, INT_1, COLUMN_STRIDE), (so_far if k else out, nothing)
            multiply_block(block, place, panels, shape, rows, (part[2], part[3]), (k, k_to), to, summands)


@njit(**INNER)
def _pack_turned(e: Array, columns: Span, ks: Span, block: Array) -> None:
    """These columns of e become rows of a block, whose steps are e's rows."""
    lanes, per_lane = e.reshape(-1), depth(block)
    stride = e.shape[1] * per_lane
    for k in range(ks[0], ks[1], per_lane):
        source, target = k * stride + columns[0], (k - ks[0]) // per_lane * COLUMN_STRIDE
        for i in range(0, columns[1] - columns[0], LANES):
            interleave_rows(lanes, source + i, stride, ks[1] - k, block, target + i)


@njit(**INNER)
def _add_targets(x: Array, rows: Rows, part: Part, dweight: Array) -> None:
    """In the order of the rows: two of them may have the same target."""
    for i in range(len(x)):
        if part[0] <= rows.targets[i] < part[1]:
            total = dweight[rows.targets[i]]
            for j in range(part[2] * TILE_COLUMNS, min(part[3] * TILE_COLUMNS, len(total))):
                total[j] += rows.corrections[i] * x[i, j]


@njit(**SERIAL)
def bias_gradient(e: Array, rows: Rows, dbias: Array) -> None:
    """db (V,) += eᵀ factors,  db[t] += corrections"""
    for_each(_bias_share, (len(dbias) + _COLUMNS - 1) // _COLUMNS, (e, rows.factors, dbias))
    for i in range(len(rows.targets)):
        dbias[rows.targets[i]] += rows.corrections[i]


@njit(**INNER)
def _bias_share(strip: int, e: Array, factors: Array, dbias: Array) -> None:
    first = strip * _COLUMNS
    total = dbias[first : first + _COLUMNS]
    for i in range(len(factors)):
        row, factor = e[i], factors[i]
        for j in range(len(total)):
            total[j] += factor * get(row, first + j)
