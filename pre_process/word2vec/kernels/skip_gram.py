"""Skip-gram: each word of a window predicts the word in its middle.

The m words of a window share the middle word's negatives, so that one window is a small matrix product (Ji et al. 2016,
arXiv:1604.04661). With X (m, d) their input rows and T (6, d) the output rows of the middle word and five negatives:

    scores   S = X Tᵀ
    errors   E = rate · (label − σ(S))        label: 1 for the middle word, 0 for a negative
    X += E T,   T += Eᵀ X                     each from the values before

S is made row by row: each piece of X that is loaded meets six rows of T. The update goes column by column: sixteen
columns of all of T and of what is added to it stay in twelve registers, while the rows of X pass by, each loaded and
stored once. More than five negatives come in groups of six, each of which sees what the one before has changed.
"""

import numpy as np

from pre_process.word2vec.kernels.scoring import Six, score, scores_to_errors, target_rows
from pre_process.word2vec.kernels.sentences import (
    GROUP,
    Desk,
    Model,
    Schedule,
    draw_windows,
    fetch_ahead,
    learning_rate,
    list_rows,
    read_sentence,
)
from pre_process.word2vec.kernels.support import inline, kernel
from pre_process.word2vec.kernels.vector import LANES, load, multiply_add, spread, store

_ZERO, _ONE = np.float32(0), np.float32(1)


@kernel
def skip_gram(
    ids: np.ndarray, words_before: int, schedule: Schedule, window: int, negative: int, model: Model, desk: Desk
) -> None:
    """Learn from the sentences in ids (n,) int32, which come after `words_before` words of all epochs."""
    at = 0
    while at < len(ids):
        rate, start = learning_rate(schedule, words_before), at
        at, n = read_sentence(ids, at, model.keep, desk)
        words_before += at - 1 - start
        draw_windows(n, window, negative, model, desk)
        for p in range(n):
            fetch_ahead(p, n, window, model, desk)
            m, targets = list_rows(p, n, model.width, desk), desk.targets[p]
            for first in range(0, len(targets), GROUP):
                rows = target_rows(targets, first, model.width)
                for j in range(m):
                    score(model.inputs, desk.rows[j], model.outputs, rows, model.width, desk.scores, j)
                scores_to_errors(desk.scores, targets, first, rate)
                _update(m, rows, model, desk)


@inline
def _update(m: int, t: Six, model: Model, desk: Desk) -> None:
    """X += E T, T += Eᵀ X"""
    X, T, errors, step = model.inputs, model.outputs, desk.scores, len(desk.scores) // 6
    for d in range(0, model.width, LANES):
        t0, t1, t2 = load(T, t[0] + d), load(T, t[1] + d), load(T, t[2] + d)
        t3, t4, t5 = load(T, t[3] + d), load(T, t[4] + d), load(T, t[5] + d)
        u0 = u1 = u2 = u3 = u4 = u5 = spread(_ZERO)
        for j in range(m):
            x = load(X, desk.rows[j] + d)
            e0, e1, e2 = spread(errors[j]), spread(errors[step + j]), spread(errors[2 * step + j])
            e3, e4, e5 = spread(errors[3 * step + j]), spread(errors[4 * step + j]), spread(errors[5 * step + j])
            u0, u1, u2 = multiply_add(e0, x, u0), multiply_add(e1, x, u1), multiply_add(e2, x, u2)
            u3, u4, u5 = multiply_add(e3, x, u3), multiply_add(e4, x, u4), multiply_add(e5, x, u5)
            x = multiply_add(e0, t0, multiply_add(e1, t1, multiply_add(e2, t2, x)))
            x = multiply_add(e3, t3, multiply_add(e4, t4, multiply_add(e5, t5, x)))
            store(X, desk.rows[j] + d, x)
        _add(T, t[0] + d, u0)
        _add(T, t[1] + d, u1)
        _add(T, t[2] + d, u2)
        _add(T, t[3] + d, u3)
        _add(T, t[4] + d, u4)
        _add(T, t[5] + d, u5)


@inline
def _add(rows: np.ndarray, at: int, x: np.ndarray) -> None:
    store(rows, at, multiply_add(spread(_ONE), x, load(rows, at)))
