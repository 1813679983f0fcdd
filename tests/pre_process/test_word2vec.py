"""Word vectors by both engines: row i belongs to token i, and what is wrong with the input is said in one line."""

from pathlib import Path

import numpy as np
import pytest

from pre_process.tokenizer import Tokenizer
from pre_process.tokenizer.byte_level import from_visible
from pre_process.word2vec import count_tokens, load_vectors, save_vectors, token_keys, train_embeddings

gensim_models = pytest.importorskip("gensim.models", reason="one of the engines under test")
every_engine = pytest.mark.parametrize("engine", ["nanograd", "gensim"])

# Tokens 1 and 2 stand in the same places, so do 3 and 4, …; 24 to 43 stand around them; 0, 21, 22, 23 never occur.
VOCAB = 44
PAIRS = [(a, a + 1) for a in range(1, 21, 2)]


def sentences(n: int = 6000) -> list[np.ndarray]:
    """Each pair has its own two fillers around it. Higher ids are more frequent: the opposite of gensim's order."""
    rng = np.random.default_rng(0)
    made = []
    for pair in rng.choice(len(PAIRS), size=n, p=np.arange(1, 11) / 55):
        token = PAIRS[pair][int(rng.random() < 0.7)]
        left, right = 24 + 2 * pair, 25 + 2 * pair
        made.append(np.array([left, left, token, right, right]))
    return made


def train(texts: list[np.ndarray], **settings: object) -> np.ndarray:
    arguments = {"vocab_size": VOCAB, "d_model": 16, "window": 2, "epochs": 20, "zero_ids": [23]} | settings
    return train_embeddings(texts, **arguments)  # type: ignore[arg-type]


