"""The word2vec for reading: its gradient is the slope, PyTorch's and the closed form; and it learns who is alike."""

import doctest
from typing import Any

import numpy as np
import pytest

from nanograd import Tensor, nn
from nanograd.testing import gradient_check
from pre_process.word2vec import teaching
from pre_process.word2vec.teaching import CBOW, SkipGram, Word2Vec, keep_probability, minus_log_sigmoid, train, windows

V, C = 11, 6
TOKEN, NEIGHBOURS = 4, np.array([1, 7, 7, 0, 4])  # 7 stands twice beside it, and 4 beside itself
NOISE = np.array([3, 7, 3, 4, 9])  # 3 is drawn twice, 7 is a neighbour too, 4 is the token itself: left out
TOLD = np.array([4, 3, 7, 3, 9])

either = pytest.mark.parametrize("model", [SkipGram, CBOW])


def drawn(dtype: Any = np.float64) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.normal(size=(V, C)).astype(dtype) for _ in range(2)]


def with_vectors(model: type[Word2Vec], inputs: Any, outputs: Any) -> Word2Vec:
    learner = model(V, C, rng=np.random.default_rng(0))
    learner.inputs, learner.outputs = inputs, outputs
    return learner


def gradients(model: type[Word2Vec], arrays: list[np.ndarray]) -> tuple[float, np.ndarray, np.ndarray]:
    v, u = (Tensor(array, requires_grad=True) for array in arrays)
    loss = with_vectors(model, v, u)(TOKEN, NEIGHBOURS, NOISE)
    loss.backward()
    assert v.grad is not None
    assert u.grad is not None
    return loss.item(), v.grad, u.grad


@either
def test_the_gradient_is_the_slope_of_the_loss(model: type[Word2Vec]) -> None:
    gradient_check(lambda v, u: with_vectors(model, v, u)(TOKEN, NEIGHBOURS, NOISE), drawn())


@either
def test_the_gradient_is_the_one_of_the_books(model: type[Word2Vec]) -> None:
    """∂L/∂h = Σⱼ (σ(uⱼ·h) − yⱼ) uⱼ and ∂L/∂uⱼ = Σ_h (σ(uⱼ·h) − yⱼ) h, with y = 1 for the token and 0 for noise."""
    v, u = drawn()
    h = v[NEIGHBOURS] if model is SkipGram else v[NEIGHBOURS].mean(axis=0, keepdims=True)
    error = 1 / (1 + np.exp(-h @ u[TOLD].T)) - (TOLD == TOKEN)
    dv, du = np.zeros_like(v), np.zeros_like(u)
    dh = error @ u[TOLD]
    np.add.at(dv, NEIGHBOURS, dh if model is SkipGram else dh / len(NEIGHBOURS))
    np.add.at(du, TOLD, error.T @ h)
    _, found_dv, found_du = gradients(model, [v, u])
    np.testing.assert_allclose(found_dv, dv, atol=1e-14)
    np.testing.assert_allclose(found_du, du, atol=1e-14)


