"""CBOW, the continuous bag of words: the mean of a window's words predicts the word in its middle.

With X (m, d) the input rows of the words around, T (6, d) the output rows of the middle word and five negatives:

    h = mean of the rows of X
    errors  e = rate · (label − σ(T h))       label: 1 for the middle word, 0 for a negative
    x += eᵀ T for each row x of X,   T += e hᵀ

The gradient of h would be shared out to the m rows in parts of 1/m; word2vec.c and gensim give each row all of it, and
so do we. More than five negatives come in groups of six.
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
def cbow(
    ids: np.ndarray, words_before: int, schedule: Schedule, window: int, negative: int, model: Model, desk: Desk
) -> None:
    """Learn from the sentences in ids (n,) int32, which come after `words_before` words of all epochs."""
    at, scores = 0, desk.scores[:GROUP]
    while at < len(ids):
        rate, start = learning_rate(schedule, words_before), at
        at, n = read_sentence(ids, at, model.keep, desk)
        words_before += at - 1 - start
        draw_windows(n, window, negative, model, desk)
        for p in range(n):
            fetch_ahead(p, n, window, model, desk)
            m, targets = list_rows(p, n, model.width, desk), desk.targets[p]
            if m == 0:
                continue
            _average(m, model, desk)
            for first in range(0, len(targets), GROUP):
                rows = target_rows(targets, first, model.width)
                score(desk.hidden, 0, model.outputs, rows, model.width, scores, 0)
                scores_to_errors(scores, targets, first, rate)
                _update(m, rows, scores, model, desk)


@inline
def _average(m: int, model: Model, desk: Desk) -> None:
    """h = mean of the rows of X"""
    share = spread(_ONE / np.float32(m))
    for d in range(0, model.width, LANES):
        h = spread(_ZERO)
        for j in range(m):
            h = multiply_add(share, load(model.inputs, desk.rows[j] + d), h)
        store(desk.hidden, d, h)


@inline
def _update(m: int, t: Six, errors: np.ndarray, model: Model, desk: Desk) -> None:
    """x += eᵀ T, T += e hᵀ"""
    one = spread(_ONE)
    for d in range(0, model.width, LANES):
        h, dx = load(desk.hidden, d), spread(_ZERO)
        dx = _meet(model.outputs, t[0] + d, spread(errors[0]), h, dx)
        dx = _meet(model.outputs, t[1] + d, spread(errors[1]), h, dx)
        dx = _meet(model.outputs, t[2] + d, spread(errors[2]), h, dx)
        dx = _meet(model.outputs, t[3] + d, spread(errors[3]), h, dx)
        dx = _meet(model.outputs, t[4] + d, spread(errors[4]), h, dx)
        dx = _meet(model.outputs, t[5] + d, spread(errors[5]), h, dx)
        for j in range(m):
            store(model.inputs, desk.rows[j] + d, multiply_add(one, dx, load(model.inputs, desk.rows[j] + d)))


@inline
def _meet(outputs: np.ndarray, at: int, error: np.ndarray, h: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """One target: dx + e t, and t += e h."""
    t = load(outputs, at)
    store(outputs, at, multiply_add(error, h, t))
    return multiply_add(error, t, dx)
