"""How good word vectors are, as the field measures it: do they agree with people, and do they solve analogies?

WordSim-353   353 pairs of words that people have rated by relatedness (Finkelstein et al. 2002)
SimLex-999    999 pairs rated by similarity alone: "cup" and "coffee" are related, not similar (Hill et al. 2015)
analogies     19,544 questions "Athens is to Greece as Oslo is to …", 14 kinds (Mikolov et al. 2013)

Of the pairs, Spearman's rank correlation between the cosines and the ratings counts; of the analogies, how many nearest
words are right. Pairs and questions with a word that has no vector are left out, so their share belongs to the result.
Evaluators and files are gensim's.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pre_process.word2vec.word_vectors import WordVectors

if TYPE_CHECKING:
    from gensim.models import KeyedVectors

WORDSIM, SIMLEX, ANALOGIES = "WordSim-353", "SimLex-999", "analogies"
_PAIR_FILES = {WORDSIM: "wordsim353.tsv", SIMLEX: "simlex999.txt"}
_FREQUENT = 300_000  # words that are candidates: gensim's custom


@dataclass(frozen=True)
class Pairs:
    """Agreement with people: Spearman's correlation over `used` of `total` pairs; None where fewer than 3 are used."""

    spearman: float | None
    used: int
    total: int


@dataclass(frozen=True)
class Section:
    """Analogies of one kind: `right` of the `asked` ones, whose four words have vectors."""

    name: str
    right: int
    asked: int

    @property
    def share(self) -> float | None:
        """Of right answers; None if there was no question."""
        return self.right / self.asked if self.asked else None


@dataclass(frozen=True)
class Evaluation:
    """Both sets of pairs by name; the analogies in all, how many there are, and each kind of them."""

    pairs: dict[str, Pairs]
    analogies: Section
    n_analogies: int
    sections: list[Section]


def evaluate(words: WordVectors) -> Evaluation:
    """Measure word vectors; upper and lower case are one, the more frequent word stands for both.

    Raises ValueError if no word of any pair and no analogy has vectors.
    """
    keyed = _as_gensim(words)
    known = {word.upper() for word in words.words[:_FREQUENT]}
    pairs = {name: _pairs(keyed, known, _data(file)) for name, file in _PAIR_FILES.items()}
    *sections, total = _analogies(keyed, _data("questions-words.txt"))
    if not total.asked and not any(found.used for found in pairs.values()):
        raise ValueError(
            f"none of the {len(words.words):,} words is in {WORDSIM}, {SIMLEX} or the analogies, which ask for English"
        )
    return Evaluation(pairs, total, len(_rows(_data("questions-words.txt"), None, 4)), sections)


def _as_gensim(words: WordVectors) -> "KeyedVectors":
    """gensim's object around the same matrix: nothing is copied."""
    from gensim.models import KeyedVectors

    keyed = KeyedVectors(words.vectors.shape[1])
    keyed.vectors, keyed.index_to_key, keyed.key_to_index = words.vectors, words.words, words.index
    keyed.norms = words.lengths  # 1 for a vector of zeros, where gensim would divide by zero
    return keyed


def _data(name: str) -> Path:
    from gensim.test.utils import datapath

    return Path(datapath(name))


def _rows(path: Path, delimiter: str | None, width: int) -> list[list[str]]:
    """The lines of so many parts; what else there is are comments and titles."""
    rows = [line.split(delimiter) for line in path.read_text(encoding="utf-8").splitlines() if line[:1] not in "#:"]
    return [row for row in rows if len(row) == width]


def _pairs(keyed: "KeyedVectors", known: set[str], path: Path) -> Pairs:
    rows = _rows(path, "\t", 3)
    used = sum(a.upper() in known and b.upper() in known for a, b, _ in rows)
    if used < 3:  # a correlation of two points is 1 or −1
        return Pairs(None, used, len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all cosines equal: the correlation is NaN
        _, (spearman, _), _ = keyed.evaluate_word_pairs(str(path), restrict_vocab=_FREQUENT)
    return Pairs(float(spearman) if np.isfinite(spearman) else None, used, len(rows))


def _analogies(keyed: "KeyedVectors", path: Path) -> list[Section]:
    """Each kind, and all together as the last."""
    _, found = keyed.evaluate_word_analogies(str(path), restrict_vocab=_FREQUENT)
    return [
        Section(kind["section"], len(kind["correct"]), len(kind["correct"]) + len(kind["incorrect"])) for kind in found
    ]
