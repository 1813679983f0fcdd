"""Prepared text: the steps of PreProcess, whether nanograd.train takes them itself or starts from a fitted folder."""

import shutil

import numpy as np
import pytest

from nanograd import terminal, train
from nanograd.config import from_command_line
from nanograd.prepare import prepare, token_folder
from nanograd.settings import PRESETS
from pre_process.__main__ import main as pre_process
from pre_process.pre_process import PreProcess
from pre_process.tokenizer import WordLevelTokenizer
from tests.nanograd.small_runs import fails, records

SAME = ["--vocab-size", "280", "--d-model", "16", "--epochs", "1"]  # as in SMALL, but for the name of the last


@pytest.fixture(scope="module")
def fitted(corpus, tmp_path_factory):
    """What `python -m pre_process fit` makes of the corpus with the settings of the other runs."""
    out = tmp_path_factory.mktemp("fitted") / "f"
    assert pre_process(["fit", str(corpus), "--out", str(out), *SAME]) == 0
    return out


def prepared(*argv):
    return prepare(from_command_line(PRESETS, argv, prog="train", about=""), terminal.progress_bar)


def test_a_fitted_folder_gives_the_same_run_bit_by_bit(fitted, flags, finished, tmp_path, capsys):
    argv = [*flags, "--pre-process", str(fitted), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]
    assert terminal.run(train.main, argv) == 0
    said = capsys.readouterr().err
    assert "training the tokenizer" not in said
    assert "training word vectors" not in said
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()
    again = ["--config", str(tmp_path / "run" / "config.toml"), "--out", str(tmp_path / "again")]
    assert terminal.run(train.main, again) == 0
    assert records(tmp_path / "again")[-1]["loss"] == records(finished)[-1]["loss"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [token_folder(
        from_command_line(PRESETS, argv, prog="train", about="")).name]  # fmt: skip


def test_the_vectors_of_training_are_those_of_fit(fitted, flags):
    ours, theirs = prepared(*flags), PreProcess.load(fitted)
    np.testing.assert_array_equal(ours.embeddings, theirs.embeddings)
    assert not ours.embeddings[ours.tokenizer.pad_id].any()


def test_another_text_is_read_with_the_fitted_tokenizer(fitted, flags, tmp_path):
    for i in range(30):
        (tmp_path / f"{i}.txt").write_text("wholly other words, yes they are quite different here " * 5)
    (tmp_path / "cache").mkdir()
    found = prepared(*flags, "--data", str(tmp_path), "--cache", str(tmp_path / "cache"), "--pre-process", str(fitted))
    assert found.tokenizer.to_json() == PreProcess.load(fitted).tokenizer.to_json()
    np.testing.assert_array_equal(found.embeddings, PreProcess.load(fitted).embeddings)


def test_one_cache_keeps_what_two_tokenizers_make_apart(corpus, fitted, flags, tmp_path):
    argv = ["fit", str(corpus), "--out", str(tmp_path / "f"), *SAME, "--vocab-size", "270"]
    assert pre_process(argv) == 0
    of_270 = prepared(*flags, "--pre-process", str(tmp_path / "f"))
    of_280 = prepared(*flags, "--pre-process", str(fitted))
    assert (of_270.tokenizer.vocab_size, of_280.tokenizer.vocab_size) == (270, 280)
    assert of_270.folder != of_280.folder


def test_ids_without_a_fitted_row_keep_what_the_model_draws(fitted, flags):
    found = prepared(*flags, "--pre-process", str(fitted), "--vocab-size", "300")
    assert found.embeddings.shape == (300, 16)
    assert not found.embeddings[found.tokenizer.vocab_size :].any()


def test_a_token_folder_must_have_been_made_by_the_fitted_tokenizer(fitted, flags, tmp_path, capsys):
    tokens = str(prepared(*flags, "--pre-process", str(fitted)).folder)
    assert prepared(*flags, "--data", tokens, "--pre-process", str(fitted)).folder.name in tokens
    other = str(prepared(*flags, "--pattern", "cl100k").folder)
    argv = [*flags, "--data", other, "--pre-process", str(fitted), "--out", str(tmp_path / "run")]
    fails(train.main, argv, "were made by another tokenizer than the one in", capsys)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--d-model", "32"], "word vectors of 16 dimensions, the model's have 32: give --d-model 16 or --init random"),
        (["--vocab-size", "270"], "tokens, the model 270: give --vocab-size"),
        (["--pre-process", "nowhere"], "nowhere/provenance.json is missing"),
        (["--word2vec-epochs", "3"], "was not fitted with --word2vec-epochs 3: leave it out, or fit anew"),
        (["--pattern", "naive"], "was not fitted with --pattern naive: leave it out, or fit anew"),
        (["--pre-process", ""], "--pre-process: Expected `str` of length >= 1"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(fitted, flags, tmp_path, capsys, extra, message):
    for also in ([], ["--dry-run"]):
        argv = [*flags, "--pre-process", str(fitted), *extra, *also, "--out", str(tmp_path / "run")]
        fails(train.main, argv, message, capsys)
    assert list(tmp_path.iterdir()) == []


def test_with_random_vectors_only_the_tokenizer_is_taken(fitted, flags):
    assert prepared(*flags, "--pre-process", str(fitted), "--d-model", "32", "--init", "random").embeddings is None


def test_a_tokenizer_of_words_is_refused(corpus, flags, tmp_path, capsys):
    WordLevelTokenizer.train(["the cat sat on the mat"], vocab_size=10, min_frequency=1).save(tmp_path / "words")
    argv = ["fit", str(corpus), "--tokenizer", str(tmp_path / "words"), "--out", str(tmp_path / "f"), *SAME[2:]]
    assert pre_process(argv) == 0
    argv = [*flags, "--pre-process", str(tmp_path / "f"), "--out", str(tmp_path / "run")]
    fails(train.main, argv, "holds a WordLevelTokenizer: training wants byte-pair encoding", capsys)


def test_a_changed_folder_is_refused(fitted, flags, tmp_path, capsys):
    shutil.copytree(fitted, tmp_path / "f")
    content = bytearray((tmp_path / "f" / "embeddings.npy").read_bytes())
    content[200] ^= 1
    (tmp_path / "f" / "embeddings.npy").write_bytes(content)
    argv = [*flags, "--pre-process", str(tmp_path / "f"), "--out", str(tmp_path / "run")]
    fails(train.main, argv, "embeddings.npy isn't the file that was saved", capsys)


def test_vectors_that_saw_the_validation_text_are_named(corpus, fitted, flags, tmp_path, caplog):
    prepared(*flags, "--pre-process", str(fitted))
    assert "have seen text that validation uses" not in caplog.text
    assert pre_process(["fit", str(corpus), "--out", str(tmp_path / "f"), "--val-fraction", "0", *SAME]) == 0
    prepared(*flags, "--pre-process", str(tmp_path / "f"))
    assert "have seen text that validation uses: fit held out 0 of it, not 0.05" in caplog.text
