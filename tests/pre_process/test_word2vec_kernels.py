"""The compiled engine beside plain NumPy: the same random numbers, the same order of updates."""

import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pre_process.word2vec import engine, train_embeddings
from pre_process.word2vec.id_rows import cut_blocks, join_sentences, split_sentences
from pre_process.word2vec.kernels import END, LONGEST
from pre_process.word2vec.kernels.chance import alias_table
from pre_process.word2vec.settings import Settings

GROUP, MASK = 6, (1 << 64) - 1


class Chance:
    """SplitMix64 in Python's own numbers."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def bits(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
        return z ^ (z >> 31)

    def below(self, n: int) -> int:
        return (self.bits() >> 32) * n >> 32

    def fraction(self) -> float:
        return ((self.bits() & 0xFFFFFFFF) >> 8) * 2.0**-24

    def word(self, shares: np.ndarray, others: np.ndarray) -> int:
        bits = self.bits()
        word = (bits >> 32) * len(shares) >> 32
        return word if ((bits & 0xFFFFFFFF) >> 8) * 2.0**-24 < shares[word] else int(others[word])


class Window(NamedTuple):
    rate: float
    around: list[int]
    targets: list[int]


def reference(ids: np.ndarray, counts: np.ndarray, chosen: Settings) -> np.ndarray:
    """What engine.train should give, in float64, window after window."""
    model = engine._new_model(counts, chosen)
    W = model.inputs.reshape(len(counts), -1)[:, : chosen.d_model].astype(np.float64)
    C = np.zeros_like(W)
    learn = learn_skip_gram if chosen.architecture == "skip-gram" else learn_cbow
    for block in engine._passes(cut_blocks(ids, engine.BLOCK), chosen):
        for window in windows(block, int(counts.sum()) * chosen.epochs, model, chosen):
            for first in range(0, len(window.targets), GROUP):
                learn(W, C, window, window.targets[first : first + GROUP], has_word=first == 0)
    return W


def windows(block, total, model, chosen):
    chance, before = Chance(int(block.seed[0])), block.words_before
    for sentence in split_sentences(block.ids):
        rate = chosen.lr + (chosen.min_lr - chosen.lr) * before / total
        before += len(sentence)
        kept = [int(word) for word in sentence if chance.fraction() < model.keep[word]]
        drawn = []
        for word in kept:
            reach = 1 + chance.below(chosen.window)
            drawn.append((reach, [word, *(chance.word(model.shares, model.others) for _ in range(chosen.negative))]))
        for p, (reach, targets) in enumerate(drawn):
            yield Window(rate, kept[max(0, p - reach) : p] + kept[p + 1 : p + 1 + reach], targets)


def errors(scores: np.ndarray, window: Window, targets: list[int], has_word: bool) -> np.ndarray:
    e = -window.rate / (1 + np.exp(-scores))
    e[..., [k > 0 or not has_word for k in range(len(targets))] & (np.array(targets) == window.targets[0])] = 0
    if has_word:
        e[..., 0] += window.rate
    return e


def learn_skip_gram(W, C, window, targets, *, has_word):
    T = C[targets]
    E = errors(W[window.around] @ T.T, window, targets, has_word)
    for e, word in zip(E, window.around, strict=True):
        np.add.at(C, targets, np.outer(e, W[word]))
        W[word] += e @ T


def learn_cbow(W, C, window, targets, *, has_word):
    if not window.around:
        return
    h, delta = W[window.around].mean(axis=0) if has_word else learn_cbow.h, 0
    learn_cbow.h = h  # of all groups of a window: the mean before the first
    for target, e in zip(targets, errors(C[targets] @ h, window, targets, has_word), strict=True):
        delta = delta + e * C[target]
        C[target] += e * h
    np.add.at(W, window.around, delta)


def corpus(rng: np.random.Generator, V: int, lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    ids = join_sentences([rng.integers(V, size=n) for n in lengths] + [np.arange(V)])
    return ids, np.bincount(ids[ids != END], minlength=V)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    V=st.integers(2, 40),
    d_model=st.one_of(st.integers(1, 130), st.sampled_from([1, 15, 16, 17, 100])),
    window=st.integers(1, 12),
    negative=st.integers(1, 14),
    lengths=st.lists(st.integers(0, 30), max_size=8),
    sample=st.sampled_from([0, 1e-3, 0.1]),
    architecture=st.sampled_from(["skip-gram", "cbow"]),
)
def test_the_kernels_do_what_the_formulas_say(seed, V, d_model, window, negative, lengths, sample, architecture):
    """A vocabulary of two, windows longer than sentences, sentences of one word or none, several groups of targets."""
    ids, counts = corpus(np.random.default_rng(seed), V, lengths)
    chosen = Settings(d_model=d_model, architecture=architecture, window=window, negative=negative, epochs=2,
                      sample=sample, lr=0.02, seed=seed)  # fmt: skip
    np.testing.assert_allclose(
        engine.train(ids, counts, chosen, None), reference(ids, counts, chosen), rtol=4e-4, atol=4e-6
    )


@pytest.mark.parametrize("architecture", ["skip-gram", "cbow"])
def test_many_blocks_are_learnt_one_after_another(architecture, monkeypatch):
    monkeypatch.setattr(engine, "BLOCK", 50)
    ids, counts = corpus(np.random.default_rng(0), 30, [17] * 40)
    chosen = Settings(d_model=20, architecture=architecture, epochs=3, sample=0.01)
    found = engine.train(ids, counts, chosen, None)
    np.testing.assert_allclose(found, reference(ids, counts, chosen), rtol=1e-4, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=1, max_size=50).filter(any))
def test_the_alias_table_holds_the_weights(weights):
    """A word's probability: its own share of its place, and what other places pass on to it."""
    V, p = len(weights), np.array(weights)
    shares, others = np.empty(V, np.float32), np.empty(V, np.int32)
    alias_table(p, shares, others)
    held = shares.astype(float)
    np.add.at(held, others, 1 - shares.astype(float))
    np.testing.assert_allclose(held / V, p / p.sum(), atol=1e-6)


