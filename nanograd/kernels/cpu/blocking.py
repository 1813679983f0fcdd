"""The blocked loops of the matrix product, on one thread or on all of them.

    for each block of k:                      most often there is only one
        for each block of rows of A:          packed now, into the second-level cache
            for each panel of B:              packed before, once, for all threads
                for each tile of 12 rows:     micro_kernel.py
Matrices are (address, row length, …) and not arrays: Numba would compile once more for each layout and for read-only.
Source: Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34 (3), 2008.
"""

from typing import TypeAlias

from numba import njit

from nanograd.backend import Array
from nanograd.kernels.cpu.avx512 import depth
from nanograd.kernels.cpu.micro_kernel import TILE_COLUMNS, TILE_ROWS, multiply_tile
from nanograd.kernels.cpu.packing import (
    BLOCK_ROWS,
    BLOCK_STEPS,
    COLUMN_STRIDE,
    ROW_STRIDE,
    Operand,
    Stored,
    pack_block,
    pack_panels,
    panel_size,
)
from nanograd.kernels.cpu.support import INNER, INT_0, INT_1, SERIAL
from nanograd.kernels.cpu.threads import for_each

Shape: TypeAlias = tuple[int, int, int]  # M, K, N
Summand: TypeAlias = tuple[int, int, int]  # address, from row to row in float32 (0: the same row each time), 1 or 0
Place: TypeAlias = tuple[int, int, int]  # in an array of lanes: start, from row to row, from step to step
Part: TypeAlias = tuple[int, int, int, int]  # of out: from row, to row, from panel, to panel
Grid: TypeAlias = tuple[int, int]  # bands of rows, bands of columns: a part of out for each thread


@njit(**SERIAL)
def multiply_alone(
    a: Operand,
    b: Operand,
    packed: bool,
    panels: Array,
    blocks: Array,
    shape: Shape,
    grid: Grid,
    out: Stored,
    first: Summand,
    second: Summand,
) -> None:
    """out = A B + first + second on the calling thread: a parallel region costs as much as a small product."""
    parts = grid[0] * grid[1]
    if not packed:
        for share in range(parts):
            pack_panels(b, shape[1], shape[2], panels, share, parts)
    for part in range(parts):
        multiply_part(a, panels, blocks[part], shape, part_of(part, grid, shape), out, first, second)


@njit(**SERIAL)
def multiply_together(
    a: Operand,
    b: Operand,
    packed: bool,
    panels: Array,
    blocks: Array,
    shape: Shape,
    grid: Grid,
    out: Stored,
    first: Summand,
    second: Summand,
) -> None:
    """The same on all threads: each packs a share of B, then computes a part of out. No sum is divided."""
    parts = grid[0] * grid[1]
    if not packed:
        for_each(_pack_share, parts, (b, shape[1], shape[2], panels, parts))
    for_each(_multiply_share, parts, (a, panels, blocks, shape, grid, out, first, second))


@njit(**SERIAL)
def pack_together(b: Operand, K: int, N: int, panels: Array, shares: int) -> None:
    """B packed once, for several products."""
    for_each(_pack_share, shares, (b, K, N, panels, shares))


@njit(**INNER)
def _pack_share(share: int, b: Operand, K: int, N: int, panels: Array, shares: int) -> None:
    pack_panels(b, K, N, panels, share, shares)


@njit(**INNER)
def _multiply_share(
    part: int,
    a: Operand,
    panels: Array,
    blocks: Array,
    shape: Shape,
    grid: Grid,
    out: Stored,
    first: Summand,
    second: Summand,
) -> None:
    multiply_part(a, panels, blocks[part], shape, part_of(part, grid, shape), out, first, second)


@njit(**INNER)
def part_of(number: int, grid: Grid, shape: Shape) -> Part:
    """Where one part of the grid lies: whole tiles and whole panels."""
    i, j = number // grid[1], number % grid[1]
    tiles, panels = (shape[0] + TILE_ROWS - 1) // TILE_ROWS, (shape[2] + TILE_COLUMNS - 1) // TILE_COLUMNS
    first, last = tiles * i // grid[0] * TILE_ROWS, tiles * (i + 1) // grid[0] * TILE_ROWS
    return first, min(last, shape[0]), panels * j // grid[1], panels * (j + 1) // grid[1]


