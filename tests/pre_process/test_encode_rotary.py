"""Rotary positions, their scalings, ALiBi and learned tables: the closed forms, and what the field's code computes."""

import logging
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pre_process.encode_position import (
    Scaling,
    alibi_biases,
    alibi_slopes,
    frequencies,
    learned,
    scaled_frequencies,
    turn,
)

every = pytest.mark.parametrize
KINDS = ("linear", "ntk", "yarn", "llama3")


def scaled(d_head: int, base: float, scaling: Scaling) -> np.ndarray:
    return np.asarray(scaled_frequencies(frequencies(d_head, base=base), base=base, scaling=scaling))


@every("layout", ["halves", "pairs"])
@given(query=st.integers(0, 5000), key=st.integers(0, 5000), moved=st.integers(0, 5000))
def test_the_product_depends_on_the_distance_alone(layout: Any, query: int, key: int, moved: int) -> None:
    rng, theta = np.random.default_rng(0), frequencies(16)
    q, k = rng.standard_normal((2, 16))
    here = turn(q, query * theta, layout=layout) @ turn(k, key * theta, layout=layout)
    there = turn(q, (query + moved) * theta, layout=layout) @ turn(k, (key + moved) * theta, layout=layout)
    assert here == pytest.approx(there, abs=1e-9)


def test_a_quarter_turn_by_hand() -> None:
    x, quarter = np.array([1.0, 2.0, 3.0, 4.0]), np.full(2, math.pi / 2)
    np.testing.assert_allclose(turn(x, quarter, layout="pairs"), [-2, 1, -4, 3], atol=1e-12)
    np.testing.assert_allclose(turn(x, quarter, layout="halves"), [-3, -4, 1, 2], atol=1e-12)


def test_the_first_hand_turns_a_radian_per_position() -> None:
    theta = frequencies(8, base=500.0)
    np.testing.assert_allclose(theta, [500 ** (-i / 4) for i in range(4)])


@every("d_head", [32, 64, 128])
@every("base", [1e4, 5e5])
@every(("factor", "original"), [(4.0, 128), (8.0, 8192), (1.5, 4096), (32.0, 8192)])
@every("kind", ["linear", "dynamic", "yarn", "llama3"])
def test_scalings_are_those_of_transformers(
    kind: Any, factor: float, original: int, base: float, d_head: int, caplog: pytest.LogCaptureFixture
) -> None:
    rope = pytest.importorskip("transformers.modeling_rope_utils", reason="the yardstick")
    from transformers import LlamaConfig

    caplog.set_level(logging.ERROR)
    longest, asked = int(factor * original), {"rope_type": kind, "rope_theta": base, "factor": factor}
    if kind in ("yarn", "llama3"):
        asked["original_max_position_embeddings"] = original
    if kind == "llama3":
        asked |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = LlamaConfig(
        hidden_size=2 * d_head,
        num_attention_heads=2,
        max_position_embeddings=original if kind == "dynamic" else longest,
        rope_parameters=asked,
    )
    expected, amplitude = rope.ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=longest)
    ours = Scaling(kind, factor, original)
    np.testing.assert_allclose(scaled(d_head, base, ours.at(longest)), expected.numpy(), rtol=2e-6)
    assert ours.amplitude == pytest.approx(amplitude)


@every("kind", KINDS)
def test_a_factor_of_one_changes_nothing(kind: Any) -> None:
    np.testing.assert_array_equal(scaled(16, 1e4, Scaling(kind, 1.0, 64)), frequencies(16))


@every("kind", KINDS)
def test_no_hand_becomes_faster_or_more_than_the_factor_slower(kind: Any) -> None:
    ratio = frequencies(64) / scaled(64, 1e4, Scaling(kind, 4.0, 512))
    assert ratio.min() >= 1 - 1e-12
    assert ratio.max() <= 4 + 1e-12
    assert (np.diff(ratio) >= -1e-12).all(), "the slower a hand, the more it is slowed down"
    assert ratio[-1] == pytest.approx(4)
    if kind != "linear":
        assert ratio[0] == pytest.approx(1)


