"""What a command ends with, whatever its work met."""

import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from data import mix
from pre_process import __main__ as pre_process
from pre_process import commands
from pre_process.terminal import run_command


def fails_with(error: BaseException) -> object:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("two\nlines"), 2, "error: two lines\n"),
        (FileNotFoundError(2, "No such file", "a.txt"), 2, "error: a.txt: No such file\n"),
        (OSError(28, "No space left on device"), 2, "error: No space left on device\n"),
        (MemoryError(), 2, "error: not enough memory\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_what_went_wrong_is_one_line_and_a_code(error, code, said, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(fails_with(error)) == code
    assert capsys.readouterr().err == said


def test_a_closed_output_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert run_command(lambda: None) == 0


def stopped(*_: object) -> Iterable[str]:
    raise KeyboardInterrupt


def test_ctrl_c_is_one_line_in_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "recipe.toml").write_text('[[source]]\npath = "a.jsonl"\n')
    monkeypatch.setattr(mix, "documents", stopped)
    monkeypatch.setattr(commands, "documents", stopped)
    assert mix.main([str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "out.jsonl")]) == 130
    assert pre_process.main(["fit", "-", "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "interrupted\ninterrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]
