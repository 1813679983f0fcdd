"""python -m pre_process.tokenizer: what it writes and prints, one line for each fault, nothing half-written."""

import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pre_process.tokenizer import Tokenizer, commands, documents, write_tiktoken
from pre_process.tokenizer.__main__ import main
from pre_process.tokenizer.inspection import Usage, longest_tokens, readable
from pre_process.tokenizer.inspection_report import print_text
from tests.pre_process import tokenizer_texts as texts

COMMAND = (sys.executable, "-m", "pre_process.tokenizer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds tokenizer.json and text.txt."""
    made = tmp_path_factory.mktemp("tokenizer")
    texts.trained("gpt2").save(made)
    text = "\n".join([*texts.documents("news")[:50], "naïve 中文 <|endoftext|>\x00 and so on", ""])
    (made / "text.txt").write_text(text, encoding="utf-8", newline="")
    return made


def run(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main(list(map(str, arguments)))
    return code, *capfd.readouterr()


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "naive"])
def test_train_encode_decode(tmp_path: Path, folder: Path, pattern: str, capfd: pytest.CaptureFixture[str]) -> None:
    text, out = folder / "text.txt", tmp_path / "new" / "folder"
    code, said, _ = run(capfd, "train", text, text, "--vocab-size", "500", "--pattern", pattern, "--out", out)
    assert (code, said[:15]) == (0, "500 tokens from")
    same = Tokenizer.train([text.read_bytes().decode()] * 2, vocab_size=500, pattern=pattern)  # type: ignore[arg-type]
    assert (out / "tokenizer.json").read_text(encoding="utf-8") == same.to_json()
    assert run(capfd, "encode", out, text, "--out", tmp_path / "ids.npy")[0] == 0
    ids = np.load(tmp_path / "ids.npy")
    assert ids.dtype == np.uint16
    assert ids.tolist() == same.encode(text.read_bytes().decode()).tolist()
    assert run(capfd, "decode", out, tmp_path / "ids.npy") == (0, text.read_bytes().decode(), "")


def test_settings_reach_the_file(tmp_path: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--special-tokens", "<a>", "<b>", "--min-frequency", "5", "--lowercase", "--add-prefix-space"]
    documents = tmp_path / "documents.jsonl"
    documents.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts.documents("news")[:30]))
    arguments = ("train", documents, "--vocab-size", "9000", "--normalizer", "nfc", *options, "--out", tmp_path)
    code, said, _ = run(capfd, *arguments)
    assert code == 0
    assert "(no more pairs occur 5 times)" in said
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.settings == ("gpt2", "nfc", True, True)
    assert list(tokenizer.special_tokens) == ["<a>", "<b>"]
    assert run(capfd, *arguments)[2] == f"error: {tmp_path / 'tokenizer.json'} is there already: choose another " \
        "folder or delete it\n"  # fmt: skip


