"""The comparison of first token vectors: what it runs, what it leaves out the second time, what it makes of curves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import embedding_curves, embedding_start
from nanograd import terminal


def record(start: str = "random", seed: int = 0, losses: tuple[float, ...] = (8, 6, 5), **more: Any) -> dict[str, Any]:
    curve = [(100 * (i + 1), loss) for i, loss in enumerate(losses)]
    seconds = {"word2vec_seconds": 0.0, "training_seconds": 30.0}
    made = {"corpus": "a.txt", "data": "a.txt", "start": start, "flags": f"--init {start}", "seed": seed, "steps": 3}
    return made | {"curve": curve, "unigram_loss": 7.0} | seconds | more


@pytest.fixture(autouse=True)
def threads_as_they_were(monkeypatch):
    """The command would set those of the tests that follow too."""
    monkeypatch.setattr(embedding_start.turns, "set_threads", lambda threads: None)


def test_only_what_is_missing_runs(monkeypatch, tmp_path, capsys):
    ran = []

    def measure(data: str, flags: str, seed: int, steps: int, cache: Path) -> dict[str, Any]:
        ran.append((flags, seed))
        if len(ran) == 3:
            raise KeyboardInterrupt
        return {name: record()[name] for name in ("curve", "unigram_loss", "word2vec_seconds", "training_seconds")}

    monkeypatch.setattr(embedding_start, "measure", measure)
    argv = ["--data", "a.txt", "--steps", "3", "--seeds", "0,1", "--only", "random", "word2vec", "--json"]
    argv += [str(tmp_path / "runs.jsonl"), "--picture", str(tmp_path / "curves.png")]
    assert terminal.run(embedding_start.main, argv) == 130
    assert not (tmp_path / "curves.png").exists()
    assert terminal.run(embedding_start.main, argv) == 0
    random, word2vec = (f"--init {start} --tie-embeddings" for start in ("random", "word2vec"))
    three = [(random, 0), (word2vec, 0), (random, 1)]
    assert ran == [*three, three[2], (word2vec, 1)], "the one that was interrupted runs again, and what follows"
    assert terminal.run(embedding_start.main, argv) == 0
    assert len(ran) == 5
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 4
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "mean ± standard deviation of 2 seeds" in capsys.readouterr().out


def test_the_table_compares_at_equal_tokens_and_at_equal_time(capsys):
    """The random start ends at 5; the other is there after 200 tokens, but its vectors cost as much as 50."""
    learned = record("word2vec", losses=(7, 5, 4), word2vec_seconds=5.0)
    embedding_curves.show([record(), record(seed=1, losses=(8, 6, 5)), learned, learned | {"seed": 1}])
    out = capsys.readouterr().out
    assert "8.000 ± 0.000" in out
    *_, random, word2vec = [line.split() for line in out.splitlines()]
    assert random == ["random", "0", "300", "5.000"]
    assert word2vec == ["word2vec", "50", "200", "4.500"]
    assert len([line for line in out.splitlines() if " ± 0." in line]) == 3, "a row for each evaluation, none twice"


def test_vectors_that_cost_more_than_the_run_have_no_loss_at_equal_time(capsys):
    embedding_curves.show([record(), record("word2vec", word2vec_seconds=25.0)])
    assert "not yet measured" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(("goal", "expected"), [(6.5, 175), (8, 100), (9, 100), (5, 300), (4.9, None)])
def test_when_a_curve_reaches_a_loss(goal, expected):
    tokens, losses = np.array([100, 200, 300]), np.array([8.0, 6.0, 5.0])
    assert embedding_curves.tokens_to_reach(goal, tokens, losses) == expected


@pytest.mark.parametrize("argv", [["--steps", "0"], ["--seeds", "a"], ["--start", "word2vec"], ["--only", "glove"]])
def test_what_is_refused(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        embedding_start.main(argv)
    assert stop.value.code == 2
    assert argv[1] in capsys.readouterr().err


def test_a_run_that_fails_says_why_in_a_line(tmp_path, capsys):
    argv = ["--data", str(tmp_path / "nowhere.txt"), "--quick", "--json", str(tmp_path / "runs.jsonl")]
    assert terminal.run(embedding_start.main, argv) == 2
    assert "nowhere.txt" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs.jsonl").exists()


@pytest.mark.slow
def test_three_steps_of_each_start(corpus_file, tmp_path):
    argv = ["--data", str(corpus_file), "--steps", "3", "--seeds", "0", "--json", str(tmp_path / "runs.jsonl")]
    assert terminal.run(embedding_start.main, argv) == 0
    found = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [each["start"] for each in found] == list(embedding_start.STARTS)
    assert all([tokens for tokens, _ in each["curve"]] == [1024, 2048, 3072] for each in found)
    assert all((each["word2vec_seconds"] > 0) == ("word2vec" in each["flags"]) for each in found)
    assert len({tuple(map(tuple, each["curve"])) for each in found}) == len(found), "every start is another one"


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    words = ["the", "a", "cat", "dog", "hut", "sun", "mat", "rain", "sat", "ran", "saw", "came", "to", "on"]
    text = " ".join(np.random.default_rng(0).choice(words, 30_000))
    path = tmp_path / "words.txt"
    path.write_text(text)
    return path
