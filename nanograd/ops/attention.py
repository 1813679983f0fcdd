"""Scaled dot-product attention, on separate or packed queries, keys and values.   Vaswani et al. 2017, arXiv:1706.03762

Letters: (…) any leading axes, in a model (B, H);  T queries,  S keys,  D = width of a head.
mask    boolean, broadcastable to (…, T, S), True = may attend; None = everywhere. A padding mask (B, S) is given
        as mask[:, None, None, :].
starts  integers that broadcast to (…, T), packed: (B, T); None = 0. Query t sees no key before starts[…, t]: where
        documents lie one after the other in a row, starts is where the query's document begins.
causal  query t sees keys up to t + S − T: the last query sees all of them, as when S − T keys are cached.
slopes  H numbers, for causal attention: scores of head h lose slopes[h] for each step that the key lies behind the
        query (ALiBi: Press et al. 2022, arXiv:2108.12409).
window  how many keys, from the last one that it may see backwards, a causal query sees; None = all of them.
A query that may attend to nothing returns zeros and passes no gradient.
"""

import functools
import math
from typing import Any, TypeAlias

from nanograd.backend import Array, ArrayModule
from nanograd.ops.dropout import Key, drop, kept
from nanograd.ops.reduction import finite_max
from nanograd.primitive import Needs, Value, primitive

Slopes: TypeAlias = tuple[float, ...] | None


@primitive
def attention(
    xp: ArrayModule,
    query: Array,
    key: Array,
    value: Array,
    mask: Array = None,
    starts: Array = None,
    *,
    causal: bool,
    dropout: float = 0.0,
    dropout_key: Key | None = None,
    scale: float | None = None,
    slopes: Slopes = None,
    window: int | None = None,
) -> Value:
    """y = drop(softmax(s q kᵀ + bias)) v,  s = 1/√D.   query (…, T, D), key and value (…, S, D) → (…, T, D)

    Grouped heads: for query (…, H, T, D), key and value may have fewer heads, (…, G, S, D) with G a divisor of H. Each
    then serves the H/G query heads that stand at its place (Ainslie et al. 2023, arXiv:2305.13245).
    """
    if key.shape[:-1] != value.shape[:-1]:
        raise ValueError("key and value must agree in all axes but the last")
    p = _weights(xp, query, key, mask, starts, causal, scale, slopes, window)
    y = xp.matmul(drop(p, kept(xp, p.shape, dropout, dropout_key), dropout), _for_all_heads(xp, value, query))
    return y, (query, key, value, p, y)


@attention.backward
def _(
    xp: ArrayModule,
    dy: Array,
    query: Array,
    key: Array,
    value: Array,
    p: Array,
    y: Array,
    *,
    causal: bool,
    dropout: float = 0.0,
    dropout_key: Key | None = None,
    scale: float | None = None,
    slopes: Slopes = None,
    window: int | None = None,
    needs: Needs,
) -> Any:
    keep = kept(xp, p.shape, dropout, dropout_key)
    k, v = _for_all_heads(xp, key, query), _for_all_heads(xp, value, query)
    dq, dk, dv = _pullback(xp, dy, query, k, v, p, y, keep, dropout, scale)
    return dq, _sum_of_groups(dk, key), _sum_of_groups(dv, value), *_none_for(needs[3:])


