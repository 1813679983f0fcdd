"""Which tokens a piece becomes: its symbols, then the training replayed on them. Three ways with one result.

The rule: of all neighbours that have a merge, join those of the lowest rank, the leftmost first; again, until none is
left. Looking for them anew after every join takes n² steps, which for a word of ten letters is the fastest way.

    join_few      n²         looks through an array of ranks; for up to FEW bytes
    join_many     n + ranks  rank after rank, a list of places for each; from MANY bytes on, if merges are `in_order`
    join_by_heap  n log n    a heap of (rank, place); for all others (heap_merges.py)
"""

from typing import Any, NamedTuple

import numpy as np

from pre_process.tokenizer.kernels.pair_ranks import NEVER, rank_of
from pre_process.tokenizer.kernels.support import helper, kernel, lean

FEW = 64  # bytes; from here on the heap is quicker than looking through all ranks
MANY = 1024  # bytes; from here on a list for each rank is quicker than the heap
_NOWHERE = np.int32(-1)  # stands for the list of a place that is in none


class Merges(NamedTuple):
    """A vocabulary's merges as arrays.

    symbols   (256 + …,) int32: the id of each byte, then, at character level, the id of each code point; −1 if none
    pairs     pair_ranks.pair_ranks: (left, right) → rank
    made      (M,) int32: the id that the merge of each rank makes
    lengths   (V,) int32: bytes of each token
    in_order  a token's parts are made before it, and there is one way to make it
    """

    symbols: np.ndarray
    pairs: np.ndarray
    made: np.ndarray
    lengths: np.ndarray
    in_order: bool


@lean
def first_symbol(data: np.ndarray, start: int, end: int, symbols: np.ndarray) -> tuple[Any, int]:
    """(id, bytes) of the symbol at `start`: at character level a known character that is whole, else a byte."""
    lead = np.int64(data[start])
    if lead >= 0xC0 and len(symbols) > 256:
        point, length = _character(data, start, lead)
        if start + length <= end and 256 + point < len(symbols) and symbols[256 + point] >= 0:
            return symbols[256 + point], length
    return symbols[lead], 1


@lean
def _character(data: np.ndarray, start: int, lead: int) -> tuple[Any, int]:
    """(code point, bytes) of the UTF-8 character of two to four bytes at `start`."""
    second = np.int64(data[start + 1]) & 0x3F
    if lead < 0xE0:
        return (lead & 0x1F) << 6 | second, 2
    third = np.int64(data[start + 2]) & 0x3F
    if lead < 0xF0:
        return (lead & 0x0F) << 12 | second << 6 | third, 3
    return (lead & 0x07) << 18 | second << 12 | third << 6 | np.int64(data[start + 3]) & 0x3F, 4


@lean
def join_few(data: np.ndarray, start: int, end: int, merges: Merges, tokens: np.ndarray, ranks: np.ndarray) -> int:
    """Write the ids of data[start:end] to `tokens` and return how many; `ranks` is working memory of the same size."""
    n = _symbols_and_ranks(data, start, end, merges, tokens, ranks)
    return _join_down_to(1, tokens, ranks, n, merges)


@lean
def _symbols_and_ranks(
    data: np.ndarray, start: int, end: int, merges: Merges, tokens: np.ndarray, ranks: np.ndarray
) -> int:
    """Write the symbols of data[start:end] and the rank of each with the next one; return how many symbols."""
    n = 0
    while start < end:
        tokens[n], length = first_symbol(data, start, end, merges.symbols)
        start += length
        n += 1
    for k in range(n - 1):
        ranks[k] = rank_of(merges.pairs, tokens[k], tokens[k + 1])
    return n


@lean
def _join_down_to(least: int, tokens: np.ndarray, ranks: np.ndarray, n: int, merges: Merges) -> int:
    """Join until `least` tokens are left or no two can be joined; return how many there are."""
    while n > least:
        place = _leftmost_lowest(ranks, n - 1)
        if ranks[place] == NEVER:
            break
        tokens[place] = merges.made[ranks[place]]
        n -= 1
        for k in range(place + 1, n):
            tokens[k] = tokens[k + 1]
        for k in range(place + 1, n - 1):
            ranks[k] = ranks[k + 1]
        if place < n - 1:
            ranks[place] = rank_of(merges.pairs, tokens[place], tokens[place + 1])
        if place > 0:
            ranks[place - 1] = rank_of(merges.pairs, tokens[place - 1], tokens[place])
    return n


@lean
def _leftmost_lowest(ranks: np.ndarray, n: int) -> int:
    """Where the lowest of the first n ranks is: two simple loops, the first of which LLVM turns into vectors."""
    lowest = NEVER
    for k in range(n):
        lowest = min(lowest, ranks[k])
    place = 0
    while ranks[place] != lowest:
        place += 1
    return place