def test_keep_probabilities_are_those_of_word2vec_c():
    counts = np.array([0, 1, 10, 1000, 100_000])
    threshold = 1e-3 * counts.sum()
    expected = [(np.sqrt(n / threshold) + 1) * threshold / n for n in counts[1:]]
    np.testing.assert_allclose(engine.keep_probabilities(counts, 1e-3)[1:], expected, rtol=1e-6)
    assert (engine.keep_probabilities(counts, 0) >= 1).all()


def test_long_sentences_are_cut_and_empty_ones_left_out():
    ids = join_sentences([np.arange(3), np.zeros(0, int), np.arange(LONGEST + 1)])
    assert [len(sentence) for sentence in split_sentences(ids)] == [3, LONGEST, 1]
    assert [len(block) for block in cut_blocks(ids, 4)] == [4, LONGEST + 1, 2]
    assert len(join_sentences([])) == 0


HASH = """
import hashlib
import numpy as np
from pre_process.word2vec import train_embeddings
rng = np.random.default_rng(0)
texts = [rng.integers(300, size=50) for _ in range(1000)]
for architecture in ("skip-gram", "cbow"):
    vectors = train_embeddings(texts, vocab_size=300, d_model=40, architecture=architecture, epochs=2)
    print(hashlib.sha256(vectors.tobytes()).hexdigest())
"""


def test_one_thread_gives_the_same_bits_in_every_process():
    run = [sys.executable, "-c", HASH]
    hashes = {subprocess.run(run, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(hashes) == 1


TOPICS, PER_TOPIC = 10, 20


def topics(n: int) -> list[np.ndarray]:
    """Sentences of one topic each, whose words stand in no other's."""
    rng = np.random.default_rng(1)
    return [rng.integers(PER_TOPIC, size=20) + PER_TOPIC * rng.integers(TOPICS) for _ in range(n)]


def purity(vectors: np.ndarray) -> float:
    """The share of the ten nearest neighbours that are of a word's own topic."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest = np.argsort(-(unit @ unit.T - 2 * np.eye(len(unit))), axis=1)[:, :10]
    return float((nearest // PER_TOPIC == np.arange(len(unit))[:, None] // PER_TOPIC).mean())


def learn_topics(architecture: str, **settings: object) -> np.ndarray:
    arguments = {"architecture": architecture, "d_model": 24, "lr": 0.05, "sample": 0} | settings
    return train_embeddings(topics(3000), vocab_size=TOPICS * PER_TOPIC, **arguments)


@pytest.mark.parametrize("architecture", ["skip-gram", "cbow"])
def test_several_threads_learn_as_well_as_one(architecture, monkeypatch):
    monkeypatch.setattr(engine, "BLOCK", 1000)
    for threads in (1, 4):
        assert purity(learn_topics(architecture, threads=threads)) > 0.95, threads


@pytest.mark.parametrize("architecture", ["skip-gram", "cbow"])
def test_both_engines_find_the_same_neighbours(architecture):
    pytest.importorskip("gensim")
    for name in ("nanograd", "gensim"):
        assert purity(learn_topics(architecture, engine=name)) > 0.95, name


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ZeroDivisionError])
def test_what_the_progress_raises_ends_the_training(raised):
    """Ctrl-C arrives in the calling thread, which is in `progress` or waits for the next time."""

    def stop(done: int, total: int) -> None:
        assert 0 <= done < total
        raise raised

    rng = np.random.default_rng(0)
    texts = [rng.integers(500, size=1000) for _ in range(100)]
    with pytest.raises(raised):
        train_embeddings(texts, vocab_size=500, d_model=64, epochs=10_000, threads=2, progress=stop)
