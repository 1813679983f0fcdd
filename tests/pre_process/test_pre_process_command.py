"""python -m pre_process: fit, show, transform, tokens; what they leave when they are stopped or refused."""

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data import wikipedia_excerpt
from pre_process.__main__ import main
from pre_process.corpus import documents
from pre_process.pre_process import PreProcess
from pre_process.token_shards import open_tokens, read_manifest
from pre_process.tokenizer import Tokenizer

TEXTS = [f"The cat number {i} sat on the mat. A dog ran after the cat on the mat. " * 4 for i in range(10)]
SMALL = ["--vocab-size", "280", "--d-model", "8", "--epochs", "1"]


def test_equal_input_gives_equal_folders_in_another_process_too(tmp_path: Path) -> None:
    for i, text in enumerate(TEXTS):
        (tmp_path / f"{i}.txt").write_text(text)
    argv = ["fit", str(tmp_path), *SMALL, "--out"]
    assert main([*argv, str(tmp_path / "out" / "a")]) == 0
    subprocess.run([sys.executable, "-m", "pre_process", *argv, str(tmp_path / "out" / "b")], check=True)
    a, b = ({path.name: path.read_bytes() for path in (tmp_path / "out" / name).iterdir()} for name in ("a", "b"))
    assert a == b
    script = (
        "import sys; from pre_process.pre_process import PreProcess;"
        "sys.stdout.buffer.write(PreProcess.load(sys.argv[1]).transform(sys.argv[2:]).vectors.tobytes())"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "out" / "a"), "the cat", "on"]
    there = subprocess.run(argv, check=True, capture_output=True).stdout
    assert there == PreProcess.load(tmp_path / "out" / "b").transform(["the cat", "on"]).vectors.tobytes()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text(TEXTS[0])
    out, arrays = tmp_path / "fitted", tmp_path / "a.npz"
    assert main(["fit", str(tmp_path / "a.txt"), "--out", str(out), *SMALL]) == 0
    assert "word vectors of 8 dimensions" in capsys.readouterr().out
    assert main(["show", str(out)]) == 0
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("a.txt", "epochs 1", "embeddings.npy", "numba", "'<|pad|>'"))
    assert main(["transform", str(out), "the [cat]", "on", "--npz", str(arrays)]) == 0
    assert "']'" in capsys.readouterr().out
    expected = PreProcess.load(out).transform(["the [cat]", "on"])
    with np.load(arrays) as saved:
        for name, array in expected._asdict().items():
            np.testing.assert_array_equal(saved[name], array)


def test_what_rich_would_take_for_a_picture_is_shown_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(":cat:.txt").write_text(TEXTS[0])
    assert main(["fit", ":cat:.txt", "--out", "fitted", *SMALL]) == 0
    capsys.readouterr()
    assert main(["show", "fitted"]) == 0
    assert ":cat:.txt" in capsys.readouterr().out


def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "a.txt"
    text.write_text(TEXTS[0])
    (tmp_path / "there").mkdir()
    out = ["--out", str(tmp_path / "out")]
    for arguments in (
        ["fit", str(tmp_path / "none.txt"), *out],
        ["fit", str(text), "--out", str(tmp_path / "there")],
        ["fit", str(text), "--out", str(text / "below"), *SMALL],
        ["fit", str(text), *out, "--vocab-size", "3"],
        ["fit", str(text), *out, "--d-model", "3"],
        ["fit", str(text), *out, "--positions", "rotary"],
        ["fit", str(text), *out, "--tokenizer", str(text)],
        ["fit", str(tmp_path / "there"), *out],
        ["show", str(tmp_path / "there")],
        ["transform", str(tmp_path), "x"],
        ["transform", str(tmp_path / "nowhere"), "x", "--npz", str(tmp_path / "no" / "a.npz")],
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "there"]


def test_a_tokenizer_is_given_or_trained_not_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Tokenizer.train(TEXTS, vocab_size=300).save(tmp_path / "t")
    argv = ["fit", "-", "--out", str(tmp_path / "f"), "--tokenizer", str(tmp_path / "t"), "--vocab-size", "300"]
    assert main(argv) == 2
    assert capsys.readouterr().err.startswith("error: --vocab-size says how to train a tokenizer, but --tokenizer")


@pytest.mark.parametrize("limit", [200, 6_000])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    limit: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """RLIMIT_FSIZE: no file may grow beyond it; the ids need more than 200 bytes, embeddings.npy more than 6,000."""
    (tmp_path / "a.txt").write_text(" ".join(TEXTS))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        code = main(["fit", str(tmp_path / "a.txt"), "--out", str(tmp_path / "out"), *SMALL])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    where = tempfile.gettempdir() if limit == 200 else tmp_path / "out"
    assert (code, capsys.readouterr().err) == (2, f"error: {where}: File too large\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_fit_that_is_ended_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    (tmp_path / "a.txt").write_text("".join(chr(97 + i % 26) + str(i % 999) + " " for i in range(300_000)))
    argv = [sys.executable, "-m", "pre_process", "fit", str(tmp_path / "a.txt"), "--out", str(tmp_path / "x" / "out")]
    process = subprocess.Popen(
        [*argv, "--epochs", "1000"],
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    ids = re.compile(rf"{re.escape(str(tmp_path))}/temporary/.* \(deleted\)")
    try:
        while not any(ids.match(name) for name in open_files(process.pid)):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        process.send_signal(number)
        err = process.communicate(timeout=300)[1]
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, err) == ((130, b"interrupted\n") if number == signal.SIGINT else (-number, b""))
    assert {path.name for path in tmp_path.rglob("*")} == {"a.txt", "temporary"}


def open_files(pid: int) -> Iterator[str]:
    """Their names. A file may be closed, and the process end, at any moment."""
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(link.readlink())


def test_a_corpus_becomes_token_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Tokenizer.train(TEXTS, vocab_size=300).save(tmp_path / "tokenizer")
    books = tmp_path / "books"
    books.mkdir()
    for i in range(30):
        (books / f"{i}.txt").write_text(
            f"licence\n*** START OF THE PROJECT GUTENBERG EBOOK ***\nbook {i}\x07 " + "and more " * 30
        )
    arguments = ["tokens", str(books), "--tokenizer", str(tmp_path / "tokenizer"), "--val-fraction", "0.1"]
    assert main([*arguments, "--out", str(tmp_path / "plain")]) == 0
    assert "next: python -m nanograd.train --data" in capsys.readouterr().out
    assert main([*arguments, "--out", str(tmp_path / "clean"), "--clean", "--gutenberg"]) == 0
    plain, cleaned = (read_manifest(tmp_path / name) for name in ("plain", "clean"))
    assert plain.splits["train"].documents == cleaned.splits["train"].documents == 27
    assert plain.source_sha256 != cleaned.source_sha256
    text = Tokenizer.load(tmp_path / "tokenizer").decode(open_tokens(tmp_path / "clean", "val")[:])
    assert "book" in text
    assert "licence" not in text
    assert "\x07" not in text
    assert main([*arguments, "--out", str(tmp_path / "plain")]) == 2
    assert "is there already" in capsys.readouterr().err


def test_the_excerpt_as_jsonl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "documents.jsonl"
    assert wikipedia_excerpt.main(["--out", str(path)]) == 0
    assert "documents   97" in capsys.readouterr().out
    assert list(documents(path)) == list(documents(None))
    assert wikipedia_excerpt.main(["--out", str(path / "below")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
