"""The blocked loops of the matrix product, on one thread or on all of them.

    for each block of k:                      a panel of B, that deep, fits the first-level cache
        for each block of rows of A:          packed now, into the second-level cache
            for each panel of B:              packed before, once, for everyone
                for each tile of 12 rows:     micro_kernel.py
Matrices are (address, row length, …) and not arrays: Numba would compile once more for each layout and for read-only.
Source: Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34 (3), 2008.
"""

from numba import njit, prange

from nanograd.kernels.cpu.avx512 import depth
from nanograd.kernels.cpu.micro_kernel import TILE_COLUMNS, TILE_ROWS, multiply_tile
from nanograd.kernels.cpu.packing import (
    BLOCK_ROWS,
    BLOCK_STEPS,
    COLUMN_STRIDE,
    ROW_STRIDE,
    pack_block,
    pack_panels,
    panel_size,
)


@njit(cache=True, nogil=True, error_model="numpy")
def _multiply_part(a, transposed, panels, block, part, shape, out, bias, residual):  # type: ignore[no-untyped-def]
    """The part (from row, to row, from panel, to panel) of the product, on one thread."""
    per_lane = depth(panels)
    M, K, N = shape
    i_from, i_to, p_from, p_to = part
    size, ks_in_block = panel_size(K, per_lane), BLOCK_STEPS * per_lane
    row, step = (1, COLUMN_STRIDE) if transposed else (ROW_STRIDE, 1)
    for k in range(0, K, ks_in_block):
        ks = min(ks_in_block, K - k)
        steps = (ks + per_lane - 1) // per_lane
        first, second = ((out[0], out[1], 1), (out[0], out[1], 0)) if k else (bias, residual)  # the sum so far
        for i in range(i_from, i_to, BLOCK_ROWS):
            rows = min(BLOCK_ROWS, i_to - i)
            pack_block(a, transposed, (i, i + rows), (k, k + ks), block)
            for p in range(p_from, p_to):
                columns = min(TILE_COLUMNS, N - p * TILE_COLUMNS)
                b_start = p * size + k // per_lane * TILE_COLUMNS
                for r in range(0, rows, TILE_ROWS):
                    multiply_tile(
                        block,
                        (r * row, row, step),
                        panels,
                        b_start,
                        steps,
                        (*_at(out, i + r, p), min(TILE_ROWS, rows - r), columns),
                        (*_at(first, i + r, p), first[2]),
                        (*_at(second, i + r, p), second[2]),
                    )


@njit(cache=True, nogil=True)
def _at(tile, i, panel):  # type: ignore[no-untyped-def]
    """Row i and a panel's first column in (address, row length, …): address and row length of what begins there."""
    return tile[0] + 4 * (i * tile[1] + panel * TILE_COLUMNS), tile[1]


@njit(cache=True, nogil=True)
def _part(number, grid, M, N):  # type: ignore[no-untyped-def]
    """Part `number` of out cut into grid = (bands of whole tiles, bands of whole panels)."""
    i, j = number // grid[1], number % grid[1]
    tiles, panels = (M + TILE_ROWS - 1) // TILE_ROWS, (N + TILE_COLUMNS - 1) // TILE_COLUMNS
    rows_to = min(M, tiles * (i + 1) // grid[0] * TILE_ROWS)
    return tiles * i // grid[0] * TILE_ROWS, rows_to, panels * j // grid[1], panels * (j + 1) // grid[1]


@njit(cache=True, nogil=True)
def multiply_alone(a, ta, b, tb, packed, panels, blocks, grid, shape, out, bias, residual):  # type: ignore[no-untyped-def]
    """On the calling thread: a parallel region costs as much as a small product."""
    if not packed:
        pack_panels(b, tb, panels, 0, 1)
    part = _part(0, grid, shape[0], shape[2])
    _multiply_part(a, ta, panels, blocks[0], part, shape, out, bias, residual)


@njit(cache=True, nogil=True, parallel=True)
def multiply_together(a, ta, b, tb, packed, panels, blocks, grid, shape, out, bias, residual):  # type: ignore[no-untyped-def]
    """On all threads: each packs a share of B, then computes its part of out. No sum is cut: no thread count shows."""
    parts = grid[0] * grid[1]
    if not packed:
        for share in prange(parts):
            pack_panels(b, tb, panels, share, parts)
    for number in prange(parts):
        part = _part(number, grid, shape[0], shape[2])
        _multiply_part(a, ta, panels, blocks[number], part, shape, out, bias, residual)


@njit(cache=True, nogil=True, parallel=True)
def pack_together(b, tb, panels, shares):  # type: ignore[no-untyped-def]
    for share in prange(shares):
        pack_panels(b, tb, panels, share, shares)
