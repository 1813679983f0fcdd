"""What merging works on: words, pairs with their counts and places, and a heap. How it begins, and how it grows."""

from typing import NamedTuple

import numpy as np

from pre_process.tokenizer.kernels import heap
from pre_process.tokenizer.kernels.pairs import COUNT, FIRST, KEY, N, add_pair, move_pairs, pair_row
from pre_process.tokenizer.kernels.support import kernel, lean

PAIRS, PLACES, HEAP, MERGES = range(4)  # what `used` counts


class State(NamedTuple):
    """All that a merge changes. S symbols, V tokens in the end.

    symbols     (S,) int32: see above
    weights     (S,) int64: how often the word around each symbol occurs
    lengths     (V,) int32: how many symbols each token covers
    places      (3 S,) int32: the places of each pair, pair behind pair
    pairs       (2ᵏ, 4) int64: pairs.py
    heap        (2ᵏ⁻¹, 2) int64: count and key of each pair, heap.py
    neighbours  (V, 4) int64: for one merge, count and number of places of the pairs (id, new) and (new, id)
    touched     (V,) int32: the ids whose row of `neighbours` is not zero
    born        (2 S, 2) int32: for one merge, each new place, and the neighbour's id (left: −1 − id)
    used        (4,) int64: rows of `pairs`, of `places`, of `heap`, and merges so far
    """

    symbols: np.ndarray
    weights: np.ndarray
    lengths: np.ndarray
    places: np.ndarray
    pairs: np.ndarray
    heap: np.ndarray
    neighbours: np.ndarray
    touched: np.ndarray
    born: np.ndarray
    used: np.ndarray


def first_state(symbols: np.ndarray, weights: np.ndarray, vocab_size: int) -> State:
    """What is not written to takes no memory: the system hands out pages when they are touched."""
    n = len(symbols)
    return State(
        symbols.astype(np.int32, copy=False),
        weights.astype(np.int64, copy=False),
        np.zeros(vocab_size, np.int32),
        np.empty(3 * n, np.int32),
        np.zeros((1 << 16, 4), np.int64),
        np.empty((1 << 15, 2), np.int64),
        np.zeros((vocab_size, 4), np.int64),
        np.empty(vocab_size, np.int32),
        np.empty((2 * n, 2), np.int32),
        np.zeros(4, np.int64),
    )


def grown(state: State, *, keep: bool) -> State:
    """The same with four times the room for pairs, which are moved if they are to be kept."""
    pairs = np.zeros((4 * len(state.pairs), 4), np.int64)
    queue = np.empty((len(pairs) // 2, 2), np.int64)
    if keep:
        move_pairs(state.pairs, pairs)
        queue[: len(state.heap)] = state.heap
    else:
        state.used[:] = 0
    return state._replace(pairs=pairs, heap=queue)


@kernel
def count_first_pairs(state: State, lowest: int) -> bool:
    """Enter the pairs that the words begin with; False if there is no room for all of them.

    Two passes: the first counts, then it is known where each pair's places belong, and the second writes them.
    """
    if not _count_neighbours(state):
        return False
    _enter_first_pairs(state, lowest)
    _write_first_places(state)
    return True


@lean
def _count_neighbours(state: State) -> bool:
    symbols, pairs = state.symbols, state.pairs
    for place in range(len(symbols) - 1):
        if symbols[place] < 0 or symbols[place + 1] < 0:
            continue
        row = add_pair(pairs, symbols[place], symbols[place + 1], state.used)
        pairs[row, COUNT] += state.weights[place]
        pairs[row, N] += 1
        if 2 * state.used[PAIRS] >= len(pairs):
            return False
    return True


@lean
def _enter_first_pairs(state: State, lowest: int) -> None:
    """Give each pair room for its places, which N counts from 0 again, and a place in the heap."""
    pairs, used = state.pairs, state.used
    for row in range(len(pairs)):
        if pairs[row, KEY] != 0:
            pairs[row, FIRST] = used[PLACES]
            used[PLACES] += pairs[row, N]
            pairs[row, N] = 0
            if pairs[row, COUNT] >= lowest:
                heap.push(state.heap, used[HEAP], pairs[row, COUNT], pairs[row, KEY])
                used[HEAP] += 1


@lean
def _write_first_places(state: State) -> None:
    symbols, pairs = state.symbols, state.pairs
    for place in range(len(symbols) - 1):
        if symbols[place] >= 0 and symbols[place + 1] >= 0:
            row = pair_row(pairs, symbols[place], symbols[place + 1])
            state.places[pairs[row, FIRST] + pairs[row, N]] = place
            pairs[row, N] += 1
