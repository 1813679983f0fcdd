"""Operands rearranged for the micro-kernel: read in any orientation, narrowed to bf16 on the way, ragged ends filled.

B becomes panels of 32 columns, [panel][step][column], so that the kernel reads straight on; a step is one lane of k.
A becomes a block of rows, [row][step], or [step][row] if it is stored transposed: the kernel's strides tell them apart.
Nothing is transposed in memory first. Where B has no more columns its panel holds zeros; where A has no more rows the
block keeps whatever was there, for those sums are never written out.
"""

from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba import njit
from numba.np.numpy_support import carray

from nanograd.backend import Array
from nanograd.kernels.cpu import avx512
from nanograd.kernels.cpu.avx512 import (
    FLOATS,
    I32,
    LANES,
    PAIRS,
    WORDS,
    Codegen,
    cgutils,
    depth,
    floats_at,
    instructions,
    number,
    put,
    types,
)
from nanograd.kernels.cpu.micro_kernel import TILE_COLUMNS
from nanograd.kernels.cpu.support import INNER, SERIAL

BLOCK_ROWS = 120  # 10 tiles: a block of A fills 500 KiB at most, half of the second-level cache
BLOCK_STEPS = 1024  # most products need one block of k: out is written once, and never read
ROW_STRIDE = np.int64(BLOCK_STEPS + 16)  # 65 cache lines: an odd number, so the rows of a tile lie in different sets
COLUMN_STRIDE = np.int64(BLOCK_ROWS + 24)  # 9 cache lines
BLOCK_SIZE = int(max(BLOCK_ROWS * ROW_STRIDE, BLOCK_STEPS * COLUMN_STRIDE))
_GROUP = 16  # steps of B packed for one panel after the other: few enough pages for the address cache

Stored: TypeAlias = tuple[int, int]  # a matrix in memory: its address, and from row to row in float32
Operand: TypeAlias = tuple[int, int, int]  # the same, and 1 if it is the transpose that is meant
Span: TypeAlias = tuple[int, int]  # from, to


@njit(**SERIAL)
def panel_size(K: int, per_lane: int) -> int:
    """Lanes in one panel of B: the steps, rounded up to whole squares of `turn_square`, times its columns."""
    steps = (K + per_lane - 1) // per_lane
    return (steps + LANES - 1) // LANES * LANES * TILE_COLUMNS


@njit(**INNER)
def pack_panels(b: Operand, K: int, N: int, panels: Array, share: int, shares: int) -> None:
    """One of so many equal shares of the work of packing B (K, N)."""
    stored = b[0], b[1]
    if b[2]:
        _turn(stored, K, N, panels, share, shares)
    else:
        _cut(stored, K, N, panels, share, shares)


