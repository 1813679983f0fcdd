"""WordVectors: neighbours and analogies as the plain formula and gensim have them."""

import numpy as np
import pytest

from pre_process.word2vec.word_vectors import UnknownWordError, WordVectors

gensim_models = pytest.importorskip("gensim.models")


def some(n: int = 300, d: int = 12, seed: int = 0) -> WordVectors:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, d)).astype(np.float32) * rng.uniform(0.1, 5, (n, 1)).astype(np.float32)
    return WordVectors([f"w{i}" for i in range(n)], np.arange(n, 0, -1), vectors)


def as_gensim(words: WordVectors) -> "gensim_models.KeyedVectors":
    keyed = gensim_models.KeyedVectors(words.vectors.shape[1])
    keyed.add_vectors(words.words, words.vectors)
    return keyed


def close(found: list[tuple[str, float]], theirs: list[tuple[str, float]]) -> None:
    assert [word for word, _ in found] == [word for word, _ in theirs]
    np.testing.assert_allclose([cosine for _, cosine in found], [cosine for _, cosine in theirs], atol=2e-6)


@pytest.mark.parametrize("n", [1, 10, 297])
def test_neighbours_and_analogies_are_gensims(n: int) -> None:
    words = some()
    keyed = as_gensim(words)
    close(words.nearest("w7", n), keyed.most_similar("w7", topn=n))
    close(words.analogy("w1", "w2", "w3", n), keyed.most_similar(positive=["w2", "w3"], negative=["w1"], topn=n))
    assert words.similarity("w4", "w5") == pytest.approx(keyed.similarity("w4", "w5"), abs=1e-6)


def test_there_are_no_more_neighbours_than_words() -> None:
    words = some(4)
    assert len(words.nearest("w0", 100)) == 3
    assert len(words.analogy("w0", "w1", "w2", 100)) == 1
    assert words.nearest("w0", 0) == []
    assert some(1).nearest("w0", 5) == []
    assert len(words.analogy("w0", "w0", "w0")) == 3


def test_a_planted_analogy() -> None:
    man, woman, royal = np.eye(3, 8, dtype=np.float32)
    vectors = np.stack([man, woman, man + royal, woman + royal])
    words = WordVectors(["man", "woman", "king", "queen"], np.ones(4, np.int64), vectors)
    assert words.analogy("man", "woman", "king", 1)[0][0] == "queen"


def test_a_vector_of_zeros_is_near_nothing() -> None:
    words = some(5)
    words.vectors[2] = 0
    assert words.similarity("w2", "w0") == 0
    assert [cosine for _, cosine in words.nearest("w2")] == [0, 0, 0, 0]


def test_what_cannot_be_asked() -> None:
    with pytest.raises(UnknownWordError, match="no vector for 'nowhere' among 300 words"):
        some().nearest("nowhere")
    with pytest.raises(UnknownWordError, match="no vector for 'W7' among 300 words; 'w7' has one"):
        some().nearest("W7")
    with pytest.raises(ValueError, match=r"2 words, 1 counts and vectors of shape \(2, 3\)"):
        WordVectors(["a", "b"], np.ones(1, np.int64), np.ones((2, 3), np.float32))
