"""Pictures: smoothing is right at the edges, what is drawn is written whole, damaged metrics are refused."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanograd import plot, terminal
from nanograd.plot import draw_attention, draw_loss, name_runs, read_metrics, smooth
from tests.nanograd.small_runs import fails

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
        list(read_metrics(tmp_path))
    write(tmp_path, [], tail="nonsense\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged"):
        list(read_metrics(tmp_path))
    for record in ({"loss": 2.0}, {"step": 1, "loss": "two"}, {"step": 1}, 1, [1], {"step": {}}):
        write(tmp_path, [record])
        with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged"):
            list(read_metrics(tmp_path))
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged"):
        list(read_metrics(tmp_path))
    write(tmp_path, [])
    with pytest.raises(ValueError, match="no complete line"):
        draw_loss(tmp_path)


def test_attention_maps_are_a_png(tmp_path):
    weights = np.tril(np.full((2, 3, 4, 4), 0.25))
    assert draw_attention(weights, ["a", "b", "$c", "d_"], tmp_path / "attention.png").read_bytes().startswith(PNG)


@given(st.lists(st.sampled_from([1.5, float("nan"), float("inf")]), min_size=1, max_size=30), st.integers(1, 9))
def test_what_is_no_number_is_left_out_of_averages(values, window):
    found = smooth(np.array(values), window)
    assert (np.isclose(found, 1.5) | np.isnan(found)).all()
    assert np.isfinite(found[np.isfinite(values)]).all()


def run_with(folder, settings="", losses=(3.0, 2.0, 1.0)):
    folder.mkdir()
    last = len(losses)
    write(folder, [{"step": i, "tokens": 10 * i, "loss": loss, **({"val_loss": loss} if i == last else {})}
                   for i, loss in enumerate(losses, start=1)])  # fmt: skip
    (folder / "config.toml").write_text(settings)
    return folder


def test_a_legend_names_the_settings_that_differ_and_no_other(tmp_path):
    a = run_with(tmp_path / "a", 'steps = 5\npreset = "tiny"\n[optim]\nlr = 0.1\n')
    b = run_with(tmp_path / "b", 'steps = 5\npreset = "tiny"\n[optim]\nlr = 0.2\n')
    c = run_with(tmp_path / "c", 'steps = 5\npreset = "tiny"\ndata = "x"\n[optim]\nlr = 0.2\n')
    assert name_runs([a, b]) == ["a, lr 0.1", "b, lr 0.2"]
    assert name_runs([a, b, c]) == ["a, lr 0.1, data –", "b, lr 0.2, data –", "c, lr 0.2, data x"]
    (c / "config.toml").unlink()
    assert name_runs([a, c])[1].startswith("c, steps –, preset –, ")
    many = [run_with(tmp_path / f"m{i}", "".join(f"s{k} = {i}\n" for k in range(6))) for i in range(2)]
    assert name_runs(many)[0] == "m0, s0 0, s1 0, s2 0, s3 0, 2 more"


def test_several_runs_are_one_picture(tmp_path, capsys):
    runs = [run_with(tmp_path / name, losses=losses) for name, losses in [("a", (3, 2, 1)), ("b", (4, None, 2, 1.5))]]
    out = tmp_path / "both.png"
    assert terminal.run(plot.main, [*map(str, runs), "--out", str(out), "--x", "tokens"]) == 0
    assert capsys.readouterr().out.split() == [str(out)]
    assert out.read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a", "b"], "give --out FILE.png"),
        (["a", "b", "--out", "x.png", "--attention", "text"], "name one run"),
        (["a", "--x", "seconds"], "says nothing of 'seconds'"),
        (["a", "nowhere", "--out", "x.png"], "holds no metrics.jsonl"),
        (["a", "--out", "nowhere/x.png"], "No such file or directory"),
        (["a", "--csv", "a/metrics.jsonl"], "--csv a/metrics.jsonl: give a name that ends in .csv"),
        (["a", "--out", "x.pdf"], "the picture is a PNG"),
        ([], "name the run folder"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        run_with(tmp_path / name)
    fails(plot.main, argv, message, capsys)
    assert list(tmp_path.glob("x.*")) == []


def test_metrics_as_a_table(tmp_path, capsys):
    for name in ("a", "b, c"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, [{"step": 1, "loss": 2.5}, {"step": 2, "loss": None, "skipped": 'say "no"'}])
    out = tmp_path / "table.csv"
    argv = [str(tmp_path / "a"), str(tmp_path / "b, c"), "--out", str(tmp_path / "x.png"), "--csv", str(out)]
    assert terminal.run(plot.main, argv) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[:2] == [
        {"run": "a", "step": "1", "loss": "2.5", "skipped": ""},
        {"run": "a", "step": "2", "loss": "", "skipped": 'say "no"'},
    ]
    assert [row["run"] for row in rows[2:]] == ["b, c"] * 2
