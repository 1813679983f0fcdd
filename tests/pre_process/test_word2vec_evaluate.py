"""The measures of word vectors: gensim's numbers, and what is said of vocabularies that miss most of the tests."""

import json
from pathlib import Path

import numpy as np
import pytest

from pre_process.word2vec.evaluate import ANALOGIES, SIMLEX, WORDSIM, Pairs, evaluate
from pre_process.word2vec.report import as_record
from pre_process.word2vec.word_vectors import WordVectors

gensim_models = pytest.importorskip("gensim.models")
gensim_utils = pytest.importorskip("gensim.test.utils")


def some(words: list[str], d: int = 10, seed: int = 0) -> WordVectors:
    vectors = np.random.default_rng(seed).normal(size=(len(words), d)).astype(np.float32)
    return WordVectors(words, np.zeros(len(words), np.int64), vectors)


def english() -> list[str]:
    """Half of the words of the tests, in upper and lower case, the commoner spelling first."""
    words: dict[str, None] = {}
    for name in ("wordsim353.tsv", "simlex999.txt", "questions-words.txt"):
        with Path(gensim_utils.datapath(name)).open(encoding="utf-8") as file:
            for line in file:
                words.update(dict.fromkeys(word.lower() for word in line.split() if word.isalpha()))
    kept = list(words)[::2]
    return kept + [word.capitalize() for word in kept[::5]]


def test_the_numbers_are_gensims() -> None:
    words = some(english())
    keyed = gensim_models.KeyedVectors(10)
    keyed.add_vectors(words.words, words.vectors)
    found = evaluate(words)
    for name, file in {WORDSIM: "wordsim353.tsv", SIMLEX: "simlex999.txt"}.items():
        _, spearman, outside = keyed.evaluate_word_pairs(gensim_utils.datapath(file))
        pairs = found.pairs[name]
        assert pairs.spearman == pytest.approx(spearman[0], abs=1e-6)
        assert 100 * (1 - pairs.used / pairs.total) == pytest.approx(outside)
    share, sections = keyed.evaluate_word_analogies(gensim_utils.datapath("questions-words.txt"))
    assert found.analogies.share == pytest.approx(share)
    assert [section.name for section in found.sections] == [section["section"] for section in sections[:-1]]
    assert sum(section.asked for section in found.sections) == found.analogies.asked > 100
    assert (found.pairs[WORDSIM].total, found.pairs[SIMLEX].total, found.n_analogies) == (353, 999, 19544)
    assert words.words == english()  # gensim was lent them


def test_analogies_that_hold() -> None:
    boy, girl, man, woman = np.array([[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]], np.float32)
    found = evaluate(
        WordVectors(["boy", "girl", "man", "woman"], np.ones(4, np.int64), np.stack([boy, girl, man, woman]))
    )
    assert (found.analogies.right, found.analogies.asked) == (2, 2)
    assert {section.name: section.share for section in found.sections if section.asked} == {"family": 1.0}
    assert found.pairs == {WORDSIM: Pairs(None, 1, 353), SIMLEX: Pairs(None, 1, 999)}
    record = json.loads(json.dumps(as_record(found), allow_nan=False))
    assert record[ANALOGIES]["share"] == 1
    assert record[WORDSIM] == {"spearman": None, "used": 1, "total": 353}


def test_too_few_pairs_are_no_correlation() -> None:
    three = evaluate(some(["tiger", "cat", "love", "sex"])).pairs[WORDSIM]  # "tiger" and "tiger" are a pair too
    assert three.used == 3
    assert three.spearman is not None
    assert evaluate(some(["tiger", "cat"])).pairs[WORDSIM] == Pairs(None, 2, 353)
    equal = WordVectors(["old", "new", "smart", "intelligent", "hard", "difficult"], np.zeros(6, np.int64),
                        np.ones((6, 2), np.float32))  # fmt: skip
    assert evaluate(equal).pairs[SIMLEX].spearman is None


def test_vectors_of_zeros() -> None:
    words = some(english())
    words.vectors[::3] = 0
    assert evaluate(words).pairs[WORDSIM].spearman is not None


@pytest.mark.parametrize("words", [["Ġthe", "Ġof"], ["haus"], ["中文", "the"]])
def test_words_of_no_test(words: list[str]) -> None:
    with pytest.raises(
        ValueError, match=rf"none of the {len(words)} words is in WordSim-353, SimLex-999 or the analog"
    ):
        evaluate(some(words))
