"""Queries and keys of each head at one length, so that no attention score outgrows the others."""

from typing import Any

from nanograd.backend import Array, ArrayModule
from nanograd.ops.reduction import accumulator
from nanograd.primitive import Needs, Value, primitive


@primitive
def packed_head_norm(xp: ArrayModule, qkv: Array, *, n_heads: int, eps: float = 1e-5) -> Value:
    """y = x r, r = 1/√(⟨x²⟩ + ε) for each head x (D,) of queries and keys; values as they are.   qkv (B, T, 3C)

    Packed as in packed_attention. A score q·k/√D lies between −√D and √D then.   Henry et al. 2020, arXiv:2010.04245
    (there the length is 1 and a factor is learned); RMS and no factor as in Jordan et al. 2024, modded-nanogpt
    """
    heads = _heads(qkv, n_heads)
    x = heads[:, :, :2].astype(accumulator(qkv.dtype), copy=False)
    r = 1 / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    y = heads.copy()
    y[:, :, :2] = x * r
    return y.reshape(qkv.shape), (qkv, r)


@packed_head_norm.backward
def _(xp: ArrayModule, dy: Array, qkv: Array, r: Array, *, n_heads: int, eps: float = 1e-5, needs: Needs) -> Any:
    """dx = r (dy − n ⟨dy ⊙ n⟩),  n = x r"""
    n, dx = _heads(qkv, n_heads)[:, :, :2] * r, _heads(dy, n_heads).copy()
    slope = dx[:, :, :2]
    dx[:, :, :2] = r * (slope - n * (slope * n).mean(axis=-1, keepdims=True))
    return dx.reshape(qkv.shape)


def check_packed(qkv: Array, n_heads: int) -> None:
    """Raise ValueError unless qkv holds queries, keys and values of so many heads."""
    if qkv.ndim != 3 or n_heads < 1 or qkv.shape[-1] % (3 * n_heads):
        raise ValueError(f"qkv must be (B, T, 3 · n_heads · D), n_heads={n_heads}")


def _heads(qkv: Array, n_heads: int) -> Array:
    """(B, T, 3C) → (B, T, 3, H, D)"""
    check_packed(qkv, n_heads)
    B, T, width = qkv.shape
    return qkv.reshape(B, T, 3, n_heads, width // (3 * n_heads))
