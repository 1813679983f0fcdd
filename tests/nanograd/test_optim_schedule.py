"""Schedules against their formulas at every step, their corners, and their shape for any settings."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd.optim import learning_rate, warmup_cosine
from nanograd.optim.schedule import SCHEDULES

WARMUP, TOTAL, PEAK, RATIO = 10, 100, 2.0, 0.05

# name, further settings, share of the peak when x of the way from warm-up to end is done and t updates are
FORMULAS = [
    ("constant", {}, lambda x, t: 1.0),
    ("linear", {"min_ratio": RATIO}, lambda x, t: 1 - (1 - RATIO) * x),
    ("cosine", {"min_ratio": RATIO}, lambda x, t: RATIO + (1 - RATIO) * (1 + math.cos(math.pi * x)) / 2),
    ("inverse-sqrt", {"min_ratio": 0.4}, lambda x, t: max(0.4, math.sqrt(10 / t))),
    ("wsd", {"decay_share": 0.3, "min_ratio": RATIO},
     lambda x, t: 1.0 if t <= 70 else RATIO + (1 - RATIO) * (100 - t) / 30),
    ("wsd", {"decay_share": 0.3, "decay_shape": "1-sqrt"},
     lambda x, t: 1.0 if t <= 70 else 1 - math.sqrt((t - 70) / 30)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "share"), FORMULAS, ids=[name for name, _, _ in FORMULAS])
def test_every_step_is_the_formula(name, settings, share):
    length = {} if name in ("constant", "inverse-sqrt") else {"total_steps": TOTAL}
    for step in range(TOTAL):
        found = learning_rate(name, step, peak=PEAK, warmup_steps=WARMUP, **length, **settings)
        done = step + 1
        expected = PEAK * done / WARMUP if done <= WARMUP else PEAK * share((done - WARMUP) / (TOTAL - WARMUP), done)
        assert found == pytest.approx(expected, abs=1e-12), step


def test_every_schedule_has_a_formula_here():
    assert {name for name, _, _ in FORMULAS} == set(SCHEDULES)


def test_half_way_down_a_cosine_is_half_way_between():
    lr = [warmup_cosine(step, peak=2.0, warmup_steps=10, total_steps=100, min_ratio=0.05) for step in range(100)]
    assert lr[54] == pytest.approx(1.05)
    assert lr[99] == pytest.approx(0.1)


@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    warmup=st.integers(0, 50),
    total=st.integers(1, 80),
    ratio=st.just(0.0) | st.floats(1e-6, 1),
    peak=st.floats(1e-6, 10),
    decay=st.fixed_dictionaries({"decay_share": st.floats(0, 1), "decay_shape": st.sampled_from(["linear", "1-sqrt"])}),
)
def test_it_rises_then_falls_between_its_bounds(name, warmup, total, ratio, peak, decay):
    settings = {"peak": peak, "warmup_steps": warmup}
    if name != "constant":
        settings["min_ratio"] = ratio
    if name not in ("constant", "inverse-sqrt"):
        settings["total_steps"] = total
    if name == "wsd":
        settings |= decay
    rates = [learning_rate(name, step, **settings) for step in range(total + 5)]
    assert all(0 < rate <= peak * (1 + 1e-12) or ratio == 0 for rate in rates)
    assert all(a < b for a, b in pairwise(rates[:warmup]))
    assert all(a >= b - 1e-12 * peak for a, b in pairwise(rates[warmup:]))
    assert all(rate >= peak * ratio * (1 - 1e-12) for rate in rates[warmup:])
    if warmup:
        assert learning_rate(name, warmup - 1, **settings) == peak
    decays = name in ("linear", "cosine") or (name == "wsd" and round(decay["decay_share"] * total))
    if warmup < total and decays:
        assert rates[total - 1] == rates[total] == pytest.approx(peak * ratio)


def test_a_ratio_of_one_is_constant():
    rates = {warmup_cosine(step, peak=3e-4, warmup_steps=0, total_steps=10, min_ratio=1.0) for step in range(12)}
    assert rates == {3e-4}


def test_inverse_sqrt_without_warm_up_falls_from_the_first_step_on():
    assert [learning_rate("inverse-sqrt", step, peak=6.0, warmup_steps=0) for step in (0, 3, 8)] == [6.0, 3.0, 2.0]
