"""Ids → bytes: the tokens' bytes copied behind each other, sixteen at a time.

Most tokens are shorter than that. What is copied too much is overwritten by the next token, so there is one load and
one store for a token and no loop over its bytes.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numba.core.cgutils
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pre_process.tokenizer.kernels.support import PADDING, kernel

_WIDTH = 16
_LENGTH_BITS = 31
_cgutils: Any = numba.core.cgutils


def _copy_16(typing_context: Any, to: Any, at: Any, source: Any, start: Any) -> Any:
    """to[at : at + 16] = source[start : start + 16], bytes at any addresses."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sixteen = ir.VectorType(ir.IntType(8), _WIDTH)
        target, origin = (
            builder.bitcast(
                builder.gep(
                    _cgutils.create_struct_proxy(signature.args[i])(context, builder, value=arguments[i]).data,
                    [arguments[i + 1]],
                    source_etype=ir.IntType(8),
                ),
                sixteen.as_pointer(),
            )
            for i in (0, 2)
        )
        builder.store(builder.load(origin, align=1, typ=sixteen), target, align=1)
        return context.get_dummy_value()

    return types.void(to, types.int64, source, types.int64), generate


copy_16: Any = intrinsic(_copy_16)  # for use inside kernels


def places(tokens: Sequence[bytes], silent: Collection[int]) -> np.ndarray:
    """Where each token lies when all are laid out: start · 2³¹ + length, (V,) int64; silent ones have no length."""
    lengths = np.array([len(token) for token in tokens], np.int64)
    starts = np.cumsum(lengths) - lengths
    lengths[list(silent)] = 0
    return starts << _LENGTH_BITS | lengths


@kernel
def decode(ids: np.ndarray, tokens: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The bytes of `ids` (n,) int32. `tokens`: their bytes behind each other, uint8, padded; `places`: see there."""
    size, mask = 0, (1 << _LENGTH_BITS) - 1
    for token_id in ids:
        size += places[token_id] & mask
    out = np.empty(size + PADDING, np.uint8)
    at = 0
    for token_id in ids:
        start, length = places[token_id] >> _LENGTH_BITS, places[token_id] & mask
        copy_16(out, at, tokens, start)
        for k in range(_WIDTH, length, _WIDTH):
            copy_16(out, at + k, tokens, start + k)
        at += length
    return out[:size]
