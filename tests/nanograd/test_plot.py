"""Pictures: smoothing is right at the edges, what is drawn is written whole, damaged metrics are refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd.plot import draw_attention, draw_loss, read_metrics, smooth

PNG = b"\x89PNG\r\n\x1a\n"


@given(st.integers(1, 60), st.integers(1, 80), st.floats(-5, 5))
def test_a_constant_stays_constant_to_its_very_ends(n, window, value):
    np.testing.assert_allclose(smooth(np.full(n, value), window), value, rtol=1e-12, atol=1e-12)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.integers(1, 9))
def test_smoothing_is_the_mean_of_the_neighbours_that_exist(values, window):
    values = np.array(values)
    window = min(window, len(values))
    left, right = window // 2, (window - 1) // 2
    expected = [values[max(0, i - left) : i + right + 1].mean() for i in range(len(values))]
    np.testing.assert_allclose(smooth(values, window), expected, atol=1e-9)


def write(run, records, tail=""):
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records) + tail)


def test_the_loss_curve_is_a_png(tmp_path):
    measured = [{"val_loss": 6 / s, "unigram_loss": 6.0} if s % 3 == 0 else {} for s in range(1, 10)]
    write(tmp_path, [{"step": s, "loss": 5 / s, **more} for s, more in enumerate(measured, start=1)])
    path = draw_loss(tmp_path)
    assert path.read_bytes().startswith(PNG)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path):
    write(tmp_path, [{"step": 1, "loss": 2.0}], tail='{"step": 2, "lo')
    assert [r["step"] for r in read_metrics(tmp_path)] == [1]


def test_damage_and_absence_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no metrics\.jsonl"):
        read_metrics(tmp_path)
    write(tmp_path, [], tail="nonsense\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged"):
        read_metrics(tmp_path)
    write(tmp_path, [])
    with pytest.raises(ValueError, match="no complete line"):
        draw_loss(tmp_path)


def test_attention_maps_are_a_png(tmp_path):
    weights = np.tril(np.full((2, 3, 4, 4), 0.25))
    assert draw_attention(weights, ["a", "b", "$c", "d_"], tmp_path / "attention.png").read_bytes().startswith(PNG)
