"""Byte-pair encoding, the learning half: which two neighbours to join next, again and again (Sennrich et al. 2016).

The idea on Wikipedia's example, "aaabdaaabac". The most frequent pair of neighbours gets a symbol of its own:

    aaabdaaabac     aa occurs most often       Z = aa
    ZabdZabac       Za and ab tie              Y = ab  (or Za: a rule must break the tie, see below)
    ZYdZYac         ZY                         X = ZY
    XdXac           every pair occurs once: done

Text is not one string but a table of pieces (words) with counts, so a merge never crosses a word border, and a word
that occurs 10,000 times is handled once. Counting all pairs anew for each merge would be quadratic; here the counts are
kept: a merge visits the places of its pair and changes the counts beside them. Not done here: applying the merges to
new text (encoder.py).

Ties go to the smaller left id, then the smaller right id: Hugging Face's rule, so that the merges are theirs.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import pairwise

Pair = tuple[int, int]
_EDGE = -1  # stands where a word ends, and where a symbol has been merged away


def learn_merges(
    words: Mapping[tuple[int, ...], int],
    *,
    n_merges: int,
    first_id: int,
    min_frequency: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Pair]:
    """The first `n_merges` merges of `words` (symbol ids → how often); merge i makes the symbol `first_id + i`.

    Fewer come back when the best pair is rarer than max(1, min_frequency). `progress(done, n_merges)` after each merge.
    The time goes with the symbols of the distinct words, each of which is merged away once at most.
    """
    table = _PairTable(words)
    merges: list[Pair] = []
    while len(merges) < n_merges:
        pair, count = table.most_frequent()
        if count < max(1, min_frequency):
            break
        table.replace(pair, first_id + len(merges))
        merges.append(pair)
        if progress:
            progress(len(merges), n_merges)
    return merges


class _PairTable:
    """Every pair of neighbours: how often it occurs and where; a heap finds the most frequent one.

    All words lie behind each other in one list of symbols, an edge before, between and behind them; each symbol is
    linked to its neighbours. A merge writes the new symbol over the left one and unlinks the right one, so it costs
    the same in a word of a thousand symbols as in a word of two.
    """

    def __init__(self, words: Mapping[tuple[int, ...], int]) -> None:
        self._symbols = [_EDGE]
        self._weight = [0]  # how often the word around each symbol occurs
        for word, count in words.items():
            self._symbols += (*word, _EDGE)
            self._weight += [count] * (len(word) + 1)
        self._before = list(range(-1, len(self._symbols) - 1))
        self._after = list(range(1, len(self._symbols) + 1))
        self._count: dict[Pair, int] = defaultdict(int)
        self._places: dict[Pair, list[int]] = defaultdict(list)  # where its left symbol is, or was; ascending
        for place, pair in enumerate(pairwise(self._symbols)):
            if _EDGE not in pair:
                self._count[pair] += self._weight[place]
                self._places[pair].append(place)
        self._heap = [(-count, pair) for pair, count in self._count.items()]
        heapq.heapify(self._heap)

    def most_frequent(self) -> tuple[Pair, int]:
        """The pair with the highest count, ties to the smallest ids, and that count (0 when no pair is left).

        A count in the heap may be too high but never too low: after a pair is born, other merges only take from it.
        So a stale entry goes back with its true count, and the first true one on top is the maximum.
        """
        while self._heap:
            negative_count, pair = heapq.heappop(self._heap)
            count = self._count[pair]
            if count == -negative_count:
                return pair, count
            heapq.heappush(self._heap, (-count, pair))
        return (0, 0), 0

    def replace(self, pair: Pair, new_id: int) -> None:
        """Write `new_id` for `pair` everywhere, from left to right without overlap: aaa → Za, not aZ."""
        symbols, before, after = self._symbols, self._before, self._after
        born: set[Pair] = set()
        for left in self._places.pop(pair):
            right = after[left]
            if (symbols[left], symbols[right]) != pair:
                continue  # another merge has eaten a part of it
            far_left, far_right = before[left], after[right]
            self._count[symbols[far_left], symbols[left]] -= self._weight[left]
            self._count[symbols[right], symbols[far_right]] -= self._weight[left]
            symbols[left], symbols[right] = new_id, _EDGE
            after[left], before[far_right] = far_right, left
            for place in (far_left, left):
                neighbours = symbols[place], symbols[after[place]]
                if _EDGE not in neighbours:
                    self._count[neighbours] += self._weight[left]
                    self._places[neighbours].append(place)
                    born.add(neighbours)
        del self._count[pair]
        for neighbours in born:
            heapq.heappush(self._heap, (-self._count[neighbours], neighbours))
