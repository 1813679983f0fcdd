"""Attention forward in tiles: no T × S matrix is ever held.

A thread takes one head after the other, so no two threads write to the same number, and the result does not depend on
how many there are. It first copies the rows of a head next to each other: in qkv they lie 3C apart, and tile.py wants
them padded. Where heads are few each is cut into strips of queries.

For each strip: scores with the keys that it sees, softmax, product with the values. Backward wants one number per
query, ℓ = ln Σ exp of its scores.   Dao et al., FlashAttention, arXiv:2205.14135 and arXiv:2307.08691
"""

from typing import Any

import numpy as np
from numba import njit

from nanograd.backend import Array
from nanograd.kernels.cpu.attention_tiles import (
    FIRST,
    STRIP,
    Head,
    add_bias,
    all_scores,
    reach,
    skipped,
    skipped_by_tile,
)
from nanograd.kernels.cpu.dropout import factors_of
from nanograd.kernels.cpu.support import INNER, LINE, ONE, SERIAL, ZERO, exp, maximum
from nanograd.kernels.cpu.threads import for_each
from nanograd.kernels.cpu.tile import (
    COLUMNS,
    ROWS,
    aligned_matrix,
    copy_rows,
    copy_transposed,
    round_up,
    tile_product,
    write_rows,
)

LOWEST = np.float32(-np.inf)


@njit(**SERIAL)
def forward_heads(
    threads: int,
    parts: int,
    q: Array,
    k: Array,
    v: Array,
    starts: Any,
    n_heads: int,
    size: Head,
    seen: Array,
    drop: Any,
    begins: Any,
    alibi: Any,
    y: Array,
    log_sum: Array,
) -> None:
    """y = drop(softmax(s q kᵀ + bias)) v and ℓ = ln Σ exp(…), head by head; zeros for a query that sees nothing.

    q (B, T, …), k and v (B, S, …), each with its first head at column starts[i];  y (B, T, H · D), ℓ (B · H, T);
    seen (B · H, S) says which keys may be attended, and is empty where all may
    drop a Mask, begins Begins, alibi an Alibi: for what is None here no code is compiled
    """
    given = threads, parts, q, k, v, starts, n_heads, size, seen, drop, begins, alibi, y, log_sum
    for_each(_forward_share, threads, given)


@njit(**INNER)
def _forward_share(
    thread: int,
    threads: int,
    parts: int,
    q: Array,
    k: Array,
    v: Array,
    starts: Any,
    n_heads: int,
    size: Head,
    seen: Array,
    drop: Any,
    begins: Any,
    alibi: Any,
    y: Array,
    log_sum: Array,
) -> None:
    queries, values = aligned_matrix(round_up(size.T, ROWS), size.width), aligned_matrix(size.S, size.width)
    keys_t = aligned_matrix(round_up(size.S, COLUMNS) // COLUMNS * size.D, COLUMNS)
    scores, mixed = aligned_matrix(STRIP, round_up(size.S, COLUMNS) + LINE), aligned_matrix(STRIP, size.width)
    items = len(log_sum) * parts
    for item in range(items * thread // threads, items * (thread + 1) // threads):
        head, part = item // parts, item % parts
        b, column = head // n_heads, head % n_heads * size.D
        copy_rows(q[b], starts[0] + column, size.D, size.scale, queries)
        copy_transposed(k[b], starts[1] + column, size.D, keys_t)
        copy_rows(v[b], starts[2] + column, size.D, ONE, values)
        for i in range(part * STRIP, size.T, parts * STRIP):
            n = min(STRIP, size.T - i)
            all_scores(queries, keys_t, i, n, FIRST, size.S, size, begins, b, scores)
            _mix(scores, values, i, n, seen, drop, begins, alibi, head, b, size, mixed, log_sum)
            write_rows(mixed, size.D, y[b, i : i + n], column)


@njit(**INNER)
def _mix(
    scores: Array,
    values: Array,
    i: int,
    n: int,
    seen: Array,
    drop: Any,
    begins: Any,
    alibi: Any,
    head: int,
    b: int,
    size: Head,
    mixed: Array,
    log_sum: Array,
) -> None:
    """mixed = drop(softmax(scores + bias)) v for queries i … i + n, and ℓ of each"""
    for t in range(0, n, ROWS):
        depth = reach(i + t + ROWS - 1, FIRST, size.S, size)
        before = skipped_by_tile(begins, b, i + t, FIRST, size.S)
        for row in range(t, min(t + ROWS, n)):
            end = reach(i + row, FIRST, size.S, size)
            start = min(end, skipped(begins, b, i + row, FIRST, size.S))
            weights = scores[row, start:end]
            if alibi is not None:
                add_bias(weights, alibi, head, i + row, start, size)
            log_sum[head, i + row] = _softmax(weights, seen, head, start)
            if drop is not None:
                factors = factors_of(drop, (head * size.T + i + row) * size.S + start, len(weights))
                for c in range(len(weights)):
                    weights[c] *= factors[c]
            if begins is not None:
                scores[row, before:start] = ZERO
            scores[row, end:depth] = ZERO
        for d in range(0, size.width, COLUMNS):
            tile_product(mixed, t, d, scores, t, before, values, before, d, depth - before, False, False)


@njit(**INNER)
def _softmax(s: Array, seen: Array, head: int, start: int) -> Any:
    """s ← softmax(s), the scores of keys from `start` on, as far as they are seen. Returns ln Σ exp s, 0 if none is"""
    if seen.size:
        visible = seen[head, start : start + len(s)]
        for j in range(len(s)):
            s[j] = s[j] if visible[j] else LOWEST
    top, total = LOWEST, ZERO
    for j in range(len(s)):
        top = maximum(top, s[j])
    if top == LOWEST:
        s[:] = ZERO
        return ZERO
    for j in range(len(s)):
        e = exp(s[j] - top)
        s[j] = e
        total += e
    share = ONE / total
    for j in range(len(s)):
        s[j] *= share
    return top + np.log(total)
