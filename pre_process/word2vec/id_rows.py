"""A corpus as both engines read it: a row of word ids in which −1 ends a sentence."""

from collections.abc import Iterable, Iterator

import numpy as np

from pre_process.word2vec.kernels import END, LONGEST


def join_sentences(sentences: Iterable[np.ndarray]) -> np.ndarray:
    """(n,) int32 of arrays of ids: empty ones left out, END behind each, those longer than LONGEST cut."""
    end = np.array([END], np.int32)
    parts = []
    for ids in sentences:
        for start in range(0, len(ids), LONGEST):
            parts += [np.asarray(ids[start : start + LONGEST], np.int32), end]
    return np.concatenate(parts) if parts else np.empty(0, np.int32)


def split_sentences(ids: np.ndarray) -> Iterator[np.ndarray]:
    """The sentences, without their ends; views."""
    start = 0
    for end in np.flatnonzero(ids == END).tolist():
        yield ids[start:end]
        start = end + 1


def cut_blocks(ids: np.ndarray, size: int) -> list[np.ndarray]:
    """Views of whole sentences, each block as long as it takes to reach `size`; the last may be shorter."""
    ends: np.ndarray = np.flatnonzero(ids == END) + 1
    blocks, start = [], 0
    while start < len(ids):
        end = int(ends[min(int(np.searchsorted(ends, start + size)), len(ends) - 1)])
        blocks.append(ids[start:end])
        start = end
    return blocks
