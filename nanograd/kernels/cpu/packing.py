"""Operands rearranged for the micro-kernel: read in any orientation, narrowed to bf16 on the way, ragged ends filled.

B becomes panels of 32 columns: [panel][step][column], so that the kernel reads straight on; k comes in steps of one lane.
A becomes a block of rows [row][step], or, if it is stored transposed, [step][row]: the kernel's two strides tell them
apart. Neither is ever transposed in memory first. Where an operand has no more columns its panel holds zeros; where a
block has no more rows, whatever was there stays: those sums are never written out.
"""

from typing import Any

from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from nanograd.kernels.cpu import avx512
from nanograd.kernels.cpu.avx512 import FLOATS, I32, LANES, PAIRS, WORDS, Codegen, depth, floats_at, lane, number, put
from nanograd.kernels.cpu.micro_kernel import TILE_COLUMNS

BLOCK_ROWS = 240  # 20 tiles; a block of A fills at most 380 KiB: it stays in the second-level cache
BLOCK_STEPS = 384  # a panel of B that deep fills 48 KiB: the first-level cache
ROW_STRIDE = BLOCK_STEPS + 16  # 25 cache lines: an odd number, so the rows of a tile lie in different cache sets
COLUMN_STRIDE = BLOCK_ROWS + 16
BLOCK_SIZE = max(BLOCK_ROWS * ROW_STRIDE, BLOCK_STEPS * COLUMN_STRIDE)
_GROUP = 16  # rows of B read in turns: they share no more pages than the address cache holds


@njit(cache=True, nogil=True)
def panel_size(k: int, k_per_lane: int) -> int:
    """Lanes in one panel of B: k in lanes, rounded up to whole transposed squares, times its columns."""
    steps = (k + k_per_lane - 1) // k_per_lane
    return (steps + LANES - 1) // LANES * LANES * TILE_COLUMNS


@njit(cache=True, nogil=True, error_model="numpy")
def pack_panels(matrix, transposed, panels, share, shares):  # type: ignore[no-untyped-def]
    """B, given as (address, row length, K, N), or its transpose (N × K in memory), into `panels`: one of equal shares."""
    if transposed:
        _pack_rows_of_transposed(matrix, panels, share, shares)
    else:
        _pack_columns(matrix, panels, share, shares)