@primitive
def packed_attention(
    xp: ArrayModule,
    qkv: Array,
    mask: Array = None,
    starts: Array = None,
    *,
    n_heads: int,
    causal: bool,
    dropout: float = 0.0,
    dropout_key: Key | None = None,
    scale: float | None = None,
    slopes: Slopes = None,
    window: int | None = None,
) -> Value:
    """Self-attention of H heads.   qkv (B, T, 3C), C = H · D: queries, keys, values, each head by head → (B, T, C)"""
    if qkv.ndim != 3 or n_heads < 1 or qkv.shape[-1] % (3 * n_heads):
        raise ValueError(f"qkv must be (B, T, 3 · n_heads · D), n_heads={n_heads}")
    q, k, v = _heads(qkv, 3, n_heads)
    starts = None if starts is None else starts[..., None, :]  # (B, 1, T): the same for all heads
    p = _weights(xp, q, k, mask, starts, causal, scale, slopes, window)
    y = xp.empty((*qkv.shape[:2], qkv.shape[2] // 3), qkv.dtype)
    _heads(y, 1, n_heads)[0][...] = xp.matmul(drop(p, kept(xp, p.shape, dropout, dropout_key), dropout), v)
    return y, (qkv, p, y)


@packed_attention.backward
def _(
    xp: ArrayModule,
    dy: Array,
    qkv: Array,
    p: Array,
    y: Array,
    *,
    n_heads: int,
    causal: bool,
    dropout: float = 0.0,
    dropout_key: Key | None = None,
    scale: float | None = None,
    slopes: Slopes = None,
    window: int | None = None,
    needs: Needs,
) -> Any:
    dqkv = xp.empty(qkv.shape, qkv.dtype)
    keep = kept(xp, p.shape, dropout, dropout_key)
    (dy,), (y,), (q, k, v) = _heads(dy, 1, n_heads), _heads(y, 1, n_heads), _heads(qkv, 3, n_heads)
    gradients = _pullback(xp, dy, q, k, v, p, y, keep, dropout, scale)
    for part, gradient in zip(_heads(dqkv, 3, n_heads), gradients, strict=True):
        part[...] = gradient
    return dqkv, *_none_for(needs[1:])


@primitive
def attention_weights(
    xp: ArrayModule,
    query: Array,
    key: Array,
    mask: Array = None,
    starts: Array = None,
    *,
    causal: bool,
    scale: float | None = None,
    slopes: Slopes = None,
    window: int | None = None,
) -> Value:
    """p = softmax(s q kᵀ + bias), (…, T, S): who looks at whom, for pictures. No gradient passes through it."""
    return _weights(xp, query, key, mask, starts, causal, scale, slopes, window), ()


def _weights(
    xp: ArrayModule,
    q: Array,
    k: Array,
    mask: Array,
    starts: Array,
    causal: bool,
    scale: float | None,
    slopes: Slopes,
    window: int | None,
) -> Array:
    """p = softmax(s q kᵀ + bias) over the keys that may be seen, computed in one buffer"""
    k = _for_all_heads(xp, k, q)
    if q.ndim < 2 or q.shape[:-2] != k.shape[:-2] or q.shape[-1] != k.shape[-1]:
        raise ValueError("query (…, T, D) needs key (…, S, D), or one with fewer heads that divide the query's")
    p = xp.matmul(q, k.swapaxes(-1, -2))  # (…, T, S)
    p *= _scale(q, scale)
    if slopes is not None:
        check_slopes(slopes, p.shape, causal)
        _subtract_distances(xp, p, slopes)
    visible = _visible(xp, p.shape, mask, starts, causal, window)
    if visible is not None:
        xp.copyto(p, -math.inf, where=~visible)
    p -= finite_max(xp, p, -1)
    xp.exp(p, out=p)
    total = p.sum(axis=-1, keepdims=True)
    p /= total + (total == 0)  # a row that may see nothing: 0 / 1
    return p


def _pullback(
    xp: ArrayModule,
    dy: Array,
    q: Array,
    k: Array,
    v: Array,
    p: Array,
    y: Array,
    keep: Array | None,
    dropout: float,
    scale: float | None,
) -> tuple[Array, Array, Array]:
    """dv = drop(p)ᵀ dy,  dp = drop(dy vᵀ),  ds = s p ⊙ (dp − Σ dp ⊙ p),  dq = ds k,  dk = dsᵀ q

    Σ dp ⊙ p over the keys is Σ dy ⊙ y over the width of the head, which is shorter (FlashAttention, arXiv:2205.14135).
    """
    dv = xp.matmul(drop(p, keep, dropout).swapaxes(-1, -2), dy)
    ds = drop(xp.matmul(dy, v.swapaxes(-1, -2)), keep, dropout)
    ds -= xp.einsum("...td,...td->...t", dy, y)[..., None]
    ds *= p
    ds *= _scale(q, scale)
    return xp.matmul(ds, k), xp.matmul(ds.swapaxes(-1, -2), q), dv


def _for_all_heads(xp: ArrayModule, x: Array, q: Array) -> Array:
    """Keys or values (…, G, S, D), each repeated for the heads of q (…, H, T, D) that share it: (…, H, S, D)"""
    if min(x.ndim, q.ndim) < 3 or x.shape[-3] in (0, q.shape[-3]) or q.shape[-3] % x.shape[-3]:
        return x
    return xp.repeat(x, q.shape[-3] // x.shape[-3], axis=-3)


def _sum_of_groups(dx: Array, x: Array) -> Array:
    """The gradient for each head of queries (…, H, S, D) → for each of keys x (…, G, S, D)"""
    return dx if dx.shape == x.shape else dx.reshape(*x.shape[:-2], -1, *x.shape[-2:]).sum(axis=-3)


def _subtract_distances(xp: ArrayModule, p: Array, slopes: tuple[float, ...]) -> None:
    """Scores of head h −= slopeₕ · (distance from query t, which stands at t + S − T, back to key s)"""
    T, S = p.shape[-2:]
    distance = (xp.arange(S - T, S)[:, None] - xp.arange(S)).astype(p.dtype)
    for head, slope in enumerate(slopes):  # one by one: an array of slopes would be a copy to the device
        p[(..., head, slice(None), slice(None)) if p.ndim > 2 else ...] -= slope * distance


def check_slopes(slopes: tuple[float, ...], scores: tuple[int, ...], causal: bool) -> None:
    """Raise ValueError unless there is one slope for each head of scores (…, H, T, S), and no query sees the future."""
    heads = scores[-3] if len(scores) > 2 else 1
    if len(slopes) != heads:
        raise ValueError(f"{len(slopes)} slopes for {heads} heads")
    if not causal:
        raise ValueError("slopes need causal=True: they say how much less a query sees of what lies further back")


def _visible(
    xp: ArrayModule, shape: tuple[int, ...], mask: Array, starts: Array, causal: bool, window: int | None
) -> Array:
    """The mask, the starts, the causal triangle and the window in one, or None where everything may be seen."""
    if mask is not None and (mask.dtype != bool or not broadcasts(mask.shape, shape)):
        raise ValueError(f"mask must be boolean (True = may attend) and broadcast to the scores {shape}")
    if starts is not None and (starts.dtype.kind not in "iu" or not broadcasts(starts.shape, shape[:-1])):
        raise ValueError(f"starts must be integers, one for each query: {starts.shape} against {shape[:-1]}")
    T, S = shape[-2:]
    if causal and S < T:
        raise ValueError(f"causal attention of {T} queries needs as many keys, not {S}")
    if window is not None and (window < 1 or not causal):
        raise ValueError(f"window={window} is how many of the last keys a causal query sees: at least 1, causal=True")
    past = xp.tril(xp.ones((T, S), bool), k=S - T) if causal else None
    if window is not None:
        past = xp.triu(past, k=S - T - window + 1)
    begun = None if starts is None else xp.arange(S) >= starts[..., None]
    return functools.reduce(_and, (past, begun, mask))


def _and(a: Array, b: Array) -> Array:
    """Two masks in one, of which None is the one that allows everything."""
    if a is None or b is None:
        return b if a is None else a
    return a & b


def _none_for(inputs: Needs) -> tuple[None, ...]:
    """Masks and starts, as far as they were given, have no gradient."""
    return (None,) * len(inputs)


def broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Does an array of this shape stretch to the target without making it larger?"""
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(n in (1, m) for n, m in pairs)


def _scale(q: Array, scale: float | None) -> float:
    return 1 / math.sqrt(q.shape[-1]) if scale is None else scale


def _heads(x: Array, parts: int, n_heads: int) -> Any:
    """(B, T, parts · H · D) → `parts` views (B, H, T, D): writing into one writes into x"""
    B, T, width = x.shape
    return x.reshape(B, T, parts, n_heads, width // (parts * n_heads)).transpose(2, 0, 3, 1, 4)
