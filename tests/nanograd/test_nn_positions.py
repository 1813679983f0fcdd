"""Positions: the table, and counting that padding does not disturb."""

import numpy as np

from nanograd import nn


def test_positions_count_along_the_sequence() -> None:
    assert nn.token_positions(np.zeros((2, 4), np.int64)).tolist() == [0, 1, 2, 3]


def test_positions_count_real_tokens_only() -> None:
    mask = np.array([[0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]], bool)
    expected = [[0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]
    assert nn.token_positions(np.zeros((4, 4), np.int64), mask).tolist() == expected


def test_sinusoids_are_those_of_the_paper() -> None:
    """sin(t / 10000^(2i/C)) and cos of the same, Vaswani et al. 2017 §3.5."""
    layer = nn.SinusoidalPositions(50, 8)
    vector = layer(np.array([[7]])).data[0, 0]
    angles = 7 / 10_000 ** (2 * np.arange(4) / 8)
    np.testing.assert_allclose(np.sort(vector), np.sort([*np.sin(angles), *np.cos(angles)]), atol=1e-6)


def test_sinusoids_are_neither_learned_nor_saved() -> None:
    layer = nn.SinusoidalPositions(50, 8)
    assert layer.n_parameters() == 0
    assert layer.state_dict() == {}
    assert [name for name, _ in layer.named_buffers()] == ["table"]
    assert not layer(np.arange(3)).requires_grad


def test_learned_positions_look_up_their_vectors() -> None:
    layer = nn.LearnedPositions(5, 4, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(layer(np.array([3, 0])).data, layer.weight.data[[3, 0]])