def test_ntk_gives_the_slowest_hand_the_whole_factor() -> None:
    """base · s^(D/(D−2)) for base, spelled out."""
    expected = frequencies(32, base=1e4 * 8 ** (32 / 30))
    np.testing.assert_allclose(scaled(32, 1e4, Scaling("ntk", 8.0)), expected, rtol=1e-12)
    np.testing.assert_array_equal(scaled(2, 1e4, Scaling("ntk", 8.0)), [1.0])


def test_dynamic_scaling_waits_until_the_text_is_longer() -> None:
    dynamic = Scaling("dynamic", 2.0, 100)
    for length, factor in ((1, 1.0), (100, 1.0), (101, 1.02), (200, 3.0)):
        assert dynamic.at(length) == Scaling("ntk", pytest.approx(factor))
    with pytest.raises(ValueError, match=r"ask scaling\.at"):
        scaled(16, 1e4, dynamic)


@every("original", [1, 4, 40])
def test_yarn_for_tiny_contexts_slows_down_what_never_turned(original: int) -> None:
    ratio = frequencies(32) / scaled(32, 1e4, Scaling("yarn", 4.0, original))
    assert ratio[-1] == pytest.approx(4)
    assert (np.diff(ratio) >= -1e-12).all()


@every(
    ("d_head", "base", "scaling", "message"),
    [
        (3, 1e4, Scaling(), "even d_head >= 2"),
        (0, 1e4, Scaling(), "even d_head >= 2"),
        (4, 0.0, Scaling(), "base above 0"),
        (4, 1.0, Scaling("ntk", 2.0), "with base 1.0 none is slower"),
        (4, 1e4, Scaling("longrope", 2.0), "'longrope' is none of none, linear, ntk"),  # type: ignore[arg-type]
        (4, 1e4, Scaling("yarn", 0.5), "factor >= 1"),
        (4, 1e4, Scaling("yarn", math.nan), "factor >= 1"),
        (4, 1e4, Scaling("yarn", 2.0, 0), "original context >= 1"),
    ],
)
def test_what_makes_no_frequencies(d_head: int, base: float, scaling: Scaling, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scaled(d_head, base, scaling)


def slopes_of_the_paper(n: int) -> list[float]:
    """The recursion of the paper's code, get_slopes in github.com/ofirpress/attention_with_linear_biases."""
    if math.log2(n).is_integer():
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]
    closest = 2 ** math.floor(math.log2(n))
    return slopes_of_the_paper(closest) + slopes_of_the_paper(2 * closest)[0::2][: n - closest]


@given(n_heads=st.integers(1, 200))
def test_slopes_are_those_of_the_paper(n_heads: int) -> None:
    np.testing.assert_allclose(alibi_slopes(n_heads), slopes_of_the_paper(n_heads), rtol=1e-12)


def test_alibi_by_hand() -> None:
    assert alibi_slopes(8) == tuple(2.0**-h for h in range(1, 9))
    biases = alibi_biases(2, 3)
    np.testing.assert_array_equal(biases[0], 2**-4 * np.array([[0, -np.inf, -np.inf], [-1, 0, -np.inf], [-2, -1, 0]]))
    np.testing.assert_array_equal(biases[1, 2], 2**-8 * np.array([-2, -1, 0]))
    with pytest.raises(ValueError, match="at least one head, not 0"):
        alibi_slopes(0)


def test_learned_tables_are_drawn() -> None:
    table = learned(300, 40, rng=np.random.default_rng(0), std=0.5)
    assert table.shape == (300, 40)
    assert table.dtype == np.float32
    assert table.std() == pytest.approx(0.5, rel=0.05)
    with pytest.raises(ValueError, match="d_model >= 1"):
        learned(4, 0, rng=np.random.default_rng(0))
