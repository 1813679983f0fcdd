"""The benchmark of optimizers: what it asks, trains and prints. No time is judged."""

import math

import pytest

from benchmarks import optimizers
from nanograd import terminal
from nanograd.models import DecoderLMConfig
from nanograd.optim_settings import OPTIMIZERS


def test_it_covers_every_optimizer():
    assert optimizers.OPTIMIZERS.keys() == OPTIMIZERS.keys()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_of_ours_runs(name, monkeypatch):
    monkeypatch.setitem(optimizers.MODELS, "test", DecoderLMConfig(
        vocab_size=30, context_length=4, n_layers=1, n_heads=1, d_model=8))  # fmt: skip
    optimizers.ours(name, "test")()


def test_losses_are_those_of_short_runs(tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat. a dog ran to the hut. " * 3000)
    monkeypatch.setattr(optimizers.kernels, "load", lambda precision: None)
    base = optimizers.PRESETS["tiny"]
    small = optimizers.msgspec.structs.replace(
        base,
        batch_size=2,
        model=optimizers.msgspec.structs.replace(base.model, vocab_size=280, context_length=8, n_layers=1, d_model=12),
        text=optimizers.msgspec.structs.replace(base.text, cache=str(tmp_path / "cache"), val_fraction=0.5),
    )
    monkeypatch.setitem(optimizers.PRESETS, "tiny", small)
    documents = tmp_path / "documents"
    documents.mkdir()
    for i in range(4):
        (documents / f"{i}.txt").write_text(text.read_text())
    [record] = optimizers.losses(["muon"], 3, str(documents))
    assert record["optimizer"] == "muon"
    assert record["loss"] == pytest.approx(math.log(280), rel=0.2)


def test_the_table_has_a_ratio_where_there_is_a_peer(capsys):
    optimizers.show([
        {"model": "tiny", "optimizer": "sgd", "ms": 2.0, "torch_ms": 5.0},
        {"model": "tiny", "optimizer": "lion", "ms": 2.0, "torch_ms": None},
    ])  # fmt: skip
    _, sgd, lion = capsys.readouterr().out.splitlines()
    assert sgd.split() == ["tiny,", "sgd", "2.00", "5.00", "2.50", "×"]
    assert lion.split() == ["tiny,", "lion", "2.00"]


def test_impossible_numbers_are_refused(capsys):
    with pytest.raises(SystemExit):
        terminal.run(optimizers.main, ["--rounds", "0"])
    assert "--rounds and --steps must be 1 or more" in capsys.readouterr().err
