"""The training command and its loader: layouts, threads that work ahead, .bin shards, shards that change meanwhile."""

import numpy as np
import pytest

from nanograd import terminal, train
from nanograd.config import from_command_line
from nanograd.data import Prefetch
from nanograd.mixing import parse_data
from nanograd.prepare import token_folder
from nanograd.settings import PRESETS
from pre_process.bin_shards import write_bin
from pre_process.token_shards import open_tokens
from pre_process.tokenizer import Tokenizer
from tests.nanograd.small_runs import fails, records


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_whole_documents_can_be_learned_from(flags, tmp_path, layout):
    argv = [*flags, "--layout", layout, "--positions", "rotary", "--accumulate", "2", "--out", str(tmp_path / "x")]
    assert terminal.run(train.main, argv) == 0
    lines = records(tmp_path / "x")
    counts = np.diff([0, *(r["tokens"] for r in lines)])
    assert counts.max() <= 4 * 16 * 2
    assert counts.min() < 4 * 16 * 2, "padding is not counted"
    assert lines[-1]["val_loss"] < lines[4]["val_loss"]


def test_batches_made_ahead_give_the_same_run(finished, flags, tmp_path):
    assert terminal.run(train.main, [*flags, "--prefetch", "3", "--out", str(tmp_path / "x")]) == 0
    assert (tmp_path / "x" / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


@pytest.fixture
def bin_folder(finished, flags, tmp_path):
    """The finished run's text as .bin shards, with its tokenizer beside them."""
    tokens, folder = token_folder(from_command_line(PRESETS, flags, prog="train", about="")), tmp_path / "shards"
    folder.mkdir()
    Tokenizer.load(tokens).save(folder)
    for split in ("train", "val"):
        write_bin(folder / f"text_{split}_000000.bin", open_tokens(tokens, split)[:])
    return folder


def test_bin_shards_are_data_like_any_other(bin_folder, finished, flags, tmp_path):
    assert terminal.run(train.main, [*flags, "--data", str(bin_folder), "--out", str(tmp_path / "x")]) == 0
    assert (tmp_path / "x" / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


@pytest.mark.parametrize("ahead", ["0", "2"])
def test_a_shard_that_is_cut_during_the_run_ends_it_in_one_line(
    bin_folder, flags, tmp_path, capsys, monkeypatch, ahead
):
    shard, batch = bin_folder / "text_train_000000.bin", Prefetch.batch

    def cut_at_6(self, index):
        if index == 6:
            shard.write_bytes(shard.read_bytes()[:1100])
        return batch(self, index)

    monkeypatch.setattr(Prefetch, "batch", cut_at_6)
    argv = [*flags, "--data", str(bin_folder), "--prefetch", ahead, "--out", str(tmp_path / "x")]
    fails(train.main, argv, "text_train_000000.bin was ", capsys)
    assert len(records(tmp_path / "x")) in (6, 7, 8)


@pytest.fixture
def stories(tmp_path):
    """A second text, in other words."""
    folder = tmp_path / "stories"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i}.txt").write_text(f"zebras zigzag over quiet jungle {i} " * 40)
    return folder


def test_two_texts_are_mixed_by_weight(corpus, stories, flags, tmp_path):
    """The second text is unlike the first: what is learned of it grows with its weight."""
    losses = {}
    for weight in ("0.1", "0.9"):
        argv = [*flags, "--data", f"{corpus}={1 - float(weight)},{stories}={weight}", "--steps", "30", "--lr", "0.01",
                "--layout", "packed", "--out", str(tmp_path / weight)]  # fmt: skip
        assert terminal.run(train.main, argv) == 0
        losses[weight] = records(tmp_path / weight)[-1]["unigram_loss"]
    assert losses["0.1"] != losses["0.9"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{corpus}=1,{stories}", "stories' is no PATH=WEIGHT"),
        ("{corpus}=1,{stories}=much", "is no PATH=WEIGHT"),
        ("{corpus}=1,{corpus}=2", "twice"),
        ("{corpus}=1,{stories}=0", "weights of --data must be positive"),
        ("{corpus}=1,{stories}=1e-9", "less than 1/1024"),
        ("{corpus}=1,{stories}/nowhere=1", "nowhere"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_one_line(corpus, stories, flags, tmp_path, capsys, data, message):
    argv = [*flags, "--data", data.format(corpus=corpus, stories=stories), "--out", str(tmp_path / "x")]
    fails(train.main, argv, message, capsys)
    assert not (tmp_path / "x").exists()


def test_token_files_of_another_tokenizer_are_not_mixed_in(corpus, bin_folder, stories, flags, tmp_path, capsys):
    argv = [*flags, "--data", f"{stories}=1,{bin_folder}=1", "--out", str(tmp_path / "x")]
    fails(train.main, argv, "was made with another tokenizer", capsys)


def test_data_names_texts_and_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_data(None) == [(None, 1.0)]
    assert parse_data("books/") == [("books/", 1.0)]
    assert parse_data("books/=0.7,-=0.3") == [("books/", 0.7), (None, 0.3)]
    (tmp_path / "a=1").touch()
    assert parse_data("a=1") == [("a=1", 1.0)]
