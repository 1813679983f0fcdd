"""The benchmark of the speedrun: what it asks of both, and its verdict. No time is judged."""

from typing import Any

import msgspec
import numpy as np
import pytest

from benchmarks import speedrun
from nanograd import terminal
from nanograd.models import count_parameters


def record(contestant: str, step: int, seconds: float, loss: float, **more: Any) -> dict[str, Any]:
    fields = {"seed": 0, "setup": 1.0, "parameters": 7, "judged": True}
    return {"contestant": contestant, "step": step, "seconds": seconds, "loss": loss, **fields, **more}


RECORDS = [
    record("torch", 1, 10.0, 2.0), record("torch-compile", 1, 12.0, 2.0), record("torch", 2, 20.0, 1.9),
    record("nanograd", 1, 1.0, 1.8, judged=False), record("nanograd", 2, 2.0, 1.95), record("nanograd", 3, 4.0, 1.9),
    record("nanograd", 4, 5.0, 1.85),
]  # fmt: skip


def test_the_first_full_validation_that_is_as_good_counts() -> None:
    assert speedrun.faster(RECORDS) == "torch-compile"
    [row] = speedrun.verdict(RECORDS, "torch")
    assert (row["loss"], row["torch_seconds"], row["steps"], row["seconds"]) == (1.9, 20.0, 3, 4.0)
    assert (row["ratio"], row["ratio_with_setup"], row["final_loss"]) == (5.0, 21 / 5, 1.85)


def test_who_never_gets_there_has_no_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    rows = speedrun.verdict([r for r in RECORDS if r["step"] < 3], "torch")
    speedrun.show(rows)
    out = capsys.readouterr().out
    assert "never" in out
    assert "median" not in out
    speedrun.show(speedrun.verdict(RECORDS, "torch"))
    assert "median over 1 seeds: 5.00 × as fast as torch, 4.20 × with set-up" in capsys.readouterr().out


def test_turns_take_all_steps_and_the_last_see_all_of_the_text() -> None:
    taken: list[int] = []
    run = list(speedrun.turn_by_turn(lambda: taken.append(1), float, 25, 7, 0.0))
    assert len(taken) == 25
    assert [r["step"] for r in run][-2:] == [22, 25]
    assert [r["loss"] for r in run] == [speedrun.SAMPLE] * 7 + [1.0] * 3


def test_the_yardstick_is_the_fields_model_and_ours_is_no_larger() -> None:
    pytest.importorskip("torch")
    from benchmarks import small_gpt

    theirs = sum(p.numel() for p in small_gpt.SmallGPT(65).parameters())
    assert theirs == 804_096  # nanoGPT's 0.80 M
    assert count_parameters(speedrun.PRESETS["speedrun"].model) <= theirs
    assert small_gpt.CHARACTERS.learning_rate(2000) == pytest.approx(1e-4)
    assert small_gpt.CHARACTERS.learning_rate(100) == 1e-3
    assert small_gpt.CHARACTERS.learning_rate(0) == pytest.approx(1e-3 / 101)


def test_both_learn_a_text(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from benchmarks import small_gpt

    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat. " * 500)
    preset = speedrun.PRESETS["speedrun"]
    smaller = {"d_model": 8, "n_heads": 2, "n_layers": 1, "context_length": 16}
    small = msgspec.structs.replace(
        preset,
        steps=20,
        model=msgspec.structs.replace(preset.model, **smaller),
        text=msgspec.structs.replace(preset.text, cache=str(tmp_path / "cache")),
    )
    monkeypatch.setitem(speedrun.PRESETS, "speedrun", small)
    monkeypatch.setattr("nanograd.kernels.load", lambda precision: None)
    monkeypatch.setattr(speedrun, "WINDOW", 16)
    recipe = small_gpt.Recipe(width=8, heads=2, layers=1, context=16, steps=300)
    monkeypatch.setattr(small_gpt, "CHARACTERS", recipe)
    config = speedrun.settings(str(text), quick=False)
    ours = list(speedrun.ours(config, seed=0))
    theirs = list(speedrun.torchs(config, 0, 1, True, compiled=False))
    assert [ours[-1]["step"], theirs[-1]["step"]] == [20, 30]
    train, held_out = speedrun.characters(speedrun.token_files(config))
    assert len(train) + len(held_out) == 12_000
    assert len(np.unique(train)) == 11
    assert ours[-1]["loss"] < 0.96 * np.log(258)
    assert theirs[-1]["loss"] <= 1.02 * np.log(11)


def test_wrong_flags_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        speedrun.parse(["--seeds", "0"])
    assert "--seeds and --threads must be 1 or more" in capsys.readouterr().err
    if speedrun.is_installed("torch"):
        assert terminal.run(speedrun.main, ["--data", "nothing.txt"]) == 2
        assert "nothing.txt is no file" in capsys.readouterr().err
