"""Attention backward in tiles. Threads and copies as in attention_forward.py.

For a block of queries and a block of keys: their scores again, p = exp(score − ℓ) from the one number ℓ per query that
forward has saved, and four products more. Where heads are few each is cut into parts, of some blocks of keys.
Dao et al., FlashAttention, arXiv:2205.14135 and arXiv:2307.08691
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from nanograd.backend import Array
from nanograd.kernels.cpu.attention_tiles import (
    BLOCK,
    FIRST,
    Head,
    add_bias,
    all_scores,
    reach,
    skipped,
    skipped_by_all,
    skipped_by_tile,
)
from nanograd.kernels.cpu.dropout import factors_of
from nanograd.kernels.cpu.support import INNER, LINE, ONE, SERIAL, ZERO, exp
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


class Rows(NamedTuple):
    """The numbers of one head as backward wants them."""

    queries: Array  # (T, width), times the scale, as the scores are, and dk, which is made of them
    slopes: Array  # (T, width): dy
    keys: Array  # (S, width), times the scale: dq is made of them
    keys_t: Array  # transposed, in panels
    values_t: Array
    delta: Array  # (T,): Σ dy ⊙ y


class Gradients(NamedTuple):
    """Where the gradients of one head add up."""

    queries: Array  # (T, width)
    keys: Array  # (S, width)
    values: Array


@njit(**SERIAL)
def backward_heads(
    threads: int,
    dy: Array,
    q: Array,
    k: Array,
    v: Array,
    y: Array,
    log_sum: Array,
    starts: Any,
    n_heads: int,
    size: Head,
    seen: Array,
    drop: Any,
    begins: Any,
    alibi: Any,
    dq: Array,
    dk: Array,
    dv: Array,
) -> None:
    """dv = drop(p)ᵀ dy,  ds = p ⊙ (drop(dy vᵀ) − δ),  dq = s ds k,  dk = s dsᵀ q

    with p = exp(s q kᵀ + bias − ℓ) and δ = Σ dy ⊙ y.   dq (parts, B, T, …): what each part of the keys adds to it
    """
    given = threads, dy, q, k, v, y, log_sum, starts, n_heads, size, seen, drop, begins, alibi, dq, dk, dv
    for_each(_backward_share, threads, given)


@njit(**INNER)
def _backward_share(
    thread: int,
    threads: int,
    dy: Array,
    q: Array,
    k: Array,
    v: Array,
    y: Array,
    log_sum: Array,
    starts: Any,
    n_heads: int,
    size: Head,
    seen: Array,
    drop: Any,
    begins: Any,
    alibi: Any,
    dq: Array,
    dk: Array,
    dv: Array,
) -> None:
    rows, gradients = _workspace(size)
    p, ds = aligned_matrix(BLOCK, BLOCK + LINE), aligned_matrix(BLOCK, BLOCK + LINE)
    parts, step = len(dq), len(dq) * BLOCK
    items = len(log_sum) * parts
    for item in range(items * thread // threads, items * (thread + 1) // threads):
        head, start = item // parts, item % parts * BLOCK
        b, column = head // n_heads, head % n_heads * size.D
        _fetch(dy[b], q[b], k[b], v[b], y[b], starts, column, size, rows)
        _clear(gradients)
        for i in range(0, size.T, BLOCK):
            n = min(BLOCK, size.T - i)
            for j in range(start, reach(i + n - 1, FIRST, size.S, size), step):
                m = min(BLOCK, size.S - j)
                if skipped_by_all(begins, b, i, n, j, m) == m:
                    continue
                _weights_and_slopes(rows, i, n, j, m, log_sum[head], seen, drop, begins, alibi, head, b, size, p, ds)
                _add_gradients(rows, i, n, j, m, p, ds, begins, b, size, gradients)
        write_rows(gradients.queries, size.D, dq[item % parts, b], starts[0] + column)
        for j in range(start, size.S, step):
            write_rows(gradients.keys[j:], size.D, dk[b, j : j + BLOCK], starts[1] + column)
            write_rows(gradients.values[j:], size.D, dv[b, j : j + BLOCK], starts[2] + column)


@njit(**INNER)
def _workspace(size: Head) -> Any:
    """Memory for one head, of length T or S, that a thread uses again for the next."""
    T, S, panels = round_up(size.T, ROWS), round_up(size.S, ROWS), round_up(size.S, COLUMNS) // COLUMNS * size.D
    rows = Rows(
        aligned_matrix(T, size.width),
        aligned_matrix(T, size.width),
        aligned_matrix(S, size.width),
        aligned_matrix(panels, COLUMNS),
        aligned_matrix(panels, COLUMNS),
        np.empty(T, np.float32),
    )
    sums = aligned_matrix(T, size.width), aligned_matrix(S, size.width), aligned_matrix(S, size.width)
    return rows, Gradients(sums[0], sums[1], sums[2])


@njit(**INNER)
def _fetch(dy: Array, q: Array, k: Array, v: Array, y: Array, starts: Any, column: int, size: Head, rows: Rows) -> None:
    copy_rows(q, starts[0] + column, size.D, size.scale, rows.queries)
    copy_rows(dy, column, size.D, ONE, rows.slopes)
    copy_rows(k, starts[1] + column, size.D, size.scale, rows.keys)
    copy_transposed(k, starts[1] + column, size.D, rows.keys_t)
    copy_transposed(v, starts[2] + column, size.D, rows.values_t)
    for t in range(size.T):
        slope, mixed, total = rows.slopes[t], y[t, column : column + size.D], ZERO
        for d in range(size.D):
            total += slope[d] * mixed[d]
        rows.delta[t] = total


@njit(**INNER)
def _clear(gradients: Gradients) -> None:
    gradients.queries[:] = ZERO
    gradients.keys[:] = ZERO
    gradients.values[:] = ZERO


@njit(**INNER)
def _weights_and_slopes(
    rows: Rows,
    i: int,
    n: int,
    j: int,
    m: int,
    log_sum: Array,
    seen: Array,
    drop: Any,
    begins: Any,
    alibi: Any,
    head: int,
    b: int,
    size: Head,
    p: Array,
    ds: Array,
) -> None:
    """ds = p ⊙ (drop(dy vᵀ) − δ), p = exp(s q kᵀ + bias − ℓ) for queries i … i + n and keys j … j + m; p ← drop(p)"""
    all_scores(rows.queries, rows.keys_t, i, n, j, m, size, begins, b, p)
    all_scores(rows.slopes, rows.values_t, i, n, j, m, size, begins, b, ds)
    for t in range(n):
        end, depth = reach(i + t, j, m, size), reach(i + t // ROWS * ROWS + ROWS - 1, j, m, size)
        start = min(end, skipped(begins, b, i + t, j, m))
        weights, slopes, ell, delta = p[t, start:end], ds[t, start:end], log_sum[i + t], rows.delta[i + t]
        if alibi is not None:
            add_bias(weights, alibi, head, i + t, j + start, size)
        for c in range(len(weights)):
            weights[c] = exp(weights[c] - ell)
        if seen.size:
            visible = seen[head, j + start : j + end]
            for c in range(len(weights)):
                weights[c] = weights[c] if visible[c] else ZERO
        if drop is None:
            for c in range(len(weights)):
                slopes[c] = weights[c] * (slopes[c] - delta)
        else:
            factors = factors_of(drop, (head * size.T + i + t) * size.S + j + start, len(weights))
            for c in range(len(weights)):
                slopes[c] = weights[c] * (slopes[c] * factors[c] - delta)
                weights[c] *= factors[c]
        for x in (p[t], ds[t]):  # what is left of the tiles that will be read
            if begins is not None:
                x[:start] = ZERO
            x[end : round_up(depth, ROWS)] = ZERO


@njit(**INNER)
def _add_gradients(
    rows: Rows,
    i: int,
    n: int,
    j: int,
    m: int,
    p: Array,
    ds: Array,
    begins: Any,
    b: int,
    size: Head,
    gradients: Gradients,
) -> None:
    """dq += s ds k,  dk += s dsᵀ q,  dv += pᵀ dy for this block. What nobody sees is left out."""
    for d in range(0, size.width, COLUMNS):
        for t in range(0, n, ROWS):
            depth, before = reach(i + t + ROWS - 1, j, m, size), skipped_by_tile(begins, b, i + t, j, m)
            tile_product(
                gradients.queries, i + t, d, ds, t, before, rows.keys, j + before, d, depth - before, False, True
            )
        for c in range(0, m, ROWS):
            t = max(0, j + c - (size.S - size.T) - i) // ROWS * ROWS if size.causal else 0  # the first to see them
            end = _last_to_see(begins, b, i, n, j, m, c)
            if t < end:
                tile_product(gradients.keys, j + c, d, ds, t, c, rows.queries, i + t, d, end - t, True, True)
                tile_product(gradients.values, j + c, d, p, t, c, rows.slopes, i + t, d, end - t, True, True)


@njit(**INNER)
def _last_to_see(begins: Any, b: int, i: int, n: int, j: int, m: int, c: int) -> Any:
    """The end of the queries, of i … i + n, that see any of the keys j + c … j + c + ROWS, documents considered."""
    if begins is None:
        return n
    end = round_up(n, ROWS)
    while end > 0 and skipped_by_tile(begins, b, i + end - ROWS, j, m) >= min(m, c + ROWS):
        end -= ROWS
    return min(n, end)