@kernel
def last_joins(data: np.ndarray, starts: np.ndarray, merges: Merges, left: np.ndarray, right: np.ndarray) -> None:
    """Write which two tokens data[starts[k]:starts[k + 1]] is joined from at last; −1, −1 if it ends as more."""
    room = 1
    for k in range(len(left)):
        room = max(room, starts[k + 1] - starts[k])
    tokens, ranks = np.empty(room, np.int32), np.empty(room, np.int32)
    for k in range(len(left)):
        n = _symbols_and_ranks(data, starts[k], starts[k + 1], merges, tokens, ranks)
        whole = _join_down_to(2, tokens, ranks, n, merges) == 2 and ranks[0] != NEVER
        left[k], right[k] = (tokens[0], tokens[1]) if whole else (-1, -1)


@helper
def join_many(data: np.ndarray, start: int, end: int, merges: Merges, out: np.ndarray, n_out: int) -> int:
    """Write the ids of data[start:end] behind the first n_out of `out`; return how many there are then.

    Each place where a token begins is in the list of the rank with which that token joins the next one. Ranks come in
    their order, for a join gives rise to later ranks only. Each list is in the order of the text without sorting, for
    all its places were added while one other list, that of the token made last, was worked off from left to right.
    """
    n, n_ranks = end - start, len(merges.made)
    token = np.empty(n, np.int32)
    after, before = np.empty(n + n_ranks, np.int32), np.empty(n + n_ranks, np.int32)
    _list_pairs(data, start, end, merges, token, after, before)
    for rank in range(n_ranks):
        if after[n + rank] != n + rank:
            _join_all(rank, token, after, before, merges)
    return _copy_tokens(token, merges.lengths, out, n_out)


@lean
def _list_pairs(
    data: np.ndarray, start: int, end: int, merges: Merges, token: np.ndarray, after: np.ndarray, before: np.ndarray
) -> None:
    """Write the symbols of data[start:end] to `token`, and put each that can join the next one into its list.

    A list is a circle, after[p] and before[p], that is closed by a head for each rank behind the places. A token
    writes its id at its first and at its last byte: so both neighbours of a place are found without links.
    """
    n, place = end - start, 0
    for head in range(n, len(after)):
        after[head] = before[head] = head
    while place < n:
        after[place] = _NOWHERE
        token[place], length = first_symbol(data, start + place, end, merges.symbols)
        token[place + length - 1] = token[place]
        if place > 0:
            _add(_left_of(place, token, merges), place, token, after, before, merges)
        place += length


@lean
def _join_all(rank: int, token: np.ndarray, after: np.ndarray, before: np.ndarray, merges: Merges) -> None:
    """Join all pairs of one rank, from left to right, and put their new neighbourhoods into the lists."""
    n, joined = len(token), merges.made[rank]
    while after[n + rank] != n + rank:
        place = np.int64(after[n + rank])
        right, end = place + merges.lengths[token[place]], place + merges.lengths[joined]
        _remove(place, after, before)
        _remove(right, after, before)
        token[place] = token[end - 1] = joined
        if end < n:
            _add(place, end, token, after, before, merges)
        if place > 0:
            left = _left_of(place, token, merges)
            _remove(left, after, before)
            _add(left, place, token, after, before, merges)


@lean
def _left_of(place: int, token: np.ndarray, merges: Merges) -> int:
    """Where the token begins that ends right before `place`."""
    return place - merges.lengths[token[place - 1]]


@lean
def _add(left: int, right: int, token: np.ndarray, after: np.ndarray, before: np.ndarray, merges: Merges) -> None:
    """Put the place `left` at the end of the list of its rank, if the tokens at left and right can be joined."""
    rank = rank_of(merges.pairs, token[left], token[right])
    if rank != NEVER:
        head = len(token) + rank
        last = before[head]
        after[last] = before[head] = left
        after[left], before[left] = head, last


@lean
def _remove(place: int, after: np.ndarray, before: np.ndarray) -> None:
    """Take `place` out of its list, if it is in one."""
    if after[place] != _NOWHERE:
        after[before[place]], before[after[place]] = after[place], before[place]
        after[place] = _NOWHERE


@lean
def _copy_tokens(token: np.ndarray, lengths: np.ndarray, out: np.ndarray, n_out: int) -> int:
    """Append to `out` the tokens that stand at their first bytes; return how many are there then."""
    place = 0
    while place < len(token):
        out[n_out] = token[place]
        n_out += 1
        place += lengths[token[place]]
    return n_out
