"""The tokenizer's benchmarks run, compare before they measure, and write down what they print."""

import json

import pytest

from benchmarks import lookup, tokenizer
from benchmarks.tokenizer_peers import Peer, nanograd
from tests.pre_process import tokenizer_texts as texts


def test_three_ways_to_find_a_token(tmp_path, capsys):
    (tmp_path / "text.txt").write_text(" ".join(texts.documents("news")[:40]))
    assert lookup.main(["--text", str(tmp_path), "--vocab-sizes", "300", "400"]) == 0
    shown = capsys.readouterr().out
    assert "300 tokens" in shown
    assert "400 tokens" in shown
    assert shown.count("brute force") == shown.count("binary search") == shown.count("hash table") - 2 == 2


def test_encoding_and_decoding_without_peers(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tokenizer, "installed", dict)
    monkeypatch.setattr(tokenizer, "find_spec", lambda name: None)
    monkeypatch.setattr(tokenizer, "WORST", 3000)
    monkeypatch.setattr(tokenizer, "first_use", lambda _: [{"task": "first use", "seconds": 1.0}])
    (tmp_path / "text.txt").write_text("\n".join(texts.documents("news")[:100]))
    arguments = ["--text", str(tmp_path / "text.txt"), "--vocab-size", "600", "--repeats", "1"]
    assert tokenizer.main([*arguments, "--jsonl", str(tmp_path / "found.jsonl")]) == 0
    records = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    tasks = {record["task"] for record in records}
    assert {"encode, 1 core(s)", "encode, 2 core(s)", "decode, 1 core", "worst case: spaces", "first use"} <= tasks
    assert "1 MB of" in capsys.readouterr().out


def test_other_ids_are_not_measured(capsys):
    ours = nanograd(texts.trained("gpt2"))
    wrong = Peer(lambda batch: [[1, 2] for _ in batch], lambda ids: "")
    with pytest.raises(SystemExit, match="other gives other ids, so nothing is measured"):
        tokenizer.encoding(ours, {"other": wrong}, ["some text"], 9, 1, "encode")
    with pytest.raises(SystemExit, match="other gives another text"):
        tokenizer.decoding(ours, {"other": wrong}, ["some text"], 9, 1)


def test_a_panic_is_a_failure_and_ctrl_c_is_not():
    class Panic(BaseException):
        pass

    def raises(error):
        def encode(batch):
            raise error

        return Peer(encode, str)

    assert tokenizer._seconds_or_failure(raises(Panic()), "text") is None
    with pytest.raises(KeyboardInterrupt):
        tokenizer._seconds_or_failure(raises(KeyboardInterrupt()), "text")


def test_a_text_that_is_not_there_ends_in_one_line(tmp_path, capsys):
    assert tokenizer.main(["--text", str(tmp_path / "nowhere")]) == 2
    assert "no such file" in capsys.readouterr().err
