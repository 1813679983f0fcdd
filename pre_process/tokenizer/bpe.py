"""Byte-pair encoding, the learning half: which two neighbours to join next, again and again (Sennrich et al. 2016).

The idea on Wikipedia's example, "aaabdaaabac". The most frequent pair of neighbours gets a symbol of its own:

    aaabdaaabac     aa occurs most often       Z = aa
    ZabdZabac       Za and ab tie              Y = ab  (or Za: a rule must break the tie, see below)
    ZYdZYac         ZY                         X = ZY
    XdXac           every pair occurs once: done

Text is not one string but a table of pieces (words) with counts, so a merge never crosses a word border, and a word
that occurs 10,000 times is handled once. Counting all pairs anew for each merge would be quadratic; here the counts are
kept: a merge only visits the words that hold its pair. Not done here: applying the merges to new text (encoder.py).

Ties go to the smaller left id, then the smaller right id: Hugging Face's rule, so that the merges are theirs.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

Pair = tuple[int, int]


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
    Time: a word is rewritten once for each merge inside it, so it is linear in the distinct words, not in the text.
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


def merge(word: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    """`word` with each `pair` replaced by `new_id`, left to right without overlap: aaa → Za, not aZ."""
    merged, i = [], 0
    while i < len(word):
        if tuple(word[i : i + 2]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return merged


class _PairTable:
    """Every pair of neighbours: how often it occurs and in which words; a heap finds the most frequent one."""

    def __init__(self, words: Mapping[tuple[int, ...], int]) -> None:
        self._words: list[Sequence[int]] = list(words)
        self._frequency = list(words.values())
        self._count: dict[Pair, int] = defaultdict(int)
        self._words_with: dict[Pair, set[int]] = defaultdict(set)
        for index, word in enumerate(self._words):
            for pair in pairwise(word):
                self._count[pair] += self._frequency[index]
                self._words_with[pair].add(index)
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
            if count > 0:
                heapq.heappush(self._heap, (-count, pair))
        return (0, 0), 0

    def replace(self, pair: Pair, new_id: int) -> None:
        """Write `new_id` for `pair` in every word and keep the counts of the pairs around it."""
        born: set[Pair] = set()
        for index in self._words_with.pop(pair):
            old = self._words[index]
            new = self._words[index] = merge(old, pair, new_id)
            if len(new) == len(old):
                continue  # another merge has eaten the pair in this word
            for lost in pairwise(old):
                self._count[lost] -= self._frequency[index]
            for kept in pairwise(new):
                self._count[kept] += self._frequency[index]
                if new_id in kept:
                    self._words_with[kept].add(index)
                    born.add(kept)
        del self._count[pair]
        for neighbours in born:
            heapq.heappush(self._heap, (-self._count[neighbours], neighbours))