@either
def test_pytorch_agrees(model: type[Word2Vec]) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is the yardstick: pip install 'nanograd[peers]'")
    v, u = (torch.tensor(array, requires_grad=True) for array in drawn(np.float32))
    h = torch.nn.functional.embedding(torch.tensor(NEIGHBOURS), v)
    h = h if model is SkipGram else h.mean(dim=0, keepdim=True)
    sign = torch.tensor([1.0, -1, -1, -1, -1])
    loss = -torch.nn.functional.logsigmoid(sign * (h @ u[torch.tensor(TOLD)].T)).sum()
    loss.backward()
    ours, dv, du = gradients(model, drawn(np.float32))
    assert dv.dtype == du.dtype == np.float32
    assert ours == pytest.approx(loss.item(), rel=1e-6)
    np.testing.assert_allclose(dv, v.grad.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(du, u.grad.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_minus_log_sigmoid_is_exact_far_from_zero(dtype: Any) -> None:
    z = Tensor(np.array([-1e4, -50, -1, 0, 1, 50, 1e4], dtype), requires_grad=True)
    y = minus_log_sigmoid(z)
    y.sum().backward()
    expected = [1e4, 50, 1.3132616875182228, 0.6931471805599453, 0.3132616875182228, 1.9287498479639178e-22, 0]
    np.testing.assert_allclose(y.data, expected, rtol=1e-6, atol=1e-7)
    assert z.grad is not None
    np.testing.assert_allclose(z.grad, [-1, -1, -0.7310585786, -0.5, -0.2689414214, 0, 0], rtol=1e-6, atol=1e-7)


def topics(n: int = 400) -> list[np.ndarray]:
    """Sentences of five tokens, each of one topic: 0 to 4, 5 to 9 or 10 to 14. Token 15 stands everywhere."""
    rng = np.random.default_rng(1)
    return [np.append(5 * rng.integers(3) + rng.integers(5, size=5), 15)[rng.permutation(6)] for _ in range(n)]


@either
def test_tokens_of_one_topic_become_neighbours(model: type[Word2Vec]) -> None:
    vectors = train(model, topics(), vocab_size=16, d_model=10, window=3, epochs=3, lr=0.2, sample=0, seed=2)
    assert vectors.shape == (16, 10)
    assert vectors.dtype == np.float32
    unit = vectors[:15] / np.linalg.norm(vectors[:15], axis=1, keepdims=True)
    nearest = np.argsort(-(unit @ unit.T - 2 * np.eye(15)), axis=1)[:, :4]  # the other four of a topic
    assert (nearest // 5 == np.arange(15)[:, None] // 5).all()


def test_the_same_seed_gives_the_same_bits() -> None:
    first, again, other = (train(SkipGram, topics(20), vocab_size=16, d_model=4, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.equal(first, other).any()


def test_windows_are_up_to_five_wide_and_hold_neighbours_only() -> None:
    ids = np.arange(20)
    reaches: list[int] = []
    for token, neighbours in windows(ids, 5, np.random.default_rng(0)):
        reach = int(np.abs(neighbours - token).max())
        assert neighbours.tolist() == [
            i for i in range(max(0, token - reach), min(20, token + reach + 1)) if i != token
        ]
        reaches.append(reach)
    assert len(reaches) == 20
    assert set(reaches) == {1, 2, 3, 4, 5}
    assert list(windows(np.array([3]), 5, np.random.default_rng(0))) == []


def test_frequent_tokens_are_left_out_most_often() -> None:
    counts = np.array([0, 1, 10, 989])
    keep = keep_probability(counts, 1e-2)
    assert keep[:2].tolist() == [1, 1]
    np.testing.assert_allclose(keep[2:], [1, np.sqrt(1e-2 / 0.989) + 1e-2 / 0.989])
    assert keep_probability(counts, 0).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [([], "at least one token"), ([np.array([16])], "don't fit a vocabulary of 16"), (iter([]), "iterator")],
)
def test_what_cannot_be_learnt_from(text: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(SkipGram, text, vocab_size=16, d_model=4)


def test_the_example_in_the_docstring_is_true() -> None:
    assert doctest.testmod(teaching).failed == 0


@either
def test_the_fast_engine_takes_the_same_steps(model: type[Word2Vec]) -> None:
    """One sentence, window after window, with the windows and the noise that the compiled kernel drew.

    No token stands twice in a window: there the kernel sees its own change. And word2vec.c's CBOW, gensim's and so the
    kernel's give each of n neighbours the whole gradient of their mean: n times the gradient of the loss.
    """
    rng = np.random.default_rng(8)
    vocab, d, rate = 200, 18, 0.1
    ids = rng.permutation(vocab)[:12]
    first = [rng.normal(size=(vocab, d)).astype(np.float32) for _ in range(2)]
    learner = with_vectors(model, *(nn.Parameter(array.copy()) for array in first))
    found, reach, targets = by_the_engine(model, ids, first, rate)
    for place, token in enumerate(ids):
        neighbours = np.concatenate(
            [ids[max(0, place - reach[place]) : place], ids[place + 1 : place + 1 + reach[place]]]
        )
        assert len(set(targets[place])) == 6, "another seed, please: some noise came twice"
        learner.zero_grad()
        learner(int(token), neighbours, targets[place, 1:]).backward()
        learner.inputs.data -= rate * (len(neighbours) if model is CBOW else 1) * learner.inputs.grad
        learner.outputs.data -= rate * learner.outputs.grad
    for ours, theirs, before in zip((learner.inputs.data, learner.outputs.data), found, first, strict=True):
        assert np.abs(theirs - before).max() > 0.1
        np.testing.assert_allclose(theirs, ours, atol=1e-5)


def by_the_engine(
    model: type[Word2Vec], ids: np.ndarray, vectors: list[np.ndarray], rate: float
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The vectors after one sentence, how far each window reached, and what had to be told apart there."""
    from pre_process.word2vec.kernels.cbow import cbow
    from pre_process.word2vec.kernels.chance import alias_table
    from pre_process.word2vec.kernels.sentences import Model, Schedule, new_desk
    from pre_process.word2vec.kernels.skip_gram import skip_gram
    from pre_process.word2vec.kernels.vector import padded

    vocab, d = vectors[0].shape
    width = padded(d)
    flat = [np.pad(array, ((0, 0), (0, width - d))).reshape(-1) for array in vectors]
    shares, others = np.empty(vocab, np.float32), np.empty(vocab, np.int32)
    alias_table(np.ones(vocab), shares, others)
    desk = new_desk(width, 3, 5)
    kernel = skip_gram if model is SkipGram else cbow
    kernel(
        np.append(ids, -1).astype(np.int32), 0, Schedule(rate, rate, 12), 3, 5,
        Model(*flat, width, np.ones(vocab, np.float32), shares, others), desk,
    )  # fmt: skip
    return [array.reshape(vocab, width)[:, :d] for array in flat], desk.reach[:12], desk.targets[:12]
