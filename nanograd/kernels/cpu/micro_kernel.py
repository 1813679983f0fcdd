"""The innermost tile of the matrix product: 12 × 32 sums that stay in registers, written as LLVM instructions.

    for each k:  b₀, b₁ = 32 columns of B          2 registers
                 for each of 12 rows i:  a = A[i, k] in every lane
                                         sum[i, 0] += a b₀,  sum[i, 1] += a b₁          24 registers
Of the 32 registers that is 26, and one for `a`, which costs no instruction: the product reads it from memory and
broadcasts it. 24 products for 14 loads keep both multipliers busy, and each sum is touched again only 24 products
later, when the previous one has long arrived. In bf16 a lane holds two k, and vdpbf16ps adds both products at once.
"""

from typing import Any

from llvmlite import ir

from nanograd.kernels.cpu import avx512
from nanograd.kernels.cpu.avx512 import F32, FLOATS, I32, LANES, PAIRS, Codegen, cgutils, instructions, number, types

TILE_ROWS, TILE_VECTORS = 12, 2
TILE_COLUMNS = TILE_VECTORS * LANES

Sums = list[list[ir.Value]]  # [row][vector] stack slots, which LLVM promotes to registers


@instructions
def multiply_tile(
    typing_context: Any, a: Any, a_place: Any, b: Any, b_place: Any, steps: Any, out: Any, first: Any, second: Any
) -> Codegen:
    """out tile = A B + first + second, summed over `steps` lanes of k.

    a, a_place       lanes of A; (start, from row to row, from step to step), in lanes
    b, b_place       lanes of B, TILE_COLUMNS to a step, 64-byte aligned; where they start
    out              (address, row length in float32, rows, columns): what lies outside of rows × columns is not touched
    first, second    (address, row length in float32, 1 or 0): another tile to add, and whether to
    """
    signature = types.void(a, a_place, b, b_place, steps, out, first, second)

    def write(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        a_lanes, a_place, b_lanes, b_place, steps, *tiles = arguments
        place = [builder.mul(x, number(4)) for x in cgutils.unpack_tuple(builder, a_place, 3)]
        a_start = builder.add(_data(context, builder, a, a_lanes), place[0])
        b_start = builder.add(_data(context, builder, b, b_lanes), builder.mul(b_place, number(4)))
        out, first, second = (cgutils.unpack_tuple(builder, tile) for tile in tiles)
        _fetch_ahead(builder, out)
        sums = _zeros(builder)
        with cgutils.for_range(builder, steps) as loop:
            a_step = builder.add(a_start, builder.mul(loop.index, place[2]))
            b_step = builder.add(b_start, builder.mul(loop.index, number(4 * TILE_COLUMNS)))
            _one_step(builder, sums, a_step, place[1], b_step, a.dtype == types.float32)
        masks = [avx512.first_lanes(builder, out[3], LANES * j) for j in range(TILE_VECTORS)]
        for summand in (first, second):
            _add(builder, sums, summand, out[2], masks)
        _write(builder, sums, out, out[2], masks)
        return context.get_dummy_value()

    return signature, write


def _data(context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value) -> ir.Value:
    """Where an array's elements begin, as an integer."""
    return builder.ptrtoint(context.make_array(array_type)(context, builder, array).data, avx512.I64)


def _fetch_ahead(builder: ir.IRBuilder, out: list[ir.Value]) -> None:
    """Call the result's cache lines in: they will be here when the sums are done."""
    start, row_length = out[0], out[1]
    for i in range(TILE_ROWS):
        for j in range(TILE_VECTORS):
            offset = builder.add(builder.mul(row_length, number(4 * i)), number(64 * j))
            pointer = avx512.address(builder, start, offset, ir.IntType(8))
            to_write, keep, data = (ir.Constant(I32, x) for x in (1, 3, 1))
            avx512.call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, to_write, keep, data)


def _zeros(builder: ir.IRBuilder) -> Sums:
    zero = ir.Constant(FLOATS, [0.0] * LANES)
    sums = [[cgutils.alloca_once(builder, FLOATS) for _ in range(TILE_VECTORS)] for _ in range(TILE_ROWS)]
    for slot in (slot for row in sums for slot in row):
        builder.store(zero, slot)
    return sums


def _one_step(
    builder: ir.IRBuilder, sums: Sums, a_step: ir.Value, a_row: ir.Value, b_step: ir.Value, float32: bool
) -> None:
    """sums += A[:, k] B[k, :] for one lane of k."""
    columns = [_load_lanes(builder, b_step, j, float32) for j in range(TILE_VECTORS)]
    at = a_step
    for i, row in enumerate(sums):
        at = builder.add(at, a_row) if i else at
        lanes = avx512.address(builder, at, number(0), F32 if float32 else I32)
        a = avx512.broadcast(builder, builder.load(lanes, align=4))
        for slot, b in zip(row, columns, strict=True):
            total = builder.load(slot)
            if float32:
                total = avx512.call(builder, "llvm.fma.v16f32", FLOATS, a, b, total)
            else:
                pairs = builder.bitcast(a, PAIRS)
                total = avx512.call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, total, pairs, b)
            builder.store(total, slot)


def _load_lanes(builder: ir.IRBuilder, b_step: ir.Value, j: int, float32: bool) -> ir.Value:
    return builder.load(avx512.address(builder, b_step, number(64 * j), FLOATS if float32 else PAIRS), align=64)


def _add(builder: ir.IRBuilder, sums: Sums, tile: list[ir.Value], rows: ir.Value, masks: list[ir.Value]) -> None:
    """sums += tile, if it is wanted. In place of a row that doesn't exist the first one is read: nobody will see it."""
    with builder.if_then(builder.icmp_signed("!=", tile[2], number(0))):
        for i, row in enumerate(sums):
            here = builder.select(builder.icmp_signed("<", number(i), rows), number(i), number(0))
            for j, slot in enumerate(row):
                summand = avx512.masked_load(builder, _corner(builder, tile, here, j), masks[j])
                builder.store(builder.fadd(builder.load(slot), summand), slot)


def _write(builder: ir.IRBuilder, sums: Sums, tile: list[ir.Value], rows: ir.Value, masks: list[ir.Value]) -> None:
    """tile = sums, where rows and columns exist: at the ragged edge the same instructions write less."""
    for i, row in enumerate(sums):
        with builder.if_then(builder.icmp_signed("<", number(i), rows)):
            for j, slot in enumerate(row):
                avx512.masked_store(builder, builder.load(slot), _corner(builder, tile, number(i), j), masks[j])


def _corner(builder: ir.IRBuilder, tile: list[ir.Value], i: ir.Value, j: int) -> ir.Value:
    """Pointer to vector j of row i."""
    offset = builder.add(builder.mul(builder.mul(tile[1], i), number(4)), number(64 * j))
    return avx512.address(builder, tile[0], offset, FLOATS)
