"""What both architectures do before they learn: read a sentence, thin it out, draw windows and negatives.

A corpus is a row of word ids in which END ends a sentence; no sentence is longer than LONGEST.
"""

from typing import NamedTuple

import numpy as np

from pre_process.word2vec.kernels import END, LONGEST
from pre_process.word2vec.kernels.chance import below, draw, draw_word, fraction
from pre_process.word2vec.kernels.support import inline
from pre_process.word2vec.kernels.vector import LANES, fetch_line, padded

GROUP = 6  # targets that are learnt from together: a word and five negatives, and their rows fit into registers


class Model(NamedTuple):
    """What is learnt, and what it is learnt by. The rows of words lie behind each other, padded to `width`.

    inputs, outputs  (V · width,) float32
    keep             (V,) float32: the probability that an occurrence of a word is used; ≥ 1 means always
    shares, others   the table that negatives are drawn from (chance.alias_table)
    """

    inputs: np.ndarray
    outputs: np.ndarray
    width: int
    keep: np.ndarray
    shares: np.ndarray
    others: np.ndarray


class Schedule(NamedTuple):
    """The learning rate falls evenly from `first` to `last` while `words` words of the corpus go by."""

    first: float
    last: float
    words: int


class Desk(NamedTuple):
    """A thread's working memory.

    random   (1,) uint64: the state of the generator
    words    (LONGEST,) int32: a sentence without the occurrences that were thinned out
    reach    (LONGEST,) int32: how far the window of each word reaches
    targets  (LONGEST, GROUP · groups) int32: each word and its negatives; the word itself again where there are too few
    rows     (2 · window,) int64: where the rows of a window's other words begin
    scores   (GROUP, 2 · window, padded) float32, flat: of each target for each of them, then their errors
    hidden   (width,) float32
    """

    random: np.ndarray
    words: np.ndarray
    reach: np.ndarray
    targets: np.ndarray
    rows: np.ndarray
    scores: np.ndarray
    hidden: np.ndarray


def new_desk(width: int, window: int, negative: int) -> Desk:
    """Working memory for one thread."""
    return Desk(
        np.zeros(1, np.uint64),
        np.empty(LONGEST, np.int32),
        np.empty(LONGEST, np.int32),
        np.empty((LONGEST, -(-(1 + negative) // GROUP) * GROUP), np.int32),
        np.empty(2 * window, np.int64),
        np.zeros(GROUP * padded(2 * window), np.float32),
        np.empty(width, np.float32),
    )


@inline
def read_sentence(ids: np.ndarray, at: int, keep: np.ndarray, desk: Desk) -> tuple[int, int]:
    """Copy the sentence that begins at `at`, thinned out; returns where the next one begins and how many words stay.

    Words that are thinned out leave no gap: windows reach further for them, as in word2vec.c.
    """
    n = 0
    while at < len(ids) and ids[at] != END:
        word = ids[at]
        at += 1
        if fraction(draw(desk.random)) < keep[word]:
            desk.words[n] = word
            n += 1
    return at + 1, n


@inline
def draw_windows(n: int, window: int, negative: int, model: Model, desk: Desk) -> None:
    """For each of n words: how far its window reaches, evenly from 1 to `window`, and its negatives."""
    for p in range(n):
        desk.reach[p] = 1 + below(draw(desk.random), window)
        word, targets = desk.words[p], desk.targets[p]
        targets[0] = word
        for k in range(1, len(targets)):
            targets[k] = draw_word(desk.random, model.shares, model.others) if k <= negative else word


@inline
def list_rows(p: int, n: int, width: int, desk: Desk) -> int:
    """Write where the rows of the words around place p begin; returns how many there are."""
    first, last = max(0, p - desk.reach[p]), min(n - 1, p + desk.reach[p])
    m = 0
    for q in range(first, last + 1):
        if q != p:
            desk.rows[m] = np.int64(desk.words[q]) * width
            m += 1
    return m


@inline
def fetch_ahead(p: int, n: int, window: int, model: Model, desk: Desk) -> None:
    """Call in the rows that place p + 1 will need and that no window before it had."""
    if p + 1 < n:
        for target in desk.targets[p + 1]:
            _fetch_row(model.outputs, np.int64(target) * model.width, model.width)
    if p + 1 + window < n:
        _fetch_row(model.inputs, np.int64(desk.words[p + 1 + window]) * model.width, model.width)


@inline
def _fetch_row(rows: np.ndarray, start: int, width: int) -> None:
    for d in range(0, width, LANES):
        fetch_line(rows, start + d)


@inline
def learning_rate(schedule: Schedule, words_before: int) -> np.float32:
    """The learning rate after so many words."""
    share = words_before / schedule.words
    return np.float32(schedule.first + (schedule.last - schedule.first) * share)
