"""A small tile of a matrix product whose sums never leave the registers: the innermost loop of attention.

Each step of the depth loads one row of b (COLUMNS numbers, in one or two vectors) and, for each row of the tile, one
number of a, repeated over a whole vector: ROWS · COLUMNS multiply-adds for ROWS + COLUMNS numbers. In nested loops of
Python LLVM would keep the sums in memory, so the loop is written in LLVM's own words: vectors of 16 numbers, which it
splits where registers are shorter. Unlike the tile of micro_kernel.py this one runs on every processor, its sides are
powers of two as the lengths of sequences are, and it may read a's transpose in place.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from nanograd.backend import Array
from nanograd.kernels.cpu.avx512 import F32, FLOATS, I1, I64, LANES, broadcast, call, number
from nanograd.kernels.cpu.cpu_features import has_avx512
from nanograd.kernels.cpu.support import INNER, LINE, ZERO

# Not ints, each of which is a type of its own to Numba: what is called with one would be compiled once more.
ROWS: Any = np.int64(8 if has_avx512() else 4)
VECTORS = 2 if has_avx512() else 1  # sums take 16 of AVX-512's 32 registers, 8 of AVX2's 16
COLUMNS: Any = np.int64(LANES * VECTORS)


def _tile_product(
    typing_context: Any,
    c: Any,
    c_row: Any,
    c_column: Any,
    a: Any,
    a_row: Any,
    a_column: Any,
    b: Any,
    b_row: Any,
    b_column: Any,
    depth: Any,
    transposed: Any,
    add: Any,
) -> Any:
    """c[i, j] (+)= Σₖ a[i, k] b[k, j]  for ROWS × COLUMNS sums; on top of what c holds if `add`.

    Each array is C-contiguous float32 (rows, columns), and the tile begins at its row and column: i counts from c_row
    and a_row, and so on. `transposed` reads a[k, i] for a[i, k], which costs nothing. Nothing is checked: a wrong
    number reads, or worse writes, somebody else's memory.
    """
    matrix = [types.Array(types.float32, 2, "C"), types.intp, types.intp]
    signature = types.void(*matrix, *matrix, *matrix, types.intp, types.boolean, types.boolean)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        places = [_corner(context, builder, signature.args[i], *values[i : i + 3]) for i in (0, 3, 6)]
        (c, c_step), (a, a_step), (b, b_step) = places
        depth, transposed, add = values[9:]
        down, right = (builder.select(transposed, *pair) for pair in ((number(1), a_step), (a_step, number(1))))
        builder.call(_function(builder.module), [c, c_step, a, down, right, b, b_step, depth, add])
        return context.get_dummy_value()

    return signature, generate


tile_product: Any = intrinsic(_tile_product)


def _corner(context: Any, builder: ir.IRBuilder, kind: Any, matrix: Any, row: Any, column: Any) -> Any:
    """Where a tile begins, and how many numbers further its next row does."""
    array = context.make_array(kind)(context, builder, matrix)
    numbers_per_row = builder.extract_value(array.shape, 1)
    return builder.gep(array.data, [builder.add(builder.mul(row, numbers_per_row), column)]), numbers_per_row


def _function(module: ir.Module) -> ir.Function:
    """The loop as a function of its own: written once per compiled module, called from wherever it is used."""
    name = "nanograd_tile_product"
    if name in module.globals:
        return module.globals[name]
    pointer = F32.as_pointer()
    arguments = [pointer, I64, pointer, I64, I64, pointer, I64, I64, I1]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    _write_loop(function)
    return function


def _write_loop(function: ir.Function) -> None:
    c, c_row, a, a_down, a_right, b, b_row, depth, add = function.args
    start, fetch, check, step, end = map(function.append_basic_block, ("start", "fetch", "check", "step", "end"))
    builder = ir.IRBuilder(start)
    tile = [[_vector_at(builder, c, i, c_row, j) for j in range(VECTORS)] for i in range(ROWS)]
    builder.cbranch(add, fetch, check)
    builder.position_at_end(fetch)
    held = [[builder.load(place, align=4) for place in row] for row in tile]
    builder.branch(check)

    builder.position_at_end(check)
    k = _loop_variable(builder, I64, {start: number(0), fetch: number(0)})
    zero = ir.Constant(FLOATS, [0.0] * LANES)
    sums = [[_loop_variable(builder, FLOATS, {start: zero, fetch: value}) for value in row] for row in held]
    builder.cbranch(builder.icmp_signed("<", k, depth), step, end)

    builder.position_at_end(step)
    b_now, a_now = builder.gep(b, [builder.mul(k, b_row)]), builder.gep(a, [builder.mul(k, a_right)])
    right = [builder.load(_vector_at(builder, b_now, 0, b_row, j), align=4) for j in range(VECTORS)]
    for i, row in enumerate(sums):
        left = broadcast(builder, builder.load(builder.gep(a_now, [builder.mul(a_down, number(i))])))
        for j, total in enumerate(row):
            total.add_incoming(call(builder, "llvm.fmuladd.v16f32", FLOATS, left, right[j], total), step)
    k.add_incoming(builder.add(k, number(1)), step)
    builder.branch(check)

    builder.position_at_end(end)
    for places, totals in zip(tile, sums, strict=True):
        for place, total in zip(places, totals, strict=True):
            builder.store(total, place, align=4)
    builder.ret_void()


def _vector_at(builder: ir.IRBuilder, x: Any, i: int, row: Any, j: int) -> Any:
    """Where vector j of row i starts."""
    place = builder.add(builder.mul(row, number(i)), number(j * LANES))
    return builder.bitcast(builder.gep(x, [place]), FLOATS.as_pointer())


def _loop_variable(builder: ir.IRBuilder, kind: Any, first: dict[Any, Any]) -> Any:
    """A value that depends on where we come from; the caller adds what it is on the next round."""
    variable = builder.phi(kind)
    for block, value in first.items():
        variable.add_incoming(value, block)
    return variable


@njit(**INNER)
def round_up(n: int, step: int) -> int:
    """The smallest multiple of `step` that is not below n."""
    return (n + step - 1) // step * step


@njit(**INNER)
def aligned_matrix(rows: int, columns: int) -> Array:
    """An uninitialised matrix that begins on a cache line, so that whole vectors don't cross two of them."""
    memory = np.empty(rows * columns + LINE, np.float32)
    start = (-memory.ctypes.data & 63) // 4
    return memory[start : start + rows * columns].reshape(rows, columns)


@njit(**INNER)
def copy_rows(x: Array, column: int, D: int, factor: Any, out: Array) -> None:
    """out[t, d] = factor · x[t, column + d] for d < D, and 0 in the columns behind"""
    for t in range(len(x)):
        row, place = x[t, column : column + D], out[t]
        for d in range(D):
            place[d] = factor * row[d]
        place[D:] = ZERO


@njit(**INNER)
def copy_transposed(x: Array, column: int, D: int, out: Array) -> None:
    """Panels of COLUMNS rows, each lying on its side: out[panel · D + d, j] = x[panel · COLUMNS + j, column + d]"""
    for start in range(0, len(x), COLUMNS):
        panel, n = out[start // COLUMNS * D :], min(COLUMNS, len(x) - start)
        for j in range(n):
            row = x[start + j, column : column + D]
            for d in range(D):
                panel[d, j] = row[d]
        panel[:D, n:] = ZERO


@njit(**INNER)
def write_rows(x: Array, D: int, out: Array, column: int) -> None:
    """out[t, column + d] = x[t, d] for d < D"""
    for t in range(len(out)):
        row, place = x[t], out[t, column : column + D]
        for d in range(D):
            place[d] = row[d]
