"""Floor 5. How much arithmetic the matrix products inside an operation are, told by the shapes of its inputs.

A product of (M, K) and (K, N) is 2 M K N floating-point operations. Elementwise work is left out, as everywhere in the
field: it costs time by the bytes it moves. Of causal attention only the pairs that may see each other count, whatever
else a kernel computes on the way (masked halves of a tile, scores made a second time).
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from nanograd.backend import Array

Shape = tuple[int, ...]


def _linear(x: Shape, weight: Shape, *_: Any, **settings: Any) -> int:
    """x (…, in) times weight (out, in)"""
    return 2 * prod(x) * weight[0]


def _mlp(x: Shape, up: Shape, _: Any, down: Shape, *biases: Any, **settings: Any) -> int:
    """x (…, C) times up (F, C), or (2F, C), and what comes of that times down (C, F)"""
    return _linear(x, up) + _linear((*x[:-1], down[1]), down)


def _matmul(a: Shape, b: Shape) -> int:
    """(…, M, K) times (…, K, N), leading axes broadcast; a 1-D operand is a row (left) or a column (right)"""
    rows, columns = a if len(a) > 1 else (1, *a), b if len(b) > 1 else (*b, 1)
    return 2 * prod(np.broadcast_shapes(rows[:-2], columns[:-2])) * rows[-2] * rows[-1] * columns[-1]


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, causal: bool, **settings: Any) -> int:
    """q kᵀ and p v over the pairs that may see each other"""
    *leading, T, D = query
    return 2 * prod(leading) * _pairs(T, key[-2], causal) * (D + value[-1])


def _packed_attention(qkv: Shape, *_: Any, causal: bool, **settings: Any) -> int:
    """The same for (B, T, 3C): heads share C, so their number does not matter"""
    B, T, width = qkv
    return 2 * B * _pairs(T, T, causal) * 2 * (width // 3)


def _pairs(T: int, S: int, causal: bool) -> int:
    """Query t sees keys up to t + S − T."""
    return T * S - (T * (T - 1) // 2 if causal else 0)


_FORWARD: Mapping[str, Callable[..., int]] = {  # of the formula
    "linear": _linear,
    "linear_cross_entropy": _linear,
    "matmul": _matmul,
    "mlp": _mlp,
    "quantized_linear": _linear,
    "attention": _attention,
    "attention_weights": lambda query, key, *_, **settings: _attention(query, key, (0,), **settings),
    "packed_attention": _packed_attention,
}
_ALWAYS_TWICE = ("attention", "packed_attention")  # four products for the forward's two
_GRADIENTS_IN_FORWARD = ("linear_cross_entropy",)  # where its twin runs: see nanograd/kernels/cpu/loss.py


def forward_flops(name: str, arrays: list[Array], settings: dict[str, Any], *, twin: bool, recording: bool) -> int:
    """Of operation `name` on these inputs; 0 for one without products.

    twin       whether a twin ran, or the formula
    recording  whether a backward may follow: some twins prepare it in forward
    """
    if name not in _FORWARD:
        return 0
    once = _FORWARD[name](*[getattr(x, "shape", ()) for x in arrays], **settings)
    return 3 * once if twin and recording and name in _GRADIENTS_IN_FORWARD else once


def backward_flops(name: str, once: int, needs: tuple[bool, ...], *, twin: bool) -> int:
    """`once`: the FLOP of the formula's forward. A product has two gradients, and each costs what the product did."""
    if name in _ALWAYS_TWICE:
        return 2 * once
    if name in _GRADIENTS_IN_FORWARD:
        return 0 if twin else once + once * sum(needs[:2])  # the formula makes its logits a second time
    return once * sum(needs[:2])
