"""Evaluation: every token once, the same figures in every pass, cards that reproduce; and what it refuses."""

import json
import shutil
import sys

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from nanograd import evaluate, evaluation, terminal
from nanograd.config import from_command_line
from nanograd.data import validation_batches
from nanograd.data.documents import Document, open_documents
from nanograd.evaluation import cut, document_losses, figures, mean_loss
from nanograd.io.arrays import write_arrays
from nanograd.io.checkpoint import load_model
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.prepare import token_folder
from nanograd.settings import PRESETS
from nanograd.tensor import no_grad
from pre_process.token_files import write_tokens
from pre_process.token_shards import open_tokens, read_manifest
from pre_process.tokenizer import Tokenizer
from tests.nanograd.small_runs import fails, records

T, V, END = 8, 30, 3
SIZES = [0, 1, 7, 8, 9, 30, 2, 16, 15]


@pytest.fixture(scope="module")
def model():
    """Untrained, with dropout that must not act, and weights large enough that every token has its own price."""
    config = DecoderLMConfig(
        vocab_size=V, context_length=T, n_layers=2, d_model=16, n_heads=2, dropout=0.5, init_std=0.5
    )
    return DecoderLM(config, seed=1)


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(0)
    return [Document(rng.integers(4, V, n), 3 * n + 1, f"document {i}") for i, n in enumerate(SIZES)]


def nats(model, documents, **settings):
    return [loss.nats for loss in document_losses(model, documents, end_of_text=END, **settings)]


def price(model, context, token):
    """−ln p(token) behind `context`, in float64, from the logits."""
    with no_grad():
        logits = model.eval()(np.array([context[-T:]])).data[0, -1].astype(np.float64)
    return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[token]


