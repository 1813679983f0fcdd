"""The benchmark of word2vec: the same words before any time, ratios to gensim's better way, scores of both."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gensim")

from benchmarks import turns, word2vec

WORDS = ["tiger", "cat", "love", "sex", "old", "new", "smart", "intelligent", "boy", "girl", "man", "woman"]


def test_it_measures_speed_and_quality(tmp_path: Path) -> None:
    """In a process of its own: the command sets the threads of its processes in the environment."""
    text, out = tmp_path / "text.txt", tmp_path / "found.jsonl"
    text.write_text("\n".join(map(" ".join, np.random.default_rng(0).choice(WORDS, size=(200, 9)))) + "\nRare words.")
    arguments = ["--text", text, "--rounds", "2", "--threads", "1", "--json", out]
    quality = ["--quality", "--epochs", "1", "--seeds", "2"]
    command = [sys.executable, "-m", "benchmarks.word2vec", *map(str, arguments), *quality]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in out.read_text().splitlines()]
    speeds, scores = records[:9], records[9:]
    kinds = [(what, contestant) for what in ("skip-gram", "cbow", "vocabulary") for contestant in word2vec.CONTESTANTS]
    assert [(record["what"], record["contestant"]) for record in speeds] == kinds
    assert all(record["words"] == 1802 and len(record["seconds"]) == 2 for record in speeds)
    assert "skip-gram" in done.stdout
    assert [record["seed"] for record in scores] == [0, 0, 1, 1] * 2
    assert all(-1 <= record["scores"]["WordSim-353"] <= 1 for record in scores)
    assert all(0 <= record["scores"]["analogies"] <= 1 for record in scores)
    assert "WordSim-353" in done.stdout


def test_other_words_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    replies = {name: word2vec.Reply(1.0, "0" * 64, 10, 5, {}) for name in word2vec.CONTESTANTS}
    monkeypatch.setattr(turns, "ask", lambda contestant, line, question: replies[contestant])
    lines = dict.fromkeys(word2vec.CONTESTANTS)
    assert word2vec.measure(lines, 1)["cbow", "nanograd"] == [1.0]  # type: ignore[arg-type]
    replies["nanograd"] = word2vec.Reply(1.0, "1" * 64, 10, 5, {})
    with pytest.raises(ValueError, match="different words, so no time counts"):
        word2vec.measure(lines, 1)  # type: ignore[arg-type]


def test_the_ratio_is_to_the_better_of_gensims_ways(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = {"nanograd": [1.0, 2.0, 30.0], "gensim (file)": [6.0] * 3, "gensim (lists)": [8.0] * 3}
    found = {(what, name): seconds[name] for what in ("skip-gram", "cbow", "vocabulary") for name in seconds}
    records = word2vec.show_speed(found, 12_000_000, 2)
    assert [record["ratio"] for record in records] == [3.0, 1.0, 0.75] * 3
    assert [record["words_per_second"] for record in records[:3]] == [6e6, 2e6, 1.5e6]
    assert "6.00 (0.40–12.00)" in capsys.readouterr().out


def test_long_lines_are_cut_where_gensim_would_drop_the_rest(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("Don't stop " * 6000)
    assert word2vec.write_corpus(tmp_path / "long.txt", tmp_path / "words") == 12_000
    assert [len(line.split()) for line in (tmp_path / "words").read_text().splitlines()] == [10_000, 2_000]
