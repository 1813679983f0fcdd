"""Attention that holds no T × S matrix, with or without dropout. Twins of nanograd/ops/attention.py.

Saved for backward: the inputs, y, and one number per query, ℓ = ln Σ exp of its scores. The loops are in
attention_tiles.py; they take packed and separate queries, keys and values alike, as columns of (B, T, …).
"""

import math
from typing import Any

import numpy as np
from numba import get_num_threads

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cpu.attention_backward import backward_heads
from nanograd.kernels.cpu.attention_forward import forward_heads
from nanograd.kernels.cpu.attention_tiles import BLOCK, STRIP, Alibi, Begins, Head
from nanograd.kernels.cpu.dropout import mask_of
from nanograd.kernels.cpu.support import numbers, run, takes
from nanograd.kernels.cpu.tile import COLUMNS, ROWS
from nanograd.ops.attention import Slopes, attention, broadcasts, check_slopes, packed_attention
from nanograd.ops.dropout import Key
from nanograd.primitive import Needs

FEW_HEADS = 8  # with fewer, backward cuts the keys of each into parts, so that there are so many pieces of work
FEW_QUERIES = 4  # with fewer, as in decoding, copying the keys costs more than the formula's reading them once


def _packed_forward(
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
) -> Any:
    drop = mask_of(dropout, dropout_key)
    if (dropout and not drop) or window is not None or not takes(qkv):
        return NotImplemented
    if qkv.ndim != 3 or n_heads < 1 or qkv.shape[-1] % (3 * n_heads):
        return NotImplemented
    (B, T, _), C = qkv.shape, qkv.shape[2] // 3
    if (seen := _keys_seen(mask, (B, n_heads), T)) is None or not _fit(starts, (B, T)):
        return NotImplemented
    places = _begins(starts, (B,), T, T), _alibi(slopes, (B, n_heads, T, T), causal)
    qkv, size, columns = numbers(qkv), _head(T, T, C // n_heads, causal, scale), (0, C, 2 * C)
    y, log_sum = np.empty((B, T, C), np.float32), np.empty((B * n_heads, T), np.float32)
    inputs = *_shares(log_sum), qkv, qkv, qkv, columns, n_heads, size, seen, drop, *places
    run(forward_heads, log_sum.size * T, *inputs, y, log_sum)
    return y, (qkv, y, log_sum, seen, size, places)


def _packed_backward(
    xp: ArrayModule,
    dy: Array,
    qkv: Array,
    y: Array,
    log_sum: Array,
    seen: Array,
    size: Head,
    places: Any,
    *,
    n_heads: int,
    needs: Needs,
    dropout: float = 0.0,
    dropout_key: Key | None = None,
    **settings: Any,
) -> Any:
    dqkv, C = np.empty_like(qkv), y.shape[2]
    drop = mask_of(dropout, dropout_key)
    given = numbers(dy), qkv, qkv, qkv, y, log_sum, (0, C, 2 * C), n_heads, size, seen, drop, *places
    _run_backward(given, log_sum, size.S, dqkv, dqkv, dqkv, C)
    return dqkv, *(None,) * (len(needs) - 1)


def _forward(
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
) -> Any:
    drop = mask_of(dropout, dropout_key)
    if (dropout and not drop) or window is not None or not takes(query, key, value):
        return NotImplemented
    if query.ndim < 2 or key.shape != value.shape:
        return NotImplemented
    (*leading, T, D), S = query.shape, key.shape[-2]
    if T < FEW_QUERIES:
        return NotImplemented
    seen = _keys_seen(mask, tuple(leading), S)
    if seen is None or key.shape != (*leading, S, D) or (causal and S < T) or not _fit(starts, (*leading, T)):
        return NotImplemented
    places = _begins(starts, tuple(leading), T, S), _alibi(slopes, (*leading, T, S), causal)
    q, k, v = _one_head_each(query), _one_head_each(key), _one_head_each(value)
    y, log_sum, size = np.empty_like(q), np.empty(q.shape[:2], np.float32), _head(T, S, D, causal, scale)
    inputs = *_shares(log_sum), q, k, v, (0, 0, 0), 1, size, seen, drop, *places
    run(forward_heads, log_sum.size * S, *inputs, y, log_sum)
    return y.reshape(query.shape), (q, k, v, y, log_sum, seen, size, places, query.shape, key.shape)


def _backward(
    xp: ArrayModule,
    dy: Array,
    q: Array,
    k: Array,
    v: Array,
    y: Array,
    log_sum: Array,
    seen: Array,
    size: Head,
    places: Any,
    query_shape: Any,
    key_shape: Any,
    *,
    needs: Needs,
    dropout: float = 0.0,
    dropout_key: Key | None = None,
    **settings: Any,
) -> Any:
    dq, dk, dv = np.empty_like(q), np.empty_like(k), np.empty_like(v)
    drop = mask_of(dropout, dropout_key)
    given = _one_head_each(dy), q, k, v, y, log_sum, (0, 0, 0), 1, size, seen, drop, *places
    _run_backward(given, log_sum, size.S, dq, dk, dv, q.shape[2])
    return dq.reshape(query_shape), dk.reshape(key_shape), dv.reshape(key_shape), *(None,) * (len(needs) - 3)


def _run_backward(given: Any, log_sum: Array, S: int, dq: Array, dk: Array, dv: Array, columns: int) -> None:
    """Fill dk, dv and the first `columns` of dq, which are a sum if the keys are cut into parts.

    How many parts depends on shapes alone: another sum would have other roundings on a machine with more threads.
    """
    parts = min(-(-S // BLOCK), max(1, FEW_HEADS // len(log_sum)))
    shares = dq[None] if parts == 1 else np.empty((parts, *dq.shape[:2], columns), np.float32)
    threads = min(len(log_sum) * parts, get_num_threads())
    run(backward_heads, log_sum.size * S, threads, *given, shares, dk, dv)
    if parts > 1:
        np.sum(shares, axis=0, out=dq[..., :columns])


def _shares(log_sum: Array) -> tuple[int, int]:
    """(tasks, parts of each head): one task per thread, which keeps its workspace from piece to piece."""
    heads, threads = len(log_sum), get_num_threads()
    parts = 1 if heads % threads == 0 or heads >= 4 * threads else min(threads, -(-log_sum.shape[1] // STRIP))
    return min(heads * parts, threads), parts


def _one_head_each(x: Array) -> Array:
    """(…, T, D) → (N, T, D): to the loops, N sequences with one head"""
    return numbers(x).reshape(-1, *x.shape[-2:])


def _head(T: int, S: int, D: int, causal: bool, scale: float | None) -> Head:
    width = -(-D // COLUMNS) * COLUMNS
    return Head(T, S, D, width, bool(causal), np.float32(1 / math.sqrt(D) if scale is None else scale))


def _keys_seen(mask: Array | None, leading: tuple[int, ...], S: int) -> Array | None:
    """A mask of keys as (heads, S), empty for no mask; None for one that differs between queries, or does not fit."""
    if mask is None:
        return np.empty((0, S), bool)
    if mask.dtype != bool or (mask.ndim > 1 and mask.shape[-2] != 1) or mask.ndim > len(leading) + 2:
        return None
    try:
        return numbers(np.broadcast_to(mask, (*leading, 1, S)).reshape(-1, S))
    except ValueError:
        return None


def _fit(starts: Array | None, queries: tuple[int, ...]) -> bool:
    return starts is None or (starts.dtype.kind in "iu" and broadcasts(starts.shape, queries))


def _begins(starts: Array | None, leading: tuple[int, ...], T: int, S: int) -> Begins | None:
    """Starts as the loops want them: for each sequence that they know, each query and each tile of queries."""
    if starts is None:
        return None
    queries = np.clip(np.broadcast_to(starts, (*leading, T)).reshape(-1, T), 0, S).astype(np.int64)
    return Begins(queries, np.minimum.reduceat(queries, np.arange(0, T, ROWS), axis=1))


def _alibi(slopes: Slopes, scores: tuple[int, ...], causal: bool) -> Alibi | None:
    if slopes is None:
        return None
    check_slopes(slopes, scores, causal)
    return Alibi(np.array(slopes, np.float32), np.arange(scores[-1], dtype=np.float32))


packed_attention.twin(np, _packed_forward, _packed_backward)
attention.twin(np, _forward, _backward)