def expected(model, document, stride):
    """Token by token. A window begins every `stride` tokens, and a token's context is that of the first that has it."""
    ids, total = [END, *document.ids, END], 0.0
    for t in range(len(ids) - 1):
        window = max(0, -(-(t + 1 - T) // stride)) * stride
        total += price(model, ids[window : t + 1], ids[t + 1])
    return total


@pytest.mark.parametrize("stride", [0, 8, 3, 1])
def test_a_document_costs_what_its_tokens_cost_one_by_one(model, documents, stride):
    found = nats(model, documents, stride=stride)
    np.testing.assert_allclose(found, [expected(model, d, stride or T) for d in documents], rtol=1e-5)


@given(st.integers(1, 60), st.integers(1, 12), st.data())
def test_windows_score_every_input_once(n_inputs, width, data):
    stride = data.draw(st.integers(1, width))
    windows = list(cut(0, n_inputs, width, stride))
    scored = [i for w in windows for i in range(w.scored, w.stop)]
    assert scored == list(range(n_inputs))
    assert all(0 < w.stop - w.start <= width and w.start <= w.scored for w in windows)
    assert [w.start for w in windows] == [i * stride for i in range(len(windows))]


def test_neither_batch_size_nor_block_nor_a_second_pass_changes_the_figures(model, documents, monkeypatch):
    once = nats(model, documents, batch_size=4)
    assert nats(model, documents, batch_size=4) == once
    for size in (1, 3, 100):
        np.testing.assert_allclose(nats(model, documents, batch_size=size), once, rtol=1e-6)
    monkeypatch.setattr(evaluation, "BLOCK", 10)
    np.testing.assert_allclose(nats(model, documents, batch_size=4), once, rtol=1e-6)
    np.testing.assert_allclose(nats(model, documents[::-1])[::-1], once, rtol=1e-6)


def test_training_s_loss_of_packed_documents_is_the_same(model, documents):
    stream = np.concatenate([[END], *(np.array([*d.ids, END]) for d in documents)])
    batches = list(validation_batches(stream, batch_size=3, context_length=T, layout="packed", end_of_text=END))
    losses = list(document_losses(model, documents, end_of_text=END))
    assert sum(batch.n_targets for batch in batches) == sum(loss.tokens for loss in losses) == sum(SIZES) + len(SIZES)
    model.train()
    assert mean_loss(model, batches, "cpu") == pytest.approx(figures(losses, 1).loss, rel=1e-6)
    assert model.training


def test_figures_are_made_of_all_tokens_and_all_bytes(model, documents):
    done = []
    losses = list(document_losses(model, documents, end_of_text=END, progress=done.append))
    total = figures(losses, 1000)
    assert sum(done) == pytest.approx(sum(d.n_bytes for d in documents))
    assert [loss.number for loss in losses] == list(range(len(SIZES)))
    assert total.loss == pytest.approx(sum(loss.nats for loss in losses) / (sum(SIZES) + len(SIZES)))
    assert total.perplexity == pytest.approx(np.exp(total.loss))
    assert total.bits_per_byte == pytest.approx(sum(loss.nats for loss in losses) / np.log(2) / 1000)
    assert losses[5].loss == losses[5].nats / 31
    assert losses[5].bits_per_byte == pytest.approx(losses[5].nats / np.log(2) / 91)


def read(data, tokenizer, split=None, val_fraction=0.05):
    text = open_documents(str(data), tokenizer, split=split, val_fraction=val_fraction)
    return text, list(text.documents)


def test_bytes_are_those_of_the_text_though_the_tokenizer_normalises(tmp_path):
    (tmp_path / "a.txt").write_text("ﬁne café ½ " * 30, encoding="utf-8")
    (tmp_path / "b.txt").write_text("plain words. " * 30)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    tokenizer = Tokenizer.train(["fine cafe 1/2 plain words"] * 9, vocab_size=290, normalizer="ascii")
    text, found = read(tmp_path, tokenizer)
    assert text.n_bytes == sum(document.n_bytes for document in found) == size
    assert [document.beginning[:4] for document in found] == ["ﬁne ", "plai"]
    write_tokens(tmp_path / "t", lambda: iter(["½ café " * 40, "b " * 90]), tokenizer, source="", source_sha256="")
    sizes = [split.bytes for split in read_manifest(tmp_path / "t").splits.values()]
    assert read(tmp_path / "t", tokenizer, "all")[0].n_bytes == sum(sizes)


@pytest.fixture(scope="module")
def tokens(finished, flags):
    """The token folder that the finished run has learned from."""
    return token_folder(from_command_line(PRESETS, flags, prog="train", about=""))


@pytest.mark.parametrize("split", ["val", "train", "all"])
def test_a_text_and_its_token_files_have_the_same_documents(corpus, tokens, split):
    tokenizer = Tokenizer.load(tokens)
    (text, ours), (folder, theirs) = read(corpus, tokenizer, split), read(tokens, tokenizer, split)
    assert text.n_bytes == folder.n_bytes
    ours, theirs = (sorted(texts, key=lambda document: document.ids.tolist()) for texts in (ours, theirs))
    for a, b in zip(ours, theirs, strict=True):
        assert (a.ids.tolist(), a.n_bytes, a.beginning) == (b.ids.tolist(), b.n_bytes, b.beginning)
    assert read(tokens, tokenizer)[0].split == "val"
    assert read(corpus, tokenizer)[0].split == "all"


def run(*argv):
    return terminal.run(evaluate.main, [str(word) for word in argv])


def test_the_command_says_the_same_twice_and_as_training_did(finished, tokens, capsys):
    found = []
    for _ in range(2):
        assert run(finished, "--data", tokens, "--json") == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert found[0]["documents"] == len(found[0]["per_document"]) == 2
    assert found[0]["tokens"] == len(open_tokens(tokens, "val"))
    assert found[0]["loss"] == pytest.approx(records(finished)[-1]["val_loss"], rel=0.02), "windows across documents"
    model, _ = load_model(finished)
    ids = open_tokens(tokens, "val")[:]
    again = mean_loss(model, validation_batches(ids, batch_size=4, context_length=16), "cpu")
    assert again == pytest.approx(records(finished)[-1]["val_loss"], rel=1e-5)


def test_the_worst_and_the_best_documents_are_listed(finished, corpus, capsys):
    assert run(finished, "--data", corpus, "--documents", "2") == 0
    out = capsys.readouterr().out
    rows = [line.split("│")[1:3] for line in out.splitlines() if line.startswith("│") and line.count("│") > 4]
    costs = [float(cost) for number, cost in rows if number.strip()]
    assert "30 documents" in out
    assert run(finished, "--data", corpus, "--json") == 0
    all_costs = [d["bits_per_byte"] for d in json.loads(capsys.readouterr().out)["per_document"]]
    worst_first = [round(cost, 3) for cost in sorted(all_costs, reverse=True)]
    assert costs == worst_first[:2] + worst_first[-2:]
    assert run(finished, "--data", corpus, "--documents", "0") == 0
    assert "worst first" not in capsys.readouterr().out


@pytest.fixture
def frozen(finished, corpus, tmp_path, capsys):
    """A copy of the finished run with a card for the text in tmp_path/text."""
    shutil.copytree(finished, tmp_path / "run")
    shutil.copytree(corpus, tmp_path / "text")
    assert run(tmp_path / "run", "--data", tmp_path / "text", "--split", "val", "--stride", "4", "--freeze") == 0
    capsys.readouterr()
    return tmp_path / "run"


def test_a_card_holds_and_is_the_same_when_frozen_again(frozen, capsys):
    assert run(frozen, "--check") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the card holds to the last bit"
    card = json.loads((frozen / "model_card.json").read_text())
    assert card["settings"]["stride"] == 4
    written = [(frozen / name).read_bytes() for name in ("model_card.json", "MODEL_CARD.md")]
    assert all(sha256.encode() in written[1] for sha256 in card["files"].values())
    command = card["command"].split()[3:]
    assert run(*command) == 0
    assert [(frozen / name).read_bytes() for name in ("model_card.json", "MODEL_CARD.md")] == written


def test_a_card_does_not_hold_for_other_weights(frozen, capsys):
    model, _ = load_model(frozen)
    model.tokens.weight.data[5] += 1
    write_arrays(frozen / "model.safetensors", model.state_dict())
    assert run(frozen, "--check") == 1
    out = capsys.readouterr().out
    assert "model.safetensors: not what the card was made from" in out
    assert out.splitlines()[-1] == "the card does NOT hold"


def test_a_card_does_not_hold_for_another_text_or_other_figures(frozen, tmp_path, capsys):
    card = frozen / "model_card.json"
    whole = card.read_text()
    loss = json.loads(whole)["figures"]["loss"]
    card.write_text(whole.replace(str(loss), str(loss * 1.001)))
    assert run(frozen, "--check") == 1
    assert "now (!)" in capsys.readouterr().out
    card.write_text(whole)
    with (tmp_path / "text" / "00.txt").open("a") as file:
        file.write(" more")
    assert run(frozen, "--check") == 1
    assert "the text: not what the card was made from" in capsys.readouterr().out


def test_a_card_that_is_none(frozen, capsys):
    card = frozen / "model_card.json"
    for content, message in (
        (b"{}", "can't be read: Object missing required field"),
        (card.read_bytes().replace(b'"format_version": 1', b'"format_version": 9'), "has format 9"),
        (card.read_bytes().replace(b'"split": "', b'"split": "no'), "the settings on the card"),
        (b"\xff", "can't be read"),
        (None, "holds no model_card.json"),
    ):
        card.unlink()
        if content is not None:
            card.write_bytes(content)
        fails(evaluate.main, [str(frozen), "--check"], message, capsys)
        card.touch()


def test_ids_of_another_tokenizer_are_refused(finished, corpus, tmp_path, capsys):
    other = Tokenizer.train([path.read_text() for path in corpus.iterdir()], vocab_size=270)
    texts = [path.read_text() for path in sorted(corpus.iterdir())]
    write_tokens(tmp_path / "t", lambda: iter(texts), other, source="", source_sha256="")
    fails(evaluate.main, [str(finished), "--data", str(tmp_path / "t")], "another tokenizer than the model's", capsys)


def test_weights_that_are_no_numbers_are_named(finished, tokens, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    model, _ = load_model(tmp_path / "run")
    model.tokens.weight.data[:] = np.nan
    write_arrays(tmp_path / "run" / "model.safetensors", model.state_dict())
    fails(evaluate.main, [str(tmp_path / "run"), "--data", str(tokens), "--freeze"], "the loss is nan", capsys)
    assert not (tmp_path / "run" / "model_card.json").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--data is missing"),
        (["--data", "nowhere.txt"], "nowhere.txt: no such file"),
        (["--data", ""], "--data: Expected `str` of length >= 1"),
        (["--data", "-", "--stride", "17"], "--stride is 17, but windows of 16 tokens"),
        (["--data", "-", "--batch-size", "0"], "--batch-size: Expected `int` >= 1"),
        (["--data", "-", "--split", "val", "--val-fraction", "1"], "--val-fraction"),
        (["--data", "-", "--device", "tpu"], "device 'tpu' is unknown"),
        (["--check", "--freeze"], "give one of them"),
        (["--check"], "holds no model_card.json"),
    ],
)
def test_bad_input_is_one_line(finished, capsys, argv, message):
    fails(evaluate.main, [str(finished), *argv], message, capsys)


def test_an_empty_text_and_a_folder_without_a_model(finished, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text(" \n")
    fails(evaluate.main, [str(finished), "--data", str(tmp_path / "empty.txt")], "there is no text in it", capsys)
    fails(evaluate.main, [str(tmp_path), "--data", "-"], "holds no config.json", capsys)
    assert safetensors.numpy.load_file(finished / "model.safetensors")


def test_on_a_device_the_figures_are_the_same(model, documents, monkeypatch):
    pytest.importorskip("cupy", reason="the stand-in asks CuPy which names exist: pip install 'nanograd[cuda13]'")
    from tests import fake_cupy

    here = nats(model, documents, stride=3)
    for name, module in fake_cupy.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    model.to("cuda")
    try:
        np.testing.assert_allclose(nats(model, documents, stride=3, device="cuda"), here, rtol=1e-6)
    finally:
        model.to("cpu")


@pytest.mark.cuda
def test_on_a_gpu_the_figures_are_the_same(model, documents, device):
    here = nats(model, documents, stride=3)
    model.to(device)
    try:
        np.testing.assert_allclose(nats(model, documents, stride=3, device=device), here, rtol=1e-4)
    finally:
        model.to("cpu")
