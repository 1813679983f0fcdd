"""Learning merges, compiled: the same merges as bpe.learn_merges, a hundred times faster.

All distinct words stand behind each other in one flat array, an edge before, between and behind them. There is no
linked list. A token of n symbols covers n places and writes its id on the first and the last of them:

    place        0    1    2    3    4    5    6            after merges X = lo, Y = Xw
    symbol      −1    Y   −2    Y    e    r   −1            "lower" is Y e r;  −2: here a token began that is gone

    the token behind place 1 begins at 1 + length[Y] = 4;  the one before place 4 is symbol[3] = Y

Each pair knows its count and the places where its left token began when the pair was born; a place that another merge
has eaten since is recognised by its symbols. Every pair that a merge gives birth to contains the new token, so its
counts are gathered in an array by neighbour, and each is then entered once: into the table of pairs (open addressing,
half a cache line a row) and into a heap. Counts in the heap may be too high, never too low; they are looked up again
when they come to the top. One step of all this is `_merge`.
"""

from collections.abc import Callable

import numpy as np

from pre_process.tokenizer.kernels import heap
from pre_process.tokenizer.kernels.merge_state import (
    HEAP,
    MERGES,
    PAIRS,
    PLACES,
    State,
    count_first_pairs,
    first_state,
    grown,
)
from pre_process.tokenizer.kernels.pairs import COUNT, FIRST, KEY, N, add_pair, move_pairs, pair_row
from pre_process.tokenizer.kernels.support import kernel, lean

GONE = -2
_STEPS = 2048  # merges between two looks at progress (and at Ctrl-C)
_LEFT_COUNT, _LEFT_N, _RIGHT_COUNT, _RIGHT_N = range(4)