@njit(**INNER)
def _turn(stored: Stored, K: int, N: int, panels: Array, share: int, shares: int) -> None:
    """Stored as (N, K): 16 rows at a time become 16 columns, in registers."""
    start, row_length = stored
    per_lane = depth(panels)
    size, strips = panel_size(K, per_lane), (N + TILE_COLUMNS - 1) // TILE_COLUMNS * (TILE_COLUMNS // LANES)
    for strip in range(strips * share // shares, strips * (share + 1) // shares):
        n = strip * LANES
        source, target = start + 4 * row_length * min(n, N), n // TILE_COLUMNS * size + n % TILE_COLUMNS
        for k in range(0, K, LANES * per_lane):
            square = (source + 4 * k, row_length, max(N - n, 0), K - k)
            turn_square(square, panels, target + k // per_lane * TILE_COLUMNS)


@njit(**INNER)
def _cut(stored: Stored, K: int, N: int, panels: Array, share: int, shares: int) -> None:
    """Stored as (K, N): a row, or in bf16 two rows joined, is cut into pieces, one for each panel."""
    start, row_length = stored
    per_lane = depth(panels)
    steps, size = (K + per_lane - 1) // per_lane, panel_size(K, per_lane)
    first, last = steps * share // shares, steps * (share + 1) // shares
    for group in range(first, last, _GROUP):
        for column in range(0, (N + TILE_COLUMNS - 1) // TILE_COLUMNS * TILE_COLUMNS, LANES):
            target = column // TILE_COLUMNS * size + column % TILE_COLUMNS
            for step in range(group, min(group + _GROUP, last)):
                k, n = step * per_lane, min(column, N)
                rows = (start + 4 * (k * row_length + n), row_length, K - k, N - n)
                join_rows(rows, panels, target + step * TILE_COLUMNS)


@njit(**INNER)
def pack_block(a: Operand, rows: Span, ks: Span, block: Array) -> None:
    """These rows and ks of A."""
    start, row_length, transposed = a
    if transposed:
        start += 4 * (ks[0] * row_length + rows[0])
        _join_all((start, row_length), ks[1] - ks[0], rows[1] - rows[0], block)
    else:
        start += 4 * (rows[0] * row_length + ks[0])
        _copy_all((start, row_length), rows[1] - rows[0], ks[1] - ks[0], block)


@njit(**INNER)
def _copy_all(stored: Stored, rows: int, ks: int, block: Array) -> None:
    """[row][step]: neighbours in k are neighbours already, so rows are copied (and narrowed) as they are."""
    start, row_length = stored
    per_lane = depth(block)
    for i in range(rows):
        row = carray(floats_at(start + 4 * row_length * i), (ks,))
        target = i * ROW_STRIDE * per_lane
        for k in range(ks):
            put(block, target + k, row[k])
        if ks % per_lane:
            put(block, target + ks, 0.0)


@njit(**INNER)
def _join_all(stored: Stored, ks: int, rows: int, block: Array) -> None:
    """[step][row]: one register after the other."""
    start, row_length = stored
    for k in range(0, ks, depth(block)):
        target = k // depth(block) * COLUMN_STRIDE
        for i in range(0, rows, LANES):
            join_rows((start + 4 * (row_length * k + i), row_length, ks - k, rows - i), block, target + i)


@instructions
def join_rows(typing_context: Any, source: Any, lanes: Any, target: Any) -> Codegen:
    """16 lanes from (address, row length, ks, columns): one row, or two joined. Zeros where ks or columns end."""
    signature = types.void(source, lanes, target)

    def write(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        place, array, target = arguments
        start, row_length, ks, columns = cgutils.unpack_tuple(builder, place, 4)
        joined = builder.bitcast(_load_row(builder, start, columns), WORDS)
        if lanes.dtype != types.float32:
            exists = builder.icmp_signed(">", ks, number(1))
            next_row = builder.add(start, builder.mul(row_length, builder.select(exists, number(4), number(0))))
            following = _load_row(builder, next_row, builder.select(exists, columns, number(0)))
            joined = avx512.pairs(builder, builder.bitcast(joined, FLOATS), following)
        _store(builder, joined, context.make_array(lanes)(context, builder, array).data, target)
        return context.get_dummy_value()

    return signature, write


@instructions
def interleave_rows(
    typing_context: Any, narrowed: Any, source: Any, row_length: Any, ks: Any, lanes: Any, target: Any
) -> Codegen:
    """16 lanes from 16 columns of a matrix that is narrowed already: one row of float32, or two of bf16."""
    signature = types.void(narrowed, types.int64, types.int64, types.int64, lanes, types.int64)

    def write(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        matrix, source, row_length, ks, array, target = arguments
        data = context.make_array(narrowed)(context, builder, matrix).data
        if lanes.dtype == types.float32:
            joined = builder.load(builder.bitcast(builder.gep(data, [source]), WORDS.as_pointer()), align=4)
        else:
            halves = builder.bitcast(data, avx512.I16.as_pointer())
            exists = builder.icmp_signed(">", ks, number(1))
            low = _load_halves(builder, halves, source)
            high = _load_halves(builder, halves, builder.add(source, builder.select(exists, row_length, number(0))))
            high = builder.shl(high, ir.Constant(WORDS, [16] * LANES))
            high = builder.select(exists, high, ir.Constant(WORDS, [0] * LANES))
            joined = builder.or_(low, high)
        _store(builder, joined, context.make_array(lanes)(context, builder, array).data, target)
        return context.get_dummy_value()

    return signature, write


def _load_halves(builder: ir.IRBuilder, data: ir.Value, index: ir.Value) -> ir.Value:
    """16 neighbours of 16 bits, as the lower halves of 16 lanes."""
    pointer = builder.bitcast(builder.gep(data, [index]), ir.VectorType(avx512.I16, LANES).as_pointer())
    return builder.zext(builder.load(pointer, align=2), WORDS)


@instructions
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
            square.append(
                _load_lanes(builder, row, builder.select(exists, ks, number(0)), panels.dtype == types.float32)
            )
        data = context.make_array(panels)(context, builder, array).data
        for step, column in enumerate(_turned(builder, square)):
            _store(builder, column, data, builder.add(target, number(step * TILE_COLUMNS)))
        return context.get_dummy_value()

    return signature, write


def _load_row(builder: ir.IRBuilder, start: ir.Value, count: ir.Value, first: int = 0) -> ir.Value:
    """Values first … first + 15 of the row at address `start`, zeros from `count` on."""
    pointer = avx512.address(builder, start, number(4 * first), FLOATS)
    return avx512.masked_load(builder, pointer, avx512.first_lanes(builder, count, first))


def _load_lanes(builder: ir.IRBuilder, start: ir.Value, ks: ir.Value, float32: bool) -> ir.Value:
    """The first `ks` values of the row at address `start`, and zeros, as 16 lanes."""
    low = _load_row(builder, start, ks)
    if float32:
        return builder.bitcast(low, WORDS)
    both = ir.Constant(ir.VectorType(I32, 2 * LANES), list(range(2 * LANES)))
    values = builder.shuffle_vector(low, _load_row(builder, start, ks, LANES), both)
    return builder.bitcast(builder.fptrunc(values, PAIRS), WORDS)


def _store(builder: ir.IRBuilder, register: ir.Value, data: ir.Value, index: ir.Value) -> None:
    builder.store(register, builder.bitcast(builder.gep(data, [index]), WORDS.as_pointer()), align=64)


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
