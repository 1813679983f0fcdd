"""The scores of six targets for one input, and what is wrong with them."""

import numpy as np

from pre_process.word2vec.kernels.support import inline
from pre_process.word2vec.kernels.vector import LANES, load, multiply_add, spread, total

Six = tuple[np.int64, np.int64, np.int64, np.int64, np.int64, np.int64]

_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_FAR = np.float32(9)  # half a score of 18: from there on σ is 0 or 1 in float32

# tanh x ≈ x P(x²) / Q(x²) for |x| < 9, to a few units in the last place. Coefficients: Eigen, MathFunctionsImpl.h
_P = tuple(
    np.float32(p)
    for p in (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
              1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03)
)  # fmt: skip
_Q = tuple(
    np.float32(q) for q in (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
)


@inline
def target_rows(targets: np.ndarray, first: int, width: int) -> Six:
    """Where the rows of targets[first : first + 6] begin."""
    return (
        np.int64(targets[first]) * width,
        np.int64(targets[first + 1]) * width,
        np.int64(targets[first + 2]) * width,
        np.int64(targets[first + 3]) * width,
        np.int64(targets[first + 4]) * width,
        np.int64(targets[first + 5]) * width,
    )


@inline
def score(inputs: np.ndarray, row: int, outputs: np.ndarray, t: Six, width: int, scores: np.ndarray, at: int) -> None:
    """Write the products of an input with six targets to scores[at], each len(scores) / 6 behind the one before."""
    s0 = s1 = s2 = s3 = s4 = s5 = spread(_ZERO)
    for d in range(0, width, LANES):
        x = load(inputs, row + d)
        s0 = multiply_add(x, load(outputs, t[0] + d), s0)
        s1 = multiply_add(x, load(outputs, t[1] + d), s1)
        s2 = multiply_add(x, load(outputs, t[2] + d), s2)
        s3 = multiply_add(x, load(outputs, t[3] + d), s3)
        s4 = multiply_add(x, load(outputs, t[4] + d), s4)
        s5 = multiply_add(x, load(outputs, t[5] + d), s5)
    step = len(scores) // 6
    scores[at], scores[at + step], scores[at + 2 * step] = total(s0), total(s1), total(s2)
    scores[at + 3 * step], scores[at + 4 * step], scores[at + 5 * step] = total(s3), total(s4), total(s5)


@inline
def scores_to_errors(scores: np.ndarray, targets: np.ndarray, first: int, rate: np.float32) -> None:
    """error = rate · (label − σ(score)): the label is 1 for the word itself and 0 for a negative.

    A negative that happens to be the word itself teaches nothing: its error is 0.
    """
    step = len(scores) // 6
    for k in range(6):
        is_word = first + k == 0
        label, factor = _ONE if is_word else _ZERO, rate
        if not is_word and targets[first + k] == targets[0]:
            factor = _ZERO
        row = scores[k * step : (k + 1) * step]
        for j in range(step):
            row[j] = factor * (label - sigmoid(row[j]))


@inline
def sigmoid(x: np.float32) -> np.float32:
    """σ(x) = ½ + ½ tanh ½x, in arithmetic that vectorises (a call of exp does not)."""
    half = _HALF * x
    half = _FAR if half > _FAR else half
    half = -_FAR if half < -_FAR else half
    square = half * half
    p, q = _P[0], _Q[0]
    for coefficient in _P[1:]:
        p = p * square + coefficient
    for coefficient in _Q[1:]:
        q = q * square + coefficient
    return _HALF + _HALF * (half * p / q)
