"""The loops of attention in tiles: no T × S matrix is ever held.

A thread takes one head after the other, so no two threads write to the same number, and the result does not depend on
how many there are. It first copies the rows of a head next to each other: in qkv they lie 3C apart, and tile.py wants
them padded. Where heads are few each is cut into parts: forward some strips of queries, backward some blocks of keys.

Forward, for a strip of queries: their scores with the keys they see, softmax, product with the values. Backward, for a
block of queries and a block of keys: the same scores again, p = exp(score − ℓ) from the one number ℓ per query that
forward has saved, and four products more.   Dao et al., FlashAttention, arXiv:2205.14135 and arXiv:2307.08691
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from nanograd.backend import Array
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

STRIP: Any = np.int64(32)  # queries of forward that share one reading of the keys
BLOCK: Any = np.int64(128)  # queries, and keys, of backward: two tiles of scores take an eighth of a second-level cache
FIRST: Any = np.int64(0)  # see tile.py
LOWEST = np.float32(-np.inf)


class Head(NamedTuple):
    """The sizes of one head."""

    T: int  # queries
    S: int  # keys
    D: int
    width: int  # D, rounded up to whole tiles
    causal: bool
    scale: Any  # float32


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
    y: Array,
    log_sum: Array,
) -> None:
    """y = drop(softmax(s q kᵀ)) v and ℓ = ln Σ exp(s q kᵀ), head by head; zeros for a query that sees nothing.

    q (B, T, …), k and v (B, S, …), each with its first head at column starts[i];  y (B, T, H · D), ℓ (B · H, T);
    seen (B · H, S) says which keys may be attended, and is empty where all may;  drop is a Mask, or None
    """
    for_each(_forward_share, threads, (threads, parts, q, k, v, starts, n_heads, size, seen, drop, y, log_sum))


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
            _all_scores(queries, keys_t, i, n, FIRST, size.S, size, scores)
            _mix(scores, values, i, n, seen, drop, head, size, mixed, log_sum)
            write_rows(mixed, size.D, y[b, i : i + n], column)


@njit(**INNER)
def _mix(
    scores: Array,
    values: Array,
    i: int,
    n: int,
    seen: Array,
    drop: Any,
    head: int,
    size: Head,
    mixed: Array,
    log_sum: Array,
) -> None:
    """mixed = drop(softmax(scores)) v for queries i … i + n, and ℓ of each"""
    for t in range(0, n, ROWS):
        depth = _reach(i + t + ROWS - 1, FIRST, size.S, size)
        for row in range(t, min(t + ROWS, n)):
            reach = _reach(i + row, FIRST, size.S, size)
            log_sum[head, i + row] = _softmax(scores[row], reach, seen, head)
            if drop is not None:
                factors = factors_of(drop, (head * size.T + i + row) * size.S, reach)
                for c in range(reach):
                    scores[row, c] *= factors[c]
            scores[row, reach:depth] = ZERO
        for d in range(0, size.width, COLUMNS):
            tile_product(mixed, t, d, scores, t, 0, values, 0, d, depth, False, False)


@njit(**INNER)
def _softmax(s: Array, reach: int, seen: Array, head: int) -> Any:
    """s ← softmax(s) over the first `reach` keys, as far as they are seen. Returns ln Σ exp s, or 0 if none is"""
    if seen.size:
        for j in range(reach):
            s[j] = s[j] if seen[head, j] else LOWEST
    top, total = LOWEST, ZERO
    for j in range(reach):
        top = maximum(top, s[j])
    if top == LOWEST:
        s[:reach] = ZERO
        return ZERO
    for j in range(reach):
        e = exp(s[j] - top)
        s[j] = e
        total += e
    share = ONE / total
    for j in range(reach):
        s[j] *= share
    return top + np.log(total)


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
    dq: Array,
    dk: Array,
    dv: Array,
) -> None:
    """dv = drop(p)ᵀ dy,  ds = p ⊙ (drop(dy vᵀ) − δ),  dq = s ds k,  dk = s dsᵀ q

    with p = exp(s q kᵀ − ℓ) and δ = Σ dy ⊙ y.   dq (parts, B, T, …): what each part of the keys adds to it
    """
    given = threads, dy, q, k, v, y, log_sum, starts, n_heads, size, seen, drop, dq, dk, dv
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
            for j in range(start, _reach(i + n - 1, FIRST, size.S, size), step):
                m = min(BLOCK, size.S - j)
                _weights_and_slopes(rows, i, n, j, m, log_sum[head], seen, drop, head, size, p, ds)
                _add_gradients(rows, i, n, j, m, p, ds, size, gradients)
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
    head: int,
    size: Head,
    p: Array,
    ds: Array,
) -> None:
    """ds = p ⊙ (drop(dy vᵀ) − δ) with p = exp(s q kᵀ − ℓ) for queries i … i + n and keys j … j + m; then p ← drop(p)"""
    _all_scores(rows.queries, rows.keys_t, i, n, j, m, size, p)
    _all_scores(rows.slopes, rows.values_t, i, n, j, m, size, ds)
    for t in range(n):
        reach, depth = _reach(i + t, j, m, size), _reach(i + t // ROWS * ROWS + ROWS - 1, j, m, size)
        unseen = slice(reach, round_up(depth, ROWS))  # what is left of the tiles that will be read
        weights, slopes, ell, delta = p[t], ds[t], log_sum[i + t], rows.delta[i + t]
        for c in range(reach):
            weights[c] = exp(weights[c] - ell)
        if seen.size:
            for c in range(reach):
                weights[c] = weights[c] if seen[head, j + c] else ZERO
        if drop is None:
            for c in range(reach):
                slopes[c] = weights[c] * (slopes[c] - delta)
        else:
            factors = factors_of(drop, (head * size.T + i + t) * size.S + j, reach)
            for c in range(reach):
                slopes[c] = weights[c] * (slopes[c] * factors[c] - delta)
                weights[c] *= factors[c]
        weights[unseen] = ZERO
        slopes[unseen] = ZERO


@njit(**INNER)
def _add_gradients(
    rows: Rows, i: int, n: int, j: int, m: int, p: Array, ds: Array, size: Head, gradients: Gradients
) -> None:
    """dq += s ds k,  dk += s dsᵀ q,  dv += pᵀ dy for this block. What lies wholly in the future is left out."""
    for d in range(0, size.width, COLUMNS):
        for t in range(0, n, ROWS):
            depth = _reach(i + t + ROWS - 1, j, m, size)
            tile_product(gradients.queries, i + t, d, ds, t, 0, rows.keys, j, d, depth, False, True)
        for c in range(0, m, ROWS):
            t = max(0, j + c - (size.S - size.T) - i) // ROWS * ROWS if size.causal else 0  # the first to see them
            if t < n:
                tile_product(gradients.keys, j + c, d, ds, t, c, rows.queries, i + t, d, n - t, True, True)
                tile_product(gradients.values, j + c, d, p, t, c, rows.slopes, i + t, d, n - t, True, True)


@njit(**INNER)
def _all_scores(left: Array, right_t: Array, i: int, n: int, j: int, m: int, size: Head, out: Array) -> None:
    """out = left rightᵀ for rows i … i + n of left and j … j + m of right, but for tiles wholly in the future"""
    for c in range(0, m, COLUMNS):
        panel = (j + c) // COLUMNS * size.D
        for t in range(0, n, ROWS):
            if c < _reach(i + t + ROWS - 1, j, m, size):
                tile_product(out, t, c, left, i + t, 0, right_t, panel, 0, size.D, False, False)


@njit(**INNER)
def _reach(query: int, j: int, m: int, size: Head) -> int:
    """How many of the keys j … j + m a query may see, the causal triangle considered: the first so many."""
    return max(0, min(m, query + 1 + size.S - size.T - j)) if size.causal else m
