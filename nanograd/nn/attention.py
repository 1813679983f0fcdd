"""Floor 4. Attention: one head spelled out as in the paper, and all heads at once.

Letters: B sequences, T positions, C = d_model, H heads, D = C/H. Masks are boolean, True = may be attended.
Source: Vaswani et al., "Attention is all you need", 2017, §3.2.
"""

import math
from typing import Any

import numpy as np

from nanograd import backend, ops
from nanograd.backend import Array
from nanograd.nn.layers import Linear
from nanograd.nn.module import Module
from nanograd.nn.positions import token_positions
from nanograd.random import DropoutKeys
from nanograd.tensor import Tensor, no_grad
from pre_process.encode_position import Scaling
from pre_process.encode_position.rotary import Layout


class AttentionHead(Module):
    """One head, to be read beside equation (1): softmax(Q Kᵀ / √D) V.   (B, T, C) → (B, T, D)

    For learning and for tests; MultiHeadAttention computes the same for all heads in one operation.
    """

    def __init__(
        self, d_model: int, d_head: int, *, rng: np.random.Generator, bias: bool = True, std: float = 0.02
    ) -> None:
        self.query = Linear(d_model, d_head, rng=rng, bias=bias, std=std)
        self.key = Linear(d_model, d_head, rng=rng, bias=bias, std=std)
        self.value = Linear(d_model, d_head, rng=rng, bias=bias, std=std)

    def forward(self, x: Tensor, padding_mask: Array | None = None, starts: Array | None = None) -> Tensor:
        query, key, value = self.query(x), self.key(x), self.value(x)  # each (B, T, D)
        scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1])  # (B, T, T): row = query, column = key
        allowed = allowed_pairs(x.data, padding_mask, starts)  # (T, T) or (B, T, T)
        weights = ops.softmax(ops.where(allowed, scores, -math.inf), axis=-1)  # a row of −∞ gives zeros
        return weights @ value


def allowed_pairs(x: Array, padding_mask: Array | None = None, starts: Array | None = None) -> Array:
    """Which query (row) may look at which key (column): the past of its document and itself, and no padding.

    x             (B, T, …) says how long and on which device
    padding_mask  (B, T), True = real token → (B, T, T); without one, and without starts, (T, T)
    starts        (B, T), where each query's document begins: see positions.document_starts
    """
    xp, T = backend.array_module(x), x.shape[1]
    allowed = xp.tri(T, dtype=bool)
    if padding_mask is not None:
        allowed = allowed & padding_mask[:, None, :]
    return allowed if starts is None else allowed & (xp.arange(T) >= starts[:, :, None])


class MultiHeadAttention(Module):
    """H heads side by side, look-ahead mask included.   (B, T, C) → (B, T, C)

    qkv          (3C, C): the rows of all queries, then of all keys, then of all values; head h owns D rows of each
    out          (C, C), mixes the heads; `out_std` is its standard deviation (None: `std`)
    dropout      share of the attention weights that is zeroed in training
    rotary_base  queries and keys are turned by their positions (ops/rotary.py), in this layout; None: they are not
    rotary_scaling  for contexts longer than trained. "dynamic" goes by the longest text of the batch
    qk_norm      queries and keys of each head are brought to one length, before they are turned (ops/head_norm.py)
    slopes       one for each head: scores fall with distance (ALiBi); None: they do not
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        rng: np.random.Generator,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        keys: DropoutKeys | None = None,
        std: float = 0.02,
        out_std: float | None = None,
        rotary_base: float | None = None,
        rotary_layout: Layout = "halves",
        rotary_scaling: Scaling | None = None,
        qk_norm: bool = False,
        slopes: tuple[float, ...] | None = None,
    ) -> None:
        if n_heads < 1 or d_model % n_heads:
            raise ValueError(f"MultiHeadAttention: d_model {d_model} is not divisible by n_heads {n_heads}")
        if rotary_base is not None and d_model // n_heads % 2:
            raise ValueError(f"MultiHeadAttention: a head of width {d_model // n_heads} can't be cut into rotary pairs")
        if dropout and keys is None:
            raise ValueError("MultiHeadAttention: dropout needs keys=DropoutKeys(seed)")
        if slopes is not None and len(slopes) != n_heads:
            raise ValueError(f"MultiHeadAttention: {len(slopes)} slopes for {n_heads} heads")
        self.n_heads, self.dropout, self.keys, self.slopes = n_heads, dropout, keys, slopes
        self.qk_norm = qk_norm
        self.rotary_base, self.rotary_layout, self.rotary_scaling = rotary_base, rotary_layout, rotary_scaling
        self.qkv = Linear(d_model, 3 * d_model, rng=rng, bias=qkv_bias, std=std)
        self.out = Linear(d_model, d_model, rng=rng, std=std if out_std is None else out_std)

    def forward(
        self,
        x: Tensor,
        padding_mask: Array | None = None,
        starts: Array | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """starts (B, T) says where each token's document begins; residual (B, T, C) is added to the result."""
        qkv, mask = self._queries_keys_values(x, padding_mask, starts), _for_all_queries(padding_mask)
        mixed = ops.packed_attention(qkv, mask, starts, **self._settings())
        return self.out(mixed, residual)

    def _queries_keys_values(self, x: Tensor, padding_mask: Array | None, starts: Array | None) -> Tensor:
        """(B, T, C) → (B, T, 3C)"""
        qkv = self.qkv(x)
        if self.qk_norm:
            qkv = ops.packed_head_norm(qkv, n_heads=self.n_heads)
        if self.rotary_base is None:
            return qkv
        positions = token_positions(x.data, padding_mask, starts)
        scaling = self.rotary_scaling
        if scaling is not None and scaling.kind == "dynamic":
            scaling = scaling.at(int(positions.max()) + 1)
        return ops.packed_rotary(
            qkv,
            positions,
            n_heads=self.n_heads,
            base=self.rotary_base,
            layout=self.rotary_layout,
            scaling=scaling,
        )

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"n_heads": self.n_heads, "causal": True}
        if self.slopes is not None:
            settings["slopes"] = self.slopes
        if self.training and self.dropout and self.keys:
            settings |= {"dropout": self.dropout, "dropout_key": self.keys.next()}
        return settings

    @no_grad()
    def attention_weights(self, x: Tensor, padding_mask: Array | None = None, starts: Array | None = None) -> Array:
        """(B, H, T, T): row t says how much position t takes from each earlier one. For pictures; no gradient."""
        B, T, C = x.shape
        packed = self._queries_keys_values(x, padding_mask, starts).reshape(B, T, 3, self.n_heads, C // self.n_heads)
        query, key = (packed[:, :, i].swapaxes(1, 2) for i in range(2))  # each (B, H, T, D)
        starts = None if starts is None else starts[:, None]  # (B, 1, T)
        return ops.attention_weights(
            query, key, _for_all_queries(padding_mask), starts, causal=True, slopes=self.slopes
        ).data


def _for_all_queries(padding_mask: Array | None) -> Array | None:
    """(B, T) → (B, 1, 1, T), which broadcasts over heads and queries."""
    return None if padding_mask is None else padding_mask[:, None, None, :]
