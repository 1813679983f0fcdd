"""Which steps may be taken: numbers only, and with --skip-spikes none far above the usual."""

import math

import msgspec
import numpy as np
import pytest

from nanograd.guard import FEWEST, WINDOW, Guard, GuardState, no_number
from nanograd.optim.clip import LONGEST


def guard(**settings):
    return Guard(**{"max_bad_steps": 3, "skip_spikes": False, **settings})


def calm(n, seed=0):
    return np.random.default_rng(seed).normal(4.0, 0.1, n).tolist()


@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf])
def test_a_loss_or_gradient_that_is_no_number_is_named(x):
    assert no_number(x, 1.0) == f"loss {x}"
    assert no_number(1.0, x) == f"gradient norm {x}"
    assert no_number(1e30, 1e10) == ""


def test_a_gradient_whose_square_is_infinite_is_refused_unless_it_is_clipped():
    assert no_number(1.0, 1e30) == "gradient norm 1e+30, whose square is infinite"
    assert no_number(1.0, 1e30, scale=1e-30) == ""
    with np.errstate(over="ignore"):
        assert np.isfinite(np.float32(LONGEST * 0.999) ** 2)
        assert not np.isfinite(np.float32(LONGEST * 1.001) ** 2)


def test_bad_steps_are_counted_and_only_those_in_a_row_end_the_run():
    looks = guard()
    for loss in (1.0, math.nan, math.nan, 1.0, math.nan, math.nan):
        looks.check(loss, 1.0)
        assert not looks.gives_up
    assert looks.state == GuardState(skipped=4, in_a_row=2)
    looks.check(math.inf, 1.0)
    assert looks.gives_up


@pytest.mark.parametrize(("loss", "norm", "why"), [(5.0, 1.0, "loss 5, "), (4.0, 9.0, "gradient norm 9, ")])
def test_a_spike_is_skipped_once_the_usual_is_known(loss, norm, why):
    for known, expected in ((FEWEST - 1, ""), (FEWEST, why)):
        looks = guard(skip_spikes=True)
        for x in calm(known):
            assert looks.check(x, x / 4) == ""
        assert looks.check(loss, norm).startswith(expected)
        assert looks.state.skipped == bool(expected)
        assert looks.state.in_a_row == 0


def test_the_rule_is_six_deviations_above_the_mean_of_the_last_128():
    looks, losses = guard(skip_spikes=True), [100.0] * 30 + calm(WINDOW)
    for x in losses:
        looks.check(x, 1.0)
    limit = np.mean(losses[-WINDOW:]) + 6 * np.std(losses[-WINDOW:], ddof=1)
    state = looks.state
    assert looks.check(limit + 1e-6, 1.0)
    looks.state = state
    assert not looks.check(limit - 1e-6, 1.0)
    looks.state = state
    assert not looks.check(-1e6, 0.0), "below the mean is welcome"


def test_a_new_level_becomes_the_usual_one_and_nothing_infinite_enters_the_window():
    looks = guard(skip_spikes=True)
    for x in calm(200):
        looks.check(x, 1.0 + x / 100)
    assert looks.check(math.nan, 1.0) == "loss nan"
    assert looks.check(4.0, math.inf) == "gradient norm inf"
    skipped = [bool(looks.check(8.0, 1.04)) for _ in range(10)]
    assert skipped == [True] * skipped.count(True) + [False] * skipped.count(False)
    assert 1 <= skipped.count(True) <= 4


def test_without_skip_spikes_everything_finite_is_taken():
    looks = guard()
    assert not any(looks.check(x, 1.0) for x in [*calm(200), 1e30])
    assert looks.state == GuardState()


def test_the_decisions_go_on_from_a_saved_state():
    values = [*calm(100), 9.0, *calm(60, 1), math.nan, 9.0, *calm(20, 2), 6.0]
    whole = guard(skip_spikes=True)
    for cut in (0, 80, 101, 162, len(values)):
        first = guard(skip_spikes=True)
        early = [first.check(x, 1.0) for x in values[:cut]]
        rest = guard(skip_spikes=True)
        rest.state = msgspec.json.decode(msgspec.json.encode(first.state), type=GuardState)
        whole.state = GuardState()
        assert early + [rest.check(x, 1.0) for x in values[cut:]] == [whole.check(x, 1.0) for x in values]
        assert rest.state == whole.state
