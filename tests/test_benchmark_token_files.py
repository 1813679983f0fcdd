"""The benchmark of token files: same ids before any time, one record for each contestant."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import token_files, turns


def test_it_measures_what_is_installed(tmp_path: Path) -> None:
    """In a process of its own: the command sets the threads of its processes in the environment."""
    out = tmp_path / "found.jsonl"
    arguments = ["--megabytes", "0.2", "--vocab-size", "400", "--rounds", "1", "--threads", "1", "--json", str(out)]
    command = [sys.executable, "-m", "benchmarks.token_files", *arguments]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["contestant"] for record in records] == ["nanograd", *token_files.installed()]
    assert records[0]["ratio"] == 1
    assert records[0]["bytes"] >= 200_000


def test_other_ids_end_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers = {"nanograd": (1.0, 10, 55), "peer": (1.0, 10, 56)}
    monkeypatch.setattr(turns, "ask", lambda contestant, line, question: answers[contestant])
    with pytest.raises(ValueError, match="different ids, so no time counts"):
        token_files.measure(list(answers), tmp_path, rounds=1, threads=1)
