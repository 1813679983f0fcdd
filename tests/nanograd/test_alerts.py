"""Alerts: one for a spike, one for slow steps, none for what is usual, the same again for a run that goes on."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd.alerts import IN_A_ROW, SETTLED, Alerts, RunningMean


def steps(losses, speeds=None):
    speeds = [1000.0] * len(losses) if speeds is None else speeds
    return [
        {"step": i, "loss": loss, "tokens_per_second": speed}
        for i, (loss, speed) in enumerate(zip(losses, speeds, strict=True), start=1)
    ]


def found(records):
    alerts = Alerts()
    return [(r["step"], *sorted(told)) for r in records if (told := alerts.check(r))]


def test_a_spike_is_told_once():
    assert found(steps([4.0] * 50 + [9.0] * 5 + [4.0] * 50)) == [(51, "loss_alert")]


def test_a_second_spike_is_told_again_once_things_were_as_before():
    losses = [4.0] * 50 + [9.0] + [4.0] * (IN_A_ROW - 1) + [9.0] + [4.0] * IN_A_ROW + [9.0]
    assert found(steps(losses)) == [(51, "loss_alert"), (51 + 2 * IN_A_ROW + 1, "loss_alert")]


def test_a_loss_that_stays_high_does_not_become_usual():
    assert found(steps([4.0] * 50 + [9.0] * 500)) == [(51, "loss_alert")]
    back_and_again = [4.0] * 50 + [9.0] * 500 + [4.0] * IN_A_ROW + [9.0]
    assert found(steps(back_and_again)) == [(51, "loss_alert"), (len(back_and_again), "loss_alert")]


def test_what_is_no_number_is_a_spike():
    assert found(steps([4.0] * 50 + [math.nan])) == [(51, "loss_alert")]
    assert found(steps([4.0] * 50 + [None])) == [(51, "loss_alert")]


def test_a_step_that_was_skipped_is_no_spike():
    assert (
        found([*steps([4.0] * 50), {"step": 51, "loss": None, "tokens_per_second": 1000.0, "skipped": "loss nan"}])
        == []
    )


def test_slow_steps_are_told_once_there_are_several():
    one = [1000.0] * 50 + [600.0] * (IN_A_ROW - 1) + [1000.0] * 50
    assert found(steps([4.0] * len(one), one)) == []
    many = [1000.0] * 50 + [600.0] * 40 + [1000.0] * 50 + [600.0] * 40
    assert found(steps([4.0] * len(many), many)) == [(50 + IN_A_ROW, "speed_alert"), (140 + IN_A_ROW, "speed_alert")]


def test_a_loss_that_falls_and_a_slow_start_are_usual():
    losses = [8.0 * 0.97**i + 2 for i in range(300)]
    assert found(steps(losses, [10.0, *[1000.0] * 299])) == []


def test_nothing_is_unusual_before_the_usual_is_known():
    assert found(steps([4.0] * (SETTLED - 1) + [9.0])) == []


def test_the_line_says_step_value_and_the_usual():
    alerts = Alerts(steps([4.0] * 50))
    told = alerts.check({"step": 51, "loss": 9.0, "tokens_per_second": 1000.0})
    assert told == {"loss_alert": "step 51: loss 9.000, more than twice the usual 4.000"}


@given(st.lists(st.sampled_from([1.0, 3.0]), max_size=80), st.data())
def test_a_resumed_run_is_alerted_like_the_whole_one(losses, data):
    records = steps([1.0] * 30 + losses)
    cut = data.draw(st.integers(0, len(records)))
    whole, rest = Alerts(), Alerts(records[:cut])
    expected = [whole.check(r) for r in records]
    assert [rest.check(r) for r in records[cut:]] == expected[cut:]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=50))
def test_the_running_mean_has_no_bias_towards_zero(values):
    mean = RunningMean()
    for x in values:
        mean.add(x)
    weights = 0.98 ** np.arange(len(values))[::-1]
    assert mean.value == pytest.approx(np.average(values, weights=weights), abs=1e-9)
