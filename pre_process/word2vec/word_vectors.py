"""Words with their vectors: which words are near, and a is to b as c is to …"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np


class UnknownWordError(ValueError):
    """A word that has no vector; the message is one line."""


@dataclass(frozen=True, eq=False)
class WordVectors:
    """What training on words gives. Raises ValueError where lengths don't match.

    words    V different strings, the most frequent first
    counts   (V,) int64: how often each occurs; 0 where a file didn't say
    vectors  (V, d) float32, row i of words[i]
    """

    words: list[str]
    counts: np.ndarray
    vectors: np.ndarray

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or not len(self.words) == len(self.counts) == len(self.vectors):
            raise ValueError(
                f"{len(self.words)} words, {len(self.counts)} counts and vectors of shape {self.vectors.shape}: "
                "there must be as many rows and counts as words"
            )

    @cached_property
    def index(self) -> dict[str, int]:
        """The row of each word."""
        return {word: row for row, word in enumerate(self.words)}

    @cached_property
    def lengths(self) -> np.ndarray:
        """(V,) float32: the Euclidean length of each vector; 1 for a vector of zeros, whose cosines are then 0."""
        squares = np.einsum("vd,vd->v", self.vectors, self.vectors)  # no copy of the matrix, as norm would make
        return np.where(squares > 0, np.sqrt(squares), 1).astype(np.float32)

    def row(self, word: str) -> int:
        """The row of a word. Raises UnknownWordError."""
        if word not in self.index:
            lower = f"; {word.lower()!r} has one" if word.lower() in self.index else ""
            raise UnknownWordError(f"no vector for {word!r} among {len(self.words):,} words{lower}")
        return self.index[word]

    def similarity(self, a: str, b: str) -> float:
        """The cosine of the angle between two words' vectors. Raises UnknownWordError."""
        return float(self._unit(a) @ self._unit(b))

    def nearest(self, word: str, n: int = 10) -> list[tuple[str, float]]:
        """The n other words of the highest cosine with `word`, each with it. Raises UnknownWordError."""
        return self._near(self._unit(word), n, {word})

    def analogy(self, a: str, b: str, c: str, n: int = 10) -> list[tuple[str, float]]:
        """a is to b as c is to …: the n other words of the highest cosine with b − a + c, each of length 1.

        Mikolov, Yih, Zweig 2013. Raises UnknownWordError.
        """
        wanted = self._unit(b) - self._unit(a) + self._unit(c)
        return self._near(wanted / (np.linalg.norm(wanted) or 1), n, {a, b, c})

    def _unit(self, word: str) -> np.ndarray:
        row = self.row(word)
        unit: np.ndarray = self.vectors[row] / self.lengths[row]
        return unit

    def _near(self, direction: np.ndarray, n: int, without: Collection[str]) -> list[tuple[str, float]]:
        cosines = self.vectors @ direction / self.lengths
        cosines[[self.index[word] for word in without]] = -np.inf
        n = max(0, min(n, len(self.words) - len(without)))
        rows = np.argpartition(-cosines, n - 1)[:n] if n else np.empty(0, int)
        rows = rows[np.lexsort((rows, -cosines[rows]))]
        return [(self.words[row], float(cosines[row])) for row in rows]
