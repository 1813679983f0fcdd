"""`python -m nanograd.train --profile`: the table, the timeline, and what can be wrong with its path."""

import json

import pytest

from nanograd import terminal, train
from nanograd.config import read_toml
from tests.nanograd.small_runs import fails, records


def profiled(flags, out, capsys, *extra):
    assert terminal.run(train.main, [*flags, "--out", str(out), *extra]) == 0
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("steps", "measured"), [(14, "10 measured"), (10, "8 measured"), (2, "1 measured"), (1, "1 measured")]
)
def test_the_table_comes_once_and_training_goes_on(flags, tmp_path, capsys, steps, measured):
    err = profiled(flags, tmp_path / "run", capsys, "--steps", str(steps), "--profile")
    assert err.count("where a step goes") == 1
    assert measured in err
    for row in ("linear_cross_entropy", "packed_attention", "optimizer", "gradient norm", "data", "backward, rest"):
        assert row in err
    assert len(records(tmp_path / "run")) == steps


def test_the_flag_may_stand_anywhere_and_changes_no_number(flags, finished, tmp_path, capsys):
    argv = ["--profile", *flags, "--out", str(tmp_path / "a")]
    assert terminal.run(train.main, argv) == 0
    assert [r["loss"] for r in records(tmp_path / "a")] == [r["loss"] for r in records(finished)]
    assert "profile" not in read_toml(tmp_path / "a" / "config.toml"), "a repeat of the run measures nothing"


@pytest.mark.parametrize("joined", [False, True])
def test_a_timeline_is_written(flags, tmp_path, capsys, joined):
    path = tmp_path / "trace.json"
    flag = [f"--profile={path}"] if joined else ["--profile", str(path)]
    err = profiled(flags, tmp_path / "run", capsys, *flag, "--accumulate", "2")
    assert "https://ui.perfetto.dev" in err
    events = json.loads(path.read_text())["traceEvents"]
    assert {"step", "forward", "backward", "data", "gradient norm", "optimizer"} <= {event["name"] for event in events}
    assert sum(event["name"] == "data" for event in events if event["ph"] == "X") == 16  # 8 steps of 2


@pytest.mark.parametrize("bad", ["nowhere/trace.json", "folder", "file/trace.json"])
def test_a_path_that_cannot_be_written_is_refused_at_once(flags, tmp_path, capsys, bad):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    argv = [*flags, "--out", str(tmp_path / "run"), "--profile", str(tmp_path / bad)]
    fails(train.main, argv, f"--profile {tmp_path / bad}: ", capsys)
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_up_meanwhile_does_not_cost_the_model(flags, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, "check_trace_path", lambda wanted: None)
    err = profiled(flags, tmp_path / "run", capsys, "--profile", str(tmp_path / "nowhere" / "trace.json"))
    assert "where a step goes" in err
    assert "no timeline: " in err
    assert (tmp_path / "run" / "model.safetensors").exists()
