"""Chance: a generator of random bits, and drawing words with given probabilities in one look-up.

The generator is SplitMix64 (Steele, Lea, Flood 2014): a counter that grows by an odd number, and a hash of it. Draws do
not wait for each other, unlike those of generators that feed their output back.
"""

import numpy as np

from pre_process.word2vec.kernels.support import inline, kernel

_U64 = np.uint64
_STEP, _MIX_1, _MIX_2 = _U64(0x9E3779B97F4A7C15), _U64(0xBF58476D1CE4E5B9), _U64(0x94D049BB133111EB)
_LOW = _U64(0xFFFFFFFF)
_ULP = np.float32(2**-24)


@inline
def draw(state: np.ndarray) -> np.uint64:
    """64 random bits; `state` (1,) uint64 moves on."""
    state[0] += _STEP
    bits = state[0]
    bits = (bits ^ (bits >> _U64(30))) * _MIX_1
    bits = (bits ^ (bits >> _U64(27))) * _MIX_2
    return bits ^ (bits >> _U64(31))


@inline
def below(bits: np.uint64, n: int) -> np.int64:
    """A number from 0 to n − 1 < 2³², from the upper 32 bits."""
    return np.int64((bits >> _U64(32)) * _U64(n) >> _U64(32))


@inline
def fraction(bits: np.uint64) -> np.float32:
    """A number in [0, 1), from the lower 32 bits."""
    return np.float32((bits & _LOW) >> _U64(8)) * _ULP


@inline
def draw_word(state: np.ndarray, shares: np.ndarray, others: np.ndarray) -> np.int64:
    """A word from `alias_table`."""
    bits = draw(state)
    word = below(bits, len(shares))
    return word if fraction(bits) < shares[word] else np.int64(others[word])


@kernel
def alias_table(weights: np.ndarray, shares: np.ndarray, others: np.ndarray) -> None:
    """Fill shares (V,) float32 and others (V,) int32 so that words are drawn in proportion to weights (V,) float64.

    A word is drawn evenly; with probability `share` it stays, else it becomes its `other`. (Walker 1977; the order of
    filling is Vose's, 1991.) Exact for any weights, and as small as the vocabulary.
    """
    V = len(weights)
    scaled, mean = weights.copy(), weights.sum() / V
    small, large = np.empty(V, np.int64), np.empty(V, np.int64)
    n_small = n_large = 0
    for word in range(V):
        scaled[word] /= mean
        shares[word], others[word] = 1, word
        if scaled[word] < 1:
            small[n_small] = word
            n_small += 1
        else:
            large[n_large] = word
            n_large += 1
    while n_small > 0 and n_large > 0:
        n_small -= 1
        word, giver = small[n_small], large[n_large - 1]
        shares[word], others[word] = scaled[word], giver
        scaled[giver] -= 1 - scaled[word]
        if scaled[giver] < 1:
            n_large -= 1
            small[n_small] = giver
            n_small += 1