@njit(**INNER)
def multiply_part(
    a: Operand,
    panels: Array,
    block: Array,
    shape: Shape,
    part: Part,
    out: Stored,
    first: Summand,
    second: Summand,
) -> None:
    """One part of out: all blocks of k, and in each all blocks of rows. From the second k on, out is a summand."""
    ks = even(shape[1], BLOCK_STEPS * depth(panels), depth(panels))
    place = (INT_0, INT_1, COLUMN_STRIDE) if a[2] else (INT_0, ROW_STRIDE, INT_1)
    so_far, nothing = (out[0], out[1], INT_1), (out[0], out[1], INT_0)
    for k in range(0, shape[1], ks):
        for i in range(part[0], part[1], BLOCK_ROWS):
            rows, k_to = (i, min(i + BLOCK_ROWS, part[1])), min(k + ks, shape[1])
            pack_block(a, rows, (k, k_to), block)
            summands = (so_far, nothing) if k else (first, second)
            multiply_block(block, place, panels, shape, rows, (part[2], part[3]), (k, k_to), out, summands)


@njit(**INNER)
def multiply_block(
    block: Array,
    place: Place,
    panels: Array,
    shape: Shape,
    rows: tuple[int, int],
    strip: tuple[int, int],
    ks: tuple[int, int],
    out: Stored,
    summands: tuple[Summand, Summand],
) -> None:
    """One block of A with a strip of panels of B, tile by tile: a panel stays near while all tiles use it.

    block, place    lanes of A, in any layout; where rows[0] and ks[0] are, from row to row and from step to step
    """
    per_lane = depth(panels)
    steps, size = (ks[1] - ks[0] + per_lane - 1) // per_lane, panel_size(shape[1], per_lane)
    first, second = summands
    for panel in range(strip[0], strip[1]):
        n = panel * TILE_COLUMNS
        columns, b = min(TILE_COLUMNS, shape[2] - n), panel * size + ks[0] // per_lane * TILE_COLUMNS
        for i in range(rows[0], rows[1], TILE_ROWS):
            tile = (_at(out[0], out[1], i, n), out[1], min(TILE_ROWS, rows[1] - i), columns)
            first_tile = (_at(first[0], first[1], i, n), first[1], first[2])
            second_tile = (_at(second[0], second[1], i, n), second[1], second[2])
            a = (place[0] + (i - rows[0]) * place[1], place[1], place[2])
            multiply_tile(block, a, panels, b, steps, tile, first_tile, second_tile)


@njit(**INNER)
def multiply_lanes(a: Array, panels: Array, shape: Shape, part: Part, out: Stored, first: Summand) -> None:
    """One part of out = A B + first, where the rows of A are lanes already: read as they lie."""
    per_lane, stride = depth(panels), a.shape[1]
    ks = even(shape[1], BLOCK_STEPS * per_lane, per_lane)
    so_far, nothing = (out[0], out[1], INT_1), (out[0], out[1], INT_0)
    for k in range(0, shape[1], ks):
        for i in range(part[0], part[1], BLOCK_ROWS):
            rows, k_to = (i, min(i + BLOCK_ROWS, part[1])), min(k + ks, shape[1])
            place, summands = (i * stride + k // per_lane, stride, INT_1), (so_far if k else first, nothing)
            multiply_block(a.reshape(-1), place, panels, shape, rows, (part[2], part[3]), (k, k_to), out, summands)


@njit(**SERIAL)
def even(length: int, longest: int, unit: int) -> int:
    """The length, in whole units, of equal pieces that are not longer than `longest`."""
    pieces = (length + longest - 1) // longest
    return ((length + pieces - 1) // pieces + unit - 1) // unit * unit


@njit(**INNER)
def _at(start: int, row_length: int, i: int, n: int) -> int:
    """The address of element (i, n)."""
    return start + 4 * (i * row_length + n)