def cosine(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return unit @ unit.T


@every_engine
@pytest.mark.parametrize("architecture", ["cbow", "skip-gram"])
def test_row_i_is_the_vector_of_token_i(architecture: str, engine: str) -> None:
    vectors = train(sentences(), architecture=architecture, engine=engine)
    assert vectors.shape == (VOCAB, 16)
    assert vectors.dtype == np.float32
    words = np.arange(1, 21)
    similarity = cosine(vectors)[np.ix_(words, words)] - 2 * np.eye(20)
    partner = words[similarity.argmax(axis=1)]
    assert partner.tolist() == [token + 1 if token % 2 else token - 1 for token in words]


def test_the_rows_are_gensims_own_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    models = []

    class Spy(gensim_models.Word2Vec):  # type: ignore[misc, name-defined]
        def __init__(self, *arguments: object, **settings: object) -> None:
            super().__init__(*arguments, **settings)
            models.append(self)

    monkeypatch.setattr("pre_process.word2vec.gensim_engine.Word2Vec", Spy)
    texts = sentences(500)
    vectors = train(texts, engine="gensim")
    [model] = models
    assert model.wv.index_to_key != sorted(model.wv.index_to_key, key=int)  # its order is another one
    for token in np.flatnonzero(count_tokens(texts, VOCAB)):
        np.testing.assert_array_equal(vectors[token], model.wv[str(token)])


@every_engine
def test_the_same_seed_gives_the_same_bits(engine: str) -> None:
    texts = sentences(300)
    first = train(texts, seed=3, engine=engine)
    np.testing.assert_array_equal(first, train(texts, seed=3, engine=engine))
    assert not np.equal(first, train(texts, seed=4, engine=engine)).all(axis=1)[count_tokens(texts, VOCAB) > 0].any()


@every_engine
def test_tokens_never_seen_get_the_mean_length_and_pads_nothing(engine: str) -> None:
    texts = sentences(2000)
    vectors = train(texts, epochs=2, engine=engine)
    counts = count_tokens(texts, VOCAB)
    assert np.flatnonzero(counts == 0).tolist() == [0, 21, 22, 23]
    length = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(length[[0, 21, 22]], length[counts > 0].mean(), rtol=1e-5)
    assert abs(cosine(vectors)[0, 21]) < 0.9
    assert not vectors[23].any()


@every_engine
def test_what_stands_after_the_first_ten_thousand_tokens_counts(engine: str) -> None:
    """gensim drops the rest of a sentence of more than 10,000 words."""
    late = np.concatenate([np.arange(10_500) % 1500 + 4, np.tile([1, 2, 3], 500)])
    vectors = train_embeddings([late], vocab_size=1504, d_model=16, epochs=5, engine=engine)  # type: ignore[arg-type]
    untrained = 0.5 / np.sqrt(16)  # gensim's first values are uniform within ±0.5 / d_model
    assert np.linalg.norm(vectors[1:4], axis=1).min() > 2 * untrained


def test_an_empty_sentence_of_any_type_is_passed_over() -> None:
    ids = np.array([1, 2] * 50)
    assert np.array_equal(train([np.array([]), ids]), train([ids]))


@every_engine
def test_progress_counts_words(engine: str) -> None:
    seen: list[tuple[int, int]] = []
    train(sentences(50), epochs=3, progress=lambda done, total: seen.append((done, total)), engine=engine)
    assert seen[-1] == (750, 750)
    assert all(total == 750 for _, total in seen)
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        ([], {}, "at least two different words .* 0 occurs"),
        ([np.array([], int)], {}, "at least two different words .* 0 occurs"),
        ([np.array([3, 3, 3])], {}, "at least two different words .* 1 occurs"),
        ([np.array([44])], {}, r"ids from 44 to 44 don't fit a vocabulary of 44"),
        ([np.array([-1, 0])], {}, r"ids from -1 to 0 don't fit"),
        ([np.array([1.5, 2])], {}, r"ids are integers in one dimension, not float64 of shape \(2,\)"),
        ([np.array([[1, 2]])], {}, r"ids are integers in one dimension, not int64 of shape \(1, 2\)"),
        ([np.array([1, 2])], {"zero_ids": [-1]}, "ids from -1 to 0 don't fit"),
        ([np.array([1, 2])], {"zero_ids": [44]}, "ids from 0 to 44 don't fit"),
        ([np.array([1, 2])], {"d_model": 0}, "d_model must be at least 1, not 0"),
        ([np.array([1, 2])], {"epochs": 0}, "epochs must be at least 1"),
        ([np.array([1, 2])], {"window": 0}, "window must be at least 1"),
        ([np.array([1, 2])], {"negative": 0}, "negative must be at least 1"),
        ([np.array([1, 2])], {"threads": 0}, "threads must be at least 1"),
        ([np.array([1, 2])], {"window": 10_001}, "window must be at most 10,000, not 10,001"),
        ([np.array([1, 2])], {"threads": 100_000}, "threads must be at most 1,024, not 100,000"),
        ([np.array([1, 2])], {"vocab_size": 0}, "vocab_size must be at least 1, not 0"),
        ([np.array([1, 2])], {"lr": float("nan")}, "lr must be a number above 0, not nan"),
        ([np.array([1, 2])], {"lr": float("inf")}, "lr must be a number above 0, not inf"),
        ([np.array([1, 2])], {"lr": -0.1}, "lr must be a number above 0, not -0.1"),
        ([np.array([1, 2])], {"min_lr": 1.0}, "min_lr must be between 0 and lr = 0.025, not 1.0"),
        ([np.array([1, 2])], {"min_lr": float("nan")}, "min_lr must be .* not nan"),
        ([np.array([1, 2])], {"sample": -1e-3}, "sample must be at least 0 and below 1, not -0.001"),
        ([np.array([1, 2])], {"sample": float("nan")}, "sample must be .* not nan"),
        ([np.array([1, 2])], {"seed": -1}, "seed must be at least 0"),
        (sentences(200), {"lr": 1e4}, "grew beyond all bounds: lr = 10000.0 is too high"),
        (sentences(200), {"lr": 1e4, "architecture": "skip-gram"}, "grew beyond all bounds"),
        (sentences(200), {"lr": 1e4, "engine": "gensim"}, "grew beyond all bounds"),
        ([np.array([1, 2])], {"architecture": "glove"}, "'glove'"),
        ([np.array([1, 2])], {"engine": "torch"}, "'torch'"),
        (iter([np.array([1, 2])]), {}, "iterator"),
    ],
)
def test_what_cannot_be_learnt_from(texts: list[np.ndarray], settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(texts, **settings)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([" spaces\n and\r tabs\t \u00a0 你好 and spaces and 你好"], vocab_size=280)


def test_keys_are_reversible_and_hold_no_white_space(tokenizer: Tokenizer) -> None:
    keys = token_keys(tokenizer)
    assert len(set(keys)) == len(keys) == tokenizer.vocab_size
    assert all(key.split() == [key] for key in keys)
    assert [from_visible(key) for key in keys] == [tokenizer.token_bytes(i) for i in range(len(keys))]


@pytest.mark.parametrize("suffix", [".bin", ".txt", ".npy"])
def test_saved_vectors_come_back_exactly(suffix: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    keys = token_keys(tokenizer)
    vectors = np.random.default_rng(0).normal(size=(len(keys), 7)).astype(np.float32)
    path = tmp_path / f"vectors{suffix}"
    save_vectors(path, vectors, keys)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    np.testing.assert_array_equal(load_vectors(path, keys), vectors)
    if suffix != ".npy":
        np.testing.assert_array_equal(load_vectors(path, keys[::-1]), vectors[::-1])  # by key, not by place
        words = gensim_models.KeyedVectors.load_word2vec_format(str(path), binary=suffix == ".bin")
        assert words.index_to_key == keys
        np.testing.assert_array_equal(words["Ġand"], vectors[keys.index("Ġand")])


@pytest.mark.parametrize("suffix", [".bin", ".txt", ".npy"])
def test_files_that_cannot_be_used(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"vectors{suffix}"
    with pytest.raises(ValueError, match=path.name):
        load_vectors(path, ["a"])
    save_vectors(path, np.ones((2, 3), np.float32), ["a", "b"])
    with pytest.raises(ValueError, match=r"lacks 1 of 3 tokens, among them 'c'|not a row for each of 3 tokens"):
        load_vectors(path, ["a", "b", "c"])
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=path.name):
        load_vectors(path, ["a", "b"])


@pytest.mark.parametrize("keys", [["a"], ["a", "a"], ["a", "b c"], ["a", ""], ["a", "b\n"]])
def test_keys_that_a_file_cannot_hold(keys: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="different keys without white space"):
        save_vectors(tmp_path / "a.txt", np.ones((2, 3), np.float32), keys)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_suffix(tmp_path: Path) -> None:
    for do in (lambda: save_vectors(tmp_path / "a.csv", np.ones((1, 1)), ["a"]), lambda: load_vectors("a.csv", ["a"])):
        with pytest.raises(ValueError, match=r"a\.csv: word vectors are kept in \.npy, \.bin, \.txt"):
            do()