def learn_merges(
    symbols: np.ndarray,
    weights: np.ndarray,
    *,
    n_merges: int,
    first_id: int,
    min_frequency: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[tuple[int, int]]:
    """As bpe.learn_merges, from words as words.spell writes them: symbols (S,) int32 (used up), weights (S,)."""
    if len(symbols) >= 1 << 31:
        raise ValueError(f"{len(symbols)} symbols in distinct words: 2³¹ is the limit; train on a part of the text")
    lowest = max(1, min_frequency)
    state = first_state(symbols, weights, first_id + n_merges)
    state.lengths[:first_id] = 1
    merges = np.empty((n_merges, 2), np.int32)
    while not count_first_pairs(state, lowest):
        state = grown(state, keep=False)
    goal = 0
    while goal < n_merges:
        goal = min(goal + _STEPS, n_merges)
        while _merge_until(state, merges, goal, first_id, lowest):
            state = grown(state, keep=True)
        done = int(state.used[MERGES])
        if progress and done:
            progress(done, n_merges)
        if done < goal:
            break
    return list(map(tuple, merges[: state.used[MERGES]].tolist()))


def warm_up() -> None:
    """Compile what only a large text needs: growing."""
    move_pairs(np.zeros((2, 4), np.int64), np.zeros((4, 4), np.int64))


@kernel
def _merge_until(state: State, merges: np.ndarray, goal: int, first_id: int, lowest: int) -> bool:
    """Merge until there are `goal` merges or no pair is frequent enough; True if room for pairs is needed before."""
    used = state.used
    while used[MERGES] < goal:
        if not _true_count_on_top(state, lowest):
            return False
        left, right = heap.key_on_top(state.heap)
        row = pair_row(state.pairs, left, right)
        new = first_id + used[MERGES]
        if 2 * (used[PAIRS] + 2 * min(state.pairs[row, N], new + 1)) >= len(state.pairs):
            return True  # there could be two pairs for each place, or for each token that there is
        used[HEAP] = heap.drop_top(state.heap, used[HEAP])
        merges[used[MERGES], 0], merges[used[MERGES], 1] = left, right
        _merge(state, left, right, new, lowest)
        used[MERGES] += 1
    return False


@lean
def _true_count_on_top(state: State, lowest: int) -> bool:
    """Refresh the heap until the count on its top is the true one; False if no pair occurs `lowest` times."""
    used = state.used
    while used[HEAP] > 0:
        left, right = heap.key_on_top(state.heap)
        count = state.pairs[pair_row(state.pairs, left, right), COUNT]
        if count == state.heap[0, heap.COUNT]:
            return True
        if count < lowest:
            used[HEAP] = heap.drop_top(state.heap, used[HEAP])
        else:
            heap.lower_top(state.heap, used[HEAP], count)
    return False


@lean
def _merge(state: State, left: int, right: int, new: int, lowest: int) -> None:
    """Write `new` for each `left right`, from left to right without overlap, and enter the pairs born by it."""
    pairs, symbols, lengths = state.pairs, state.symbols, state.lengths
    row = pair_row(pairs, left, right)
    lengths[new] = lengths[left] + lengths[right]
    n_born, n_touched = 0, 0
    for i in range(pairs[row, FIRST], pairs[row, FIRST] + pairs[row, N]):
        place = np.int64(state.places[i])
        middle = place + lengths[left]
        if symbols[place] != left or symbols[middle] != right:
            continue  # another merge has eaten a part of it
        end = middle + lengths[right]
        before, behind = symbols[place - 1], symbols[end]
        if before >= 0:
            n_touched = _note(state, n_touched, n_born, before, _LEFT_COUNT, place)
            _take(state, before, left, new, place)
            n_born += 1
        if behind >= 0:
            n_touched = _note(state, n_touched, n_born, behind, _RIGHT_COUNT, place)
            _take(state, right, behind, new, place)
            n_born += 1
        symbols[middle] = GONE
        symbols[place] = symbols[end - 1] = new
    _enter_pairs(state, new, n_touched, lowest)
    _write_places(state, n_born)
    for i in range(n_touched):
        state.neighbours[state.touched[i]] = 0


@lean
def _note(state: State, n_touched: int, n_born: int, neighbour: int, side: int, place: int) -> int:
    """Count the pair of `neighbour` and the new token at `place`; returns how many neighbours there are now."""
    row = state.neighbours[neighbour]
    if row[_LEFT_N] == 0 and row[_RIGHT_N] == 0:
        state.touched[n_touched] = neighbour
        n_touched += 1
    row[side] += state.weights[place]
    row[side + 1] += 1
    is_left = side == _LEFT_COUNT
    state.born[n_born, 0] = place - state.lengths[neighbour] if is_left else place
    state.born[n_born, 1] = -1 - neighbour if is_left else neighbour
    return n_touched


@lean
def _take(state: State, left: int, right: int, new: int, place: int) -> None:
    """One pair less. (new, right) was born a moment ago, at the place before: it is not in the table yet."""
    if left == new:
        state.neighbours[right, _RIGHT_COUNT] -= state.weights[place]
        return
    row = pair_row(state.pairs, left, right)
    if row >= 0:
        state.pairs[row, COUNT] -= state.weights[place]


@lean
def _enter_pairs(state: State, new: int, n_touched: int, lowest: int) -> None:
    """Into the table and the heap with the new pairs that are frequent enough, and room for their places.

    From here on the columns N of `neighbours` hold 1 + the row of the pair, 0 for one that was left out.
    """
    for i in range(n_touched):
        neighbour = np.int64(state.touched[i])
        for side in (_LEFT_COUNT, _RIGHT_COUNT):
            count, n = state.neighbours[neighbour, side], state.neighbours[neighbour, side + 1]
            state.neighbours[neighbour, side + 1] = 0
            if n == 0 or count < lowest:
                continue
            left, right = (neighbour, new) if side == _LEFT_COUNT else (new, neighbour)
            row = add_pair(state.pairs, left, right, state.used)
            state.pairs[row, COUNT] = count
            state.pairs[row, FIRST] = state.used[PLACES]
            state.used[PLACES] += n
            state.neighbours[neighbour, side + 1] = 1 + row
            heap.push(state.heap, state.used[HEAP], count, state.pairs[row, KEY])
            state.used[HEAP] += 1


@lean
def _write_places(state: State, n_born: int) -> None:
    for i in range(n_born):
        place, neighbour = state.born[i, 0], np.int64(state.born[i, 1])
        if neighbour < 0:
            row = state.neighbours[-1 - neighbour, _LEFT_N] - 1
        else:
            row = state.neighbours[neighbour, _RIGHT_N] - 1
        if row >= 0:
            state.places[state.pairs[row, FIRST] + state.pairs[row, N]] = place
            state.pairs[row, N] += 1