def test_encode_prints_a_line_for_each_document(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    tokenizer = texts.trained("gpt2")
    lines = "Hello there\n\nnaïve <|pad|>\r\nlast"
    expected = [" ".join(map(str, tokenizer.encode(line))) for line in ("Hello there", "", "naïve <|pad|>\r", "last")]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert run(capfd, "encode", folder)[:2] == (0, "\n".join(expected) + "\n")
    (folder / "lines.txt").write_text("a<|pad|>\n")
    printed = run(capfd, "encode", folder, folder / "lines.txt", "--allow-special")[1]
    assert printed == f"{tokenizer.encode('a')[0]} {tokenizer.pad_id}\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"good\nb\xe4d\n")))
    assert run(capfd, "encode", folder)[2] == "error: standard input, line 2: not UTF-8 text (byte 0xe4 at offset 1)\n"


def test_special_tokens_in_files(tmp_path: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("a <|endoftext|> b")
    run(capfd, "encode", folder, tmp_path / "a.txt", "--out", tmp_path / "a.npy", "--allow-special")
    assert run(capfd, "decode", folder, tmp_path / "a.npy")[1] == "a  b"
    assert run(capfd, "decode", folder, tmp_path / "a.npy", "--keep-special")[1] == "a <|endoftext|> b"


def test_other_formats_are_opened(tmp_path: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = texts.trained("cl100k")
    write_tiktoken(tokenizer, tmp_path / "ranks.tiktoken")
    (tmp_path / "lines.txt").write_text("Hello there\n")
    printed = run(capfd, "encode", tmp_path / "ranks.tiktoken", tmp_path / "lines.txt")[1]
    assert printed.split() == [str(token_id) for token_id in tokenizer.encode("Hello there")]


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "naive"])
def test_parts_have_the_ids_of_the_file(tmp_path: Path, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, strings = texts.trained(pattern), texts.nasty_strings(300)
    for size in (2, 7, 50, 400):
        text = "".join(
            f"{before}{string}" for before, string in zip((" ", "\n", "", "\r\n") * 75, strings, strict=True)
        )
        (tmp_path / "text").write_bytes(text.encode())
        monkeypatch.setattr(documents, "PART", size)
        parts = [part for part, _ in documents.text_parts(tmp_path / "text")]
        assert len(parts) > 1
        assert "".join(parts) == text
        ids = [token_id for part in parts for token_id in tokenizer.encode(part)]
        assert ids == tokenizer.encode(text).tolist()


def test_decoding_in_parts_gives_the_same_text(tmp_path: Path, folder: Path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(commands, "DECODED_TOGETHER", 3)
    tokenizer = texts.trained("gpt2")
    for text in texts.nasty_strings(60):
        np.save(tmp_path / "ids.npy", tokenizer.encode(text))
        assert run(capfd, "decode", folder, tmp_path / "ids.npy")[:2] == (0, text)
    np.save(tmp_path / "ids.npy", np.array([5, 0xE4 + 2, 70, 4000, 7]))
    assert "id 4000 is outside the vocabulary" in run(capfd, "decode", folder, tmp_path / "ids.npy")[2]


BAD = {
    "missing": (["encode", "FOLDER", "nowhere.txt", "--out", "x.npy"], "nowhere.txt: No such file or directory"),
    "missing tokenizer": (["inspect", "nowhere"], "nowhere: No such file or directory"),
    "empty folder": (["inspect", "EMPTY"], "no tokenizer.json, tokenizer.model or vocab.json with merges.txt in this"),
    "folder as text": (["train", "EMPTY", "--vocab-size", "300", "--out", "x"], "Is a directory"),
    "missing text": (["train", "no.txt", "--vocab-size", "300", "--out", "x"], "no.txt: No such file or directory"),
    "not UTF-8": (
        ["train", "LATIN", "--vocab-size", "300", "--out", "x"],
        "not UTF-8 text (byte 0xe9 at offset 200001)",
    ),
    "cut UTF-8": (["encode", "FOLDER", "CUT", "--out", "x.npy"], "not UTF-8 text (byte 0xe4 at offset 2)"),
    "empty text": (["train", "NOTHING", "--vocab-size", "300", "--out", "x"], "the training text is empty"),
    "too small": (["train", "TEXT", "--vocab-size", "30", "--out", "x"], "vocab_size 30 is too small"),
    "a word as special": (
        ["train", "TEXT", "--vocab-size", "300", "--out", "x", "--special-tokens", "the"],
        "special token 'the' looks like ordinary text",
    ),
    "out is a file": (["train", "TEXT", "--vocab-size", "300", "--out", "TEXT"], "is a file, not a folder"),
    "nowhere to write": (["encode", "FOLDER", "TEXT", "--out", "no/x.npy"], "no/x.npy: No such file or directory"),
    "no array": (["decode", "FOLDER", "TEXT"], "is damaged or not a .npy file"),
    "no row of ids": (["decode", "FOLDER", "TABLE"], "a row of integer ids is wanted, this is shape (2, 2) of float64"),
    "out without a file": (["encode", "FOLDER", "--out", "x.npy"], "--out wants a FILE"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_input_is_one_line(tmp_path: Path, folder: Path, name: str, monkeypatch, capfd) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.txt").write_bytes(b"x" * 200_001 + b"\xe9 caf")
    (tmp_path / "cut.txt").write_bytes(b"ab\xe4\xb8")
    (tmp_path / "nothing.txt").write_bytes(b"")
    np.save(tmp_path / "table.npy", np.ones((2, 2)))
    places = {"EMPTY": "empty", "LATIN": "latin.txt", "CUT": "cut.txt", "NOTHING": "nothing.txt", "TABLE": "table.npy"}
    places |= {"FOLDER": str(folder), "TEXT": str(folder / "text.txt")}
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    arguments, message = BAD[name]
    code, said, complaint = run(capfd, *(places.get(argument, argument) for argument in arguments))
    assert (code, said) == (2, "")
    assert complaint.startswith("error: ")
    assert complaint.count("\n") == 1
    assert message in complaint
    assert sorted(tmp_path.rglob("*")) == before


def test_wrong_arguments_exit_with_2(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["train"], ["train", "x", "--vocab-size", "many", "--out", "y"], ["inspect", "a", "b", "c"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert "Traceback" not in capfd.readouterr().err


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    (tmp_path / "ids.npy").write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        code = main(["encode", str(folder), str(folder / "text.txt"), "--out", str(tmp_path / "ids.npy")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert code == 2
    assert capfd.readouterr().err == f"error: {tmp_path / 'ids.npy'}: File too large\n"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    code, _, complaint = run(capfd, "encode", folder, folder / "text.txt", "--out", tmp_path / "ids.npy")
    assert (code, complaint) == (2, f"error: {tmp_path / 'ids.npy'}: Permission denied\n")


def test_inspect_says_what_is_in_it(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capfd, "inspect", folder)
    assert code == 0
    for line in ("tokens            700", "special           <|pad|>, <|endoftext|>", "longest           "):
        assert line in said
    (folder / "short.txt").write_text("Hello the the\x1b[31m the\n中")
    said = run(capfd, "inspect", folder, folder / "short.txt")[1]
    assert said.splitlines()[:2] == ["H|ell|o| the| the|<0x1B>|[|3|1|m| the|↵", "|<0xE4>|<0xB8>|<0xAD>"]
    assert "\x1b" not in said
    for line in ("text             26 bytes, 5 words, 15 tokens", "bytes per token  1.73", "tokens per word  3.00"):
        assert line in said
    assert "most frequent    ␣the 3" in said
    assert run(capfd, "inspect", folder, folder / "short.txt", "--show", "0")[1].startswith("\nvocabulary")


def test_usage_counts() -> None:
    tokenizer = texts.tiny()
    usage = Usage(tokenizer)
    assert (usage.bytes_per_token, usage.tokens_per_word) == (0.0, 0.0)
    assert len(usage.unused()) == 266
    usage.add("low low")
    usage.add(" lowest")
    ids = tokenizer.encode("low low lowest").tolist()
    assert (usage.n_bytes, usage.n_words, usage.n_tokens) == (14, 3, len(ids))
    assert set(usage.unused().tolist()).isdisjoint(ids)
    assert dict(usage.most_frequent(99)) == {token_id: ids.count(token_id) for token_id in ids}
    lengths = [len(tokenizer.token_bytes(token_id)) for token_id in longest_tokens(tokenizer, 5)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == max(map(len, tokenizer.vocabulary.ids))
    assert readable(b"\n") == "↵\n"


def test_a_terminal_shows_borders_in_colour() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=20)
    print_text(screen, texts.trained("gpt2"), "the the[red] of it")
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    colours = [part.split("m")[0] for part in shown.split("\x1b[")[1:] if not part.startswith("0m")]
    assert len(colours) == len(texts.trained("gpt2").encode("the the[red] of it"))
    assert all(first != second for first, second in pairwise(colours))
    assert "[" in shown.replace("\x1b[", "")


def test_a_reader_that_leaves_is_no_error(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.tile(texts.trained("gpt2").encode("Hello there, "), 100_000))
    for arguments in (
        ("decode", folder, tmp_path / "ids.npy"),
        ("inspect", folder, folder / "text.txt", "--show", "99999999"),
    ):
        with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(10)
            process.stdout.close()
            complaint = process.stderr.read()
        assert complaint == b""
        assert process.returncode in (0, 141)  # 0: all of it fitted into the pipe


def listen_to_ctrl_c() -> None:
    """A shell makes what it starts in the background deaf to SIGINT, and with it the tests' own processes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    """Its text comes through a pipe that has no end, so that it can't have finished."""
    os.mkfifo(tmp_path / "pipe")
    arguments = ("encode", folder, tmp_path / "pipe", "--out", tmp_path / "out" / "ids.npy")
    (tmp_path / "out").mkdir()
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, preexec_fn=listen_to_ctrl_c) as process:
        with (tmp_path / "pipe").open("wb") as pipe:
            pipe.write((folder / "text.txt").read_bytes())
            pipe.flush()
            while not list((tmp_path / "out").iterdir()):
                assert process.poll() is None
                time.sleep(0.005)
            while process.poll() is None:  # one that comes just before it waits for the pipe is not heard until later
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=30)
        assert process.stderr is not None
        complaint = process.stderr.read()
    assert (process.returncode, complaint[-12:]) == (130, b"interrupted\n")
    assert not list((tmp_path / "out").iterdir())
