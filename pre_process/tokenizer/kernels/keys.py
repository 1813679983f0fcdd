"""A piece as two 64-bit numbers, by which tables find it.

    shorter than 16 bytes   low  = bytes 0 … 7              high = bytes 8 … 14, and the length on top
                            the two numbers are the piece: equal keys are equal pieces, no byte is compared
    16 bytes or more        low  = a hash of all bytes       high = 255 on top, and the length
                            equal keys are probably equal pieces: `same_bytes` decides

Bytes are fetched eight at a time, so a text needs PADDING readable bytes at its end.
"""

from typing import Any

import numba.core.cgutils
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pre_process.tokenizer.kernels.support import lean

INLINE_BYTES = 15  # as many fit into the key itself
LONG = np.uint64(0xFF << 56)  # the mark of a key that is a hash
_cgutils: Any = numba.core.cgutils
_U64 = np.uint64
_ODD_1, _ODD_2 = _U64(0x9E3779B97F4A7C15), _U64(0xD6E8FEB86659FD93)  # multipliers that mix well: 2⁶⁴/φ; xmx


def _load64(typing_context: Any, text: Any, at: Any) -> Any:
    """The eight bytes text[at : at + 8] as one number, the first byte lowest; at any address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = _cgutils.create_struct_proxy(signature.args[0])(context, builder, value=arguments[0])
        address = builder.gep(array.data, [arguments[1]], source_etype=ir.IntType(8))
        return builder.load(builder.bitcast(address, ir.IntType(64).as_pointer()), align=1, typ=ir.IntType(64))

    return types.uint64(text, types.int64), generate


load64: Any = intrinsic(_load64)  # for use inside kernels


@lean
def piece_key(text: np.ndarray, at: int, size: int) -> tuple[np.uint64, np.uint64]:
    """(low, high) of text[at : at + size], size ≥ 1."""
    if size > INLINE_BYTES:
        return _hash_bytes(text, at, size), LONG | _U64(size)
    low = load64(text, at)
    if size < 8:
        return low & _low_bytes(size), _U64(size) << _U64(56)
    return low, load64(text, at + 8) & _low_bytes(size - 8) | _U64(size) << _U64(56)


@lean
def key_hash(low: np.uint64, high: np.uint64) -> np.int64:
    """Where to look for a key: a number of 44 bits, ≥ 0."""
    mixed = (low ^ high * _ODD_1) * _ODD_2
    mixed ^= mixed >> _U64(32)
    return np.int64(mixed * _ODD_1 >> _U64(20))


@lean
def same_bytes(text: np.ndarray, at: int, other_text: np.ndarray, other: int, size: int) -> bool:
    """text[at : at + size] == other_text[other : other + size]"""
    whole = size & ~7
    for i in range(0, whole, 8):
        if load64(text, at + i) != load64(other_text, other + i):
            return False
    return (load64(text, at + whole) ^ load64(other_text, other + whole)) & _low_bytes(size - whole) == 0


@lean
def _hash_bytes(text: np.ndarray, at: int, size: int) -> np.uint64:
    mixed = _U64(size) * _ODD_1
    whole = size & ~7
    for i in range(0, whole, 8):
        mixed = (mixed ^ load64(text, at + i)) * _ODD_2
        mixed ^= mixed >> _U64(29)
    mixed = (mixed ^ load64(text, at + whole) & _low_bytes(size - whole)) * _ODD_2
    return mixed ^ mixed >> _U64(29)


@lean
def _low_bytes(count: int) -> np.uint64:
    """A mask of the lowest `count` < 8 bytes."""
    return (_U64(1) << _U64(8 * count)) - _U64(1)
