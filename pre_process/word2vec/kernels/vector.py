"""Sixteen float32 numbers as one value, for kernels that say themselves what stays in registers.

Numba turns simple loops over scalars into vector code, but only after asking whether any two of the arrays overlap, and
a window has a dozen rows. A Vector is LLVM's <16 x float>: one register with AVX-512, two with AVX2, four with SSE or
NEON. Rows are padded to whole vectors (`padded`).
"""

from collections.abc import Callable
from typing import Any

import numba.core.cgutils
import numba.extending
from llvmlite import ir

LANES = 16

_types: Any = numba.types  # Numba's own names have no types
_cgutils: Any = numba.core.cgutils
_models: Any = numba.extending.models
_intrinsic: Any = numba.extending.intrinsic

_FLOAT, _INT, _BYTE = ir.FloatType(), ir.IntType(32), ir.IntType(8)
_LANES = ir.VectorType(_FLOAT, LANES)
_CONTRACT = ("contract",)  # a product and a sum may become one instruction, rounded once

Codegen = tuple[Any, Callable[..., Any]]


class _VectorType(_types.Type):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name="Vector")


@numba.extending.register_model(_VectorType)
class _VectorModel(_models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _LANES)


_vector = _VectorType()


def padded(size: int) -> int:
    """`size` rounded up to whole vectors."""
    return -(-size // LANES) * LANES


@_intrinsic
def load(typing_context: Any, array: Any, at: Any) -> Codegen:
    """array[at : at + 16]"""

    def write(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        return b.load(_pointer(context, b, signature, arguments), align=4)

    return _vector(array, _types.int64), write


@_intrinsic
def store(typing_context: Any, array: Any, at: Any, x: Any) -> Codegen:
    """array[at : at + 16] = x"""

    def write(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        b.store(arguments[2], _pointer(context, b, signature, arguments), align=4)
        return context.get_dummy_value()

    return _types.void(array, _types.int64, _vector), write


@_intrinsic
def fetch_line(typing_context: Any, array: Any, at: Any) -> Codegen:
    """Ask for the cache line of array[at], to be written, and don't wait for it."""

    def write(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        pointer = b.bitcast(_pointer(context, b, signature, arguments), _BYTE.as_pointer())
        to_write, keep, data = (ir.Constant(_INT, x) for x in (1, 3, 1))
        _call(b, "llvm.prefetch.p0", ir.VoidType(), pointer, to_write, keep, data)
        return context.get_dummy_value()

    return _types.void(array, _types.int64), write


@_intrinsic
def spread(typing_context: Any, x: Any) -> Codegen:
    """The float32 x in all lanes."""

    def write(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        nothing = ir.Constant(_LANES, ir.Undefined)
        first = b.insert_element(nothing, arguments[0], ir.Constant(_INT, 0))
        return b.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES))

    return _vector(_types.float32), write


@_intrinsic
def multiply_add(typing_context: Any, x: Any, y: Any, z: Any) -> Codegen:
    """x y + z"""

    def write(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        x, y, z = arguments
        return b.fadd(b.fmul(x, y, flags=_CONTRACT), z, flags=_CONTRACT)

    return _vector(_vector, _vector, _vector), write


@_intrinsic
def total(typing_context: Any, x: Any) -> Codegen:
    """The sum of the lanes: halves onto halves, four times."""

    def write(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        zero = ir.Constant(_FLOAT, -0.0)
        return _call(b, "llvm.vector.reduce.fadd.v16f32", _FLOAT, zero, arguments[0], fastmath=("reassoc",))

    return _types.float32(_vector), write


def _pointer(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
    """Where array[at] begins, for an array and a place as the first two arguments."""
    array = context.make_array(signature.args[0])(context, b, arguments[0])
    return b.bitcast(b.gep(array.data, [arguments[1]]), _LANES.as_pointer())


def _call(b: ir.IRBuilder, name: str, returns: ir.Type, *operands: ir.Value, fastmath: tuple[str, ...] = ()) -> Any:
    """One of LLVM's own functions."""
    function_type = ir.FunctionType(returns, [operand.type for operand in operands])
    return b.call(_cgutils.get_or_insert_function(b.module, function_type, name), operands, fastmath=fastmath)
