"""Warm-up and cosine: the formula, its corners, and its shape for any settings."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd.optim import warmup_cosine


def test_a_line_up_and_half_a_cosine_down() -> None:
    """Row L7's recipe: 10 % warm-up, down to 5 %."""
    lr = [warmup_cosine(step, peak=2.0, warmup_steps=10, total_steps=100, min_ratio=0.05) for step in range(100)]
    for step in range(10):
        assert lr[step] == pytest.approx(2.0 * (step + 1) / 10)
    for step in range(10, 100):
        x = (step + 1 - 10) / 90
        assert lr[step] == pytest.approx(0.1 + 1.9 * (1 + math.cos(math.pi * x)) / 2)
    assert lr[54] == pytest.approx(1.05), "half-way down is half-way between"
    assert lr[99] == pytest.approx(0.1)


@given(
    warmup=st.integers(0, 50),
    total=st.integers(1, 80),
    ratio=st.just(0.0) | st.floats(1e-6, 1),
    peak=st.floats(1e-6, 10),
)
def test_it_rises_then_falls_between_its_bounds(warmup: int, total: int, ratio: float, peak: float) -> None:
    def lr(step: int) -> float:
        return warmup_cosine(step, peak=peak, warmup_steps=warmup, total_steps=total, min_ratio=ratio)

    rates = [lr(step) for step in range(total + 5)]
    assert all(0 < rate <= peak * (1 + 1e-12) or ratio == 0 for rate in rates)
    assert all(a < b for a, b in pairwise(rates[:warmup]))
    assert all(a >= b - 1e-12 * peak for a, b in pairwise(rates[warmup:]))
    if warmup:
        assert lr(warmup - 1) == peak
    if warmup < total:
        assert rates[total - 1] == rates[total] == pytest.approx(peak * ratio)


def test_a_ratio_of_one_is_constant() -> None:
    rates = {warmup_cosine(step, peak=3e-4, warmup_steps=0, total_steps=10, min_ratio=1.0) for step in range(12)}
    assert rates == {3e-4}
