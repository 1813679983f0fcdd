"""The benchmark of the default preset: what both are asked, and what is made of it. No time is judged."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmarks import default_contestants, default_preset
from nanograd import terminal
from nanograd.evaluation import mean_loss
from nanograd.models import DecoderLMConfig, count_parameters

Record = dict[str, Any]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The preset with a model of a few numbers and a text of a few words."""
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat. a dog ran to the hut.\n\n" * 400)
    preset = default_preset.PRESETS["tiny"]
    model = {"vocab_size": 270, "d_model": 32, "n_heads": 1, "n_layers": 1, "context_length": 16}
    small = msgspec.structs.replace(preset, steps=30, model=msgspec.structs.replace(preset.model, **model))
    monkeypatch.setitem(default_preset.PRESETS, "tiny", small)
    monkeypatch.setattr("nanograd.kernels.load", lambda precision: None)
    return default_preset.settings(str(text), str(tmp_path / "cache"))


def test_both_learn_the_text_and_pay_for_the_same_bytes(config: Any) -> None:
    pytest.importorskip("torch")
    ours = default_contestants.prepare("nanograd", config, 1)({"seed": 0, "seconds": None})
    question = {"seed": 0, "lr": 1e-3, "width": 32, "heads": 1}
    theirs = default_contestants.prepare("torch", config, 1)({**question, "seconds": 0.5})
    assert ours["steps"] == 30
    assert theirs["steps"] >= 1
    assert (ours["bytes"], ours["tokens"]) == (theirs["bytes"], theirs["tokens"])
    assert theirs["spent"] >= 0.5
    assert ours["loss"] < 0.9 * np.log(270)
    assert theirs["loss"] < 1.1 * np.log(270)
    assert default_contestants.prepare("torch", config, 1)({**question, "what": "step"})["ms"] > 0


def test_ours_by_the_clock_keeps_to_its_schedule(config: Any) -> None:
    """However few steps fit: none is beyond the last of the preset."""
    pytest.importorskip("torch", reason="the benchmark is one against PyTorch")
    found = default_contestants.ours(config, 0, 1e-3)
    assert found["steps"] >= 1
    assert found["loss"] < 1.1 * np.log(270)


def test_a_clock_leads_through_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 0.1, 5.0, 9.9, 10.1, 10.2])
    monkeypatch.setattr(default_contestants.time, "perf_counter", lambda: next(ticks))
    places: list[float] = []
    assert default_contestants.by_the_clock(places.append, 2000, 10.0) == (3, 10.2)
    assert places == [0.0, 1000.0, 1980.0]


def test_pytorchs_weights_are_the_same_function_in_a_decoder() -> None:
    torch = pytest.importorskip("torch")
    from benchmarks import small_gpt

    torch.manual_seed(0)
    like = DecoderLMConfig(vocab_size=50, context_length=12, n_layers=2)
    model = small_gpt.SmallGPT(50, small_gpt.Recipe(layers=2, heads=2, width=32, context=12))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    decoder = default_contestants.as_decoder(model, like)
    batch = a_batch()
    theirs = torch.nn.functional.cross_entropy(
        model(torch.from_numpy(batch.inputs)).flatten(0, 1), torch.from_numpy(batch.targets).flatten()
    )
    assert mean_loss(decoder, [batch], "cpu") == pytest.approx(theirs.item(), rel=1e-5)
    assert default_contestants.learned(decoder) == sum(p.numel() for p in model.parameters())


def a_batch() -> Any:
    from nanograd.data.batches import validation_batches

    ids = np.random.default_rng(0).integers(0, 50, 37)
    [batch] = validation_batches(ids, batch_size=3, context_length=12)
    return batch


def test_the_peer_is_as_large_as_the_preset() -> None:
    model = default_preset.PRESETS["tiny"].model
    width, heads = default_contestants.same_size(model)
    theirs = count_parameters(default_contestants.gpt2_layout(model, width, heads))
    assert theirs == pytest.approx(count_parameters(model), rel=0.05)


LOSSES = {1e-3: 5.3, 2e-3: 5.1, 4e-3: 5.2}


@pytest.fixture
def asked(config: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """No contestant runs: what they are asked, and answers that are made up."""
    questions: list[Any] = []

    @contextlib.contextmanager
    def processes(prepare: Any, contestants: list[str], *rest: Any) -> Iterator[Record]:
        yield {contestants[0]: None}

    def ask(contestant: str, line: Any, question: Record) -> Record:
        questions.append((contestant, question))
        if "what" in question:
            return {"ms": 3.0 if contestant == "torch-compile" else 5.0}
        loss = 4.9 if contestant == "nanograd" else LOSSES[question["lr"]] + 0.1 * (question["width"] == 32)
        made = {"steps": 100, "spent": 7.04, "parameters": 1000, "bytes": 10, "tokens": 5, "loss": loss}
        return made | {"bits_per_byte": loss / 2}

    monkeypatch.setattr(default_preset.turns, "processes", processes)
    monkeypatch.setattr(default_preset, "ask", ask)
    monkeypatch.setattr(default_preset, "same_size", lambda like: (64, 2))
    return questions


def test_the_peer_gets_its_best_and_our_seconds(asked: list[Any], config: Any, tmp_path: Path) -> None:
    runs = default_preset.Runs(config, 2, tmp_path / "runs.jsonl")
    pairs = default_preset.compare(runs, 2, None)
    assert [pair[1]["seed"] for pair in pairs] == [0, 1]
    for _, theirs in pairs:
        assert {name: theirs[name] for name in ("contestant", "lr", "width", "seconds")} == {
            "contestant": "torch-compile", "lr": 2e-3, "width": 64, "seconds": 7.0}  # fmt: skip
    # ours, four kinds of PyTorch, three rates, the other width; then the second seed of both
    assert len(asked) == 1 + 4 + 3 + 1 + 2
    again = default_preset.Runs(config, 2, tmp_path / "runs.jsonl")
    assert default_preset.compare(again, 2, None) == pairs
    assert len(asked) == 11, "all of it was in the file"
    default_preset.compare(default_preset.Runs(config, 1, tmp_path / "runs.jsonl"), 1, None)
    assert len(asked) == 20, "with another number of threads nothing was"


def test_the_table_says_who_is_better(
    asked: list[Any], config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = default_preset.Runs(config, 2, tmp_path / "runs.jsonl")
    default_preset.show(default_preset.compare(runs, 2, 30.0), runs)
    out = capsys.readouterr().out
    assert "bits per byte: nanograd 2.4500 ± 0.0000, PyTorch 2.5500 ± 0.0000: 3.9 % lower, in 2 of 2 seeds" in out
    assert out.count("tried: ") == 4 + 4
    assert all(question["seconds"] == 30.0 for _, question in asked if "what" not in question)


def test_wrong_flags_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_preset.turns, "set_threads", lambda threads: None)  # of the tests that follow too
    for flags in (["--seeds", "0"], ["--seconds", "0"]):
        with pytest.raises(SystemExit):
            default_preset.parse(flags)
        assert "must be 1 or more, --seconds above 0" in capsys.readouterr().err
    if default_preset.turns.is_installed("torch"):
        assert terminal.run(default_preset.main, ["--data", "nothing.txt", "--seeds", "1"]) == 2
        assert "nothing.txt" in capsys.readouterr().err
