"""A vocabulary for AVX-512 in LLVM: a register of 16 lanes, masks for the ragged edge, two bf16 values in one lane.

Numba turns loops over scalars into vector code, but it has no name for a register. The micro-kernel and the transposing
pack need to say "this register", so they are written as LLVM instructions, and this file holds their words.
Operands packed for the product are arrays of 32-bit *lanes*: a float32, or (dtype uint32) a pair of bf16 values that
are neighbours in the summed index k. Everything here looks at the dtype and does the right one of the two.
"""

from collections.abc import Callable
from typing import Any

import numba.core.cgutils
import numba.extending
from llvmlite import ir

types: Any = numba.types  # Numba's own names have no types
cgutils: Any = numba.core.cgutils
# Decorator of functions for compiled code: they get Numba types and return a signature and a writer of instructions.
instructions: Any = numba.extending.intrinsic

LANES = 16  # 32-bit lanes in a register


class _BFloat16(ir.Type):  # type: ignore[misc]
    """The type that llvmlite forgot: the upper half of a float32."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat16)

    def __hash__(self) -> int:
        return hash("bfloat")


I1, I16, I32, I64, F32, BF16 = (
    ir.IntType(1),
    ir.IntType(16),
    ir.IntType(32),
    ir.IntType(64),
    ir.FloatType(),
    _BFloat16(),
)
FLOATS, WORDS, PAIRS = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES), ir.VectorType(BF16, 2 * LANES)
MASK = ir.VectorType(I1, LANES)


def number(value: int) -> ir.Constant:
    """A 64-bit constant: an address, a distance in bytes."""
    return ir.Constant(I64, value)


def call(builder: ir.IRBuilder, name: str, returns: ir.Type, *operands: ir.Value) -> ir.Value:
    """One of LLVM's own functions; most of them become a single instruction."""
    function_type = ir.FunctionType(returns, [operand.type for operand in operands])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), operands)


def address(builder: ir.IRBuilder, base: ir.Value, offset: ir.Value, element: ir.Type) -> ir.Value:
    """Pointer to `element` at base + offset bytes; `base` is a 64-bit integer."""
    return builder.inttoptr(builder.add(base, offset), element.as_pointer())


def broadcast(builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
    """The same number in all 16 lanes."""
    vector = ir.VectorType(scalar.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), ir.Constant(WORDS, [0] * LANES))


def first_lanes(builder: ir.IRBuilder, count: ir.Value, start: int = 0) -> ir.Value:
    """The mask of lanes i with start + i < count (a 64-bit integer)."""
    lanes = ir.Constant(WORDS, [start + i for i in range(LANES)])
    return builder.icmp_signed("<", lanes, broadcast(builder, builder.trunc(count, I32)))


def masked_load(builder: ir.IRBuilder, pointer: ir.Value, mask: ir.Value) -> ir.Value:
    """16 float32, zero where the mask is off: memory behind a lane that is off is not touched and need not exist."""
    zero = ir.Constant(FLOATS, [0.0] * LANES)
    return call(builder, "llvm.masked.load.v16f32.p0", FLOATS, pointer, ir.Constant(I32, 4), mask, zero)


def masked_store(builder: ir.IRBuilder, value: ir.Value, pointer: ir.Value, mask: ir.Value) -> None:
    """Write the lanes whose mask is on."""
    call(builder, "llvm.masked.store.v16f32.p0", ir.VoidType(), value, pointer, ir.Constant(I32, 4), mask)


def pairs(builder: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    """16 lanes of bf16 pairs (lowᵢ, highᵢ) from two registers of float32."""
    halves = ir.VectorType(BF16, LANES), ir.VectorType(I16, LANES)
    low, high = (builder.zext(builder.bitcast(builder.fptrunc(x, halves[0]), halves[1]), WORDS) for x in (low, high))
    return builder.or_(low, builder.shl(high, ir.Constant(WORDS, [16] * LANES)))


Codegen = tuple[Any, Callable[..., Any]]


@instructions
def floats_at(typing_context: Any, number: Any) -> Codegen:
    """An address as a pointer to float32."""
    signature = types.CPointer(types.float32)(types.intp)

    def write(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        return builder.inttoptr(arguments[0], F32.as_pointer())

    return signature, write


@instructions
def depth(typing_context: Any, lanes: Any) -> Codegen:
    """How many k one lane of this array holds: 1 float32 or 2 bf16."""
    signature = types.int64(lanes)

    def write(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        return number(1 if lanes.dtype == types.float32 else 2)

    return signature, write


@instructions
def put(typing_context: Any, lanes: Any, index: Any, x: Any) -> Codegen:
    """Value number `index` of this array becomes x: a float32, or the nearest bf16, of which a lane holds two."""
    signature = types.void(lanes, types.int64, types.float32)

    def write(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        array, index, x = arguments
        narrowed = x if lanes.dtype == types.float32 else builder.bitcast(builder.fptrunc(x, BF16), I16)
        values = builder.bitcast(context.make_array(lanes)(context, builder, array).data, narrowed.type.as_pointer())
        builder.store(narrowed, builder.gep(values, [index]))
        return context.get_dummy_value()

    return signature, write


@instructions
def get(typing_context: Any, lanes: Any, index: Any) -> Codegen:
    """Value number `index` of this array as a float32."""
    signature = types.float32(lanes, types.int64)

    def write(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        array, index = arguments
        element = F32 if lanes.dtype == types.float32 else BF16
        values = builder.bitcast(context.make_array(lanes)(context, builder, array).data, element.as_pointer())
        value = builder.load(builder.gep(values, [index]))
        return value if lanes.dtype == types.float32 else builder.fpext(value, F32)

    return signature, write