@njit(cache=True, nogil=True, error_model="numpy")
def _pack_rows_of_transposed(matrix, panels, share, shares):  # type: ignore[no-untyped-def]
    """Rows of Bᵀ become columns: squares of 16 rows × 16 lanes, turned in registers."""
    start, row_length, K, N = matrix
    per_lane = depth(panels)
    size, n_panels = panel_size(K, per_lane), (N + TILE_COLUMNS - 1) // TILE_COLUMNS
    for panel in range(n_panels * share // shares, n_panels * (share + 1) // shares):
        for n in range(panel * TILE_COLUMNS, (panel + 1) * TILE_COLUMNS, LANES):
            rows = min(max(N - n, 0), LANES)
            source = start + 4 * row_length * min(n, N - 1)
            target = panel * size + n % TILE_COLUMNS
            for k in range(0, K, LANES * per_lane):
                turn_square((source + 4 * k, row_length, rows, K - k), panels, target + k // per_lane * TILE_COLUMNS)


@njit(cache=True, nogil=True, error_model="numpy")
def _pack_columns(matrix, panels, share, shares):  # type: ignore[no-untyped-def]
    """Row k of B (and k + 1, in bf16) is cut into pieces of 32 lanes, one for each panel."""
    start, row_length, K, N = matrix
    per_lane = depth(panels)
    steps, size, n_panels = (K + per_lane - 1) // per_lane, panel_size(K, per_lane), (N + TILE_COLUMNS - 1) // TILE_COLUMNS
    b = carray(floats_at(start), (K * row_length,))
    first, last = steps * share // shares, steps * (share + 1) // shares
    for group in range(first, last, _GROUP):
        for panel in range(n_panels):
            n, target = panel * TILE_COLUMNS, panel * size
            for step in range(group, min(group + _GROUP, last)):
                k = step * per_lane
                piece = panels[target + step * TILE_COLUMNS : target + (step + 1) * TILE_COLUMNS]
                _interleave(b, k * row_length + n, row_length * (per_lane - 1), k + per_lane <= K, N - n, piece)


@njit(cache=True, nogil=True, error_model="numpy")
def _interleave(x, start, to_next, has_next, count, piece):  # type: ignore[no-untyped-def]
    """piece[i] = lane of x[start + i] and, `to_next` further on, its neighbour in k; zeros from `count` on"""
    if count >= TILE_COLUMNS and has_next:
        for i in range(TILE_COLUMNS):
            piece[i] = lane(piece, x[start + i], x[start + to_next + i])
        return
    for i in range(TILE_COLUMNS):
        low = x[start + i] if i < count else 0.0
        high = x[start + to_next + i] if i < count and has_next else 0.0
        piece[i] = lane(piece, low, high)


@njit(cache=True, nogil=True, error_model="numpy")
def pack_block(matrix, transposed, rows, ks, block):  # type: ignore[no-untyped-def]
    """Rows (from, to) and k (from, to) of A into `block`. A is (address, row length, …), stored K × M if transposed."""
    start, row_length = matrix[0], matrix[1]
    if transposed:
        _copy_columns(start + 4 * (ks[0] * row_length + rows[0]), row_length, rows[1] - rows[0], ks[1] - ks[0], block)
    else:
        _copy_rows(start + 4 * (rows[0] * row_length + ks[0]), row_length, rows[1] - rows[0], ks[1] - ks[0], block)


@njit(cache=True, nogil=True, error_model="numpy")
def _copy_rows(start, row_length, rows, ks, block):  # type: ignore[no-untyped-def]
    """[row][step]: neighbours in k are neighbours already, so rows are copied (and narrowed) as they are"""
    per_lane = depth(block)
    for i in range(rows):
        source = carray(floats_at(start + 4 * row_length * i), (ks,))
        target = i * ROW_STRIDE * per_lane
        for k in range(ks):
            put(block, target + k, source[k])
        if ks % per_lane:
            put(block, target + ks, 0.0)


@njit(cache=True, nogil=True, error_model="numpy")
def _copy_columns(start, row_length, rows, ks, block):  # type: ignore[no-untyped-def]
    """[step][row]: two rows of the stored matrix interleave to one of bf16 pairs"""
    per_lane = depth(block)
    for k in range(0, ks, per_lane):
        source = carray(floats_at(start + 4 * row_length * k), (rows,))
        step = k // per_lane * COLUMN_STRIDE
        column = block[step : step + rows]
        if k + per_lane <= ks:
            following = carray(floats_at(start + 4 * row_length * (k + per_lane - 1)), (rows,))
            for i in range(rows):
                column[i] = lane(block, source[i], following[i])
        else:
            for i in range(rows):
                column[i] = lane(block, source[i], 0.0)


@intrinsic
def turn_square(typing_context: Any, source: Any, panels: Any, target: Any) -> Codegen:
    """16 rows × 16 lanes of (address, row length, rows, ks) → 16 steps of a panel. Zeros where rows or ks end."""
    signature = types.void(source, panels, target)

    def write(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        place, array, target = arguments
        start, row_length, rows, ks = cgutils.unpack_tuple(builder, place, 4)
        square = []
        for i in range(LANES):
            exists = builder.icmp_signed("<", number(i), rows)
            row = builder.add(start, builder.mul(row_length, builder.select(exists, number(4 * i), number(0))))
            square.append(_load_row(builder, row, builder.select(exists, ks, number(0)), panels.dtype == types.float32))
        data = context.make_array(panels)(context, builder, array).data
        for step, column in enumerate(_turned(builder, square)):
            index = builder.add(target, number(step * TILE_COLUMNS))
            builder.store(column, builder.bitcast(builder.gep(data, [index]), WORDS.as_pointer()), align=64)
        return context.get_dummy_value()

    return signature, write


def _load_row(builder: ir.IRBuilder, row: ir.Value, ks: ir.Value, float32: bool) -> ir.Value:
    """The first `ks` values at address `row`, and zeros, as 16 lanes."""
    low = avx512.masked_load(builder, avx512.address(builder, row, number(0), FLOATS), avx512.first_lanes(builder, ks))
    if float32:
        return builder.bitcast(low, WORDS)
    mask = avx512.first_lanes(builder, ks, LANES)
    high = avx512.masked_load(builder, avx512.address(builder, row, number(64), FLOATS), mask)
    both = builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, 2 * LANES), list(range(2 * LANES))))
    return builder.bitcast(builder.fptrunc(both, PAIRS), WORDS)


def _turned(builder: ir.IRBuilder, square: list[ir.Value]) -> list[ir.Value]:
    """The transpose of 16 registers of 16 lanes: swap the off-diagonal quarters, of squares of 2, 4, 8 and 16."""
    for half in (1, 2, 4, 8):
        upper = [lane if not lane & half else LANES + lane - half for lane in range(LANES)]
        lower = [lane + half if not lane & half else LANES + lane for lane in range(LANES)]
        for i in (i for i in range(LANES) if not i & half):
            a, b = square[i], square[i + half]
            square[i] = builder.shuffle_vector(a, b, ir.Constant(WORDS, upper))
            square[i + half] = builder.shuffle_vector(a, b, ir.Constant(WORDS, lower))
    return square
