"""Thousands of damaged files: each reader refuses in one line, or gives a tokenizer that works. None hangs."""

import json
import random
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pre_process.tokenizer import (
    Tokenizer,
    TokenizerError,
    WordLevelTokenizer,
    open_tokenizer,
    read_gpt2_files,
    read_word_list,
    write_gpt2_files,
    write_tiktoken,
)
from tests.pre_process import tokenizer_texts as texts
from tests.pre_process.test_tokenizer_sentencepiece import BYTES, written

SAMPLE = "The naïve <|pad|> cost: 1234 €\r\n\n\tto\u00a0中 'll  x <s> low lowest\x00"
SECONDS = 20  # that a damaged file may take; a whole one takes a hundredth


def tokenizer_json(folder: Path) -> Path:
    tree = json.loads(texts.tiny().to_json())
    token = {"id": 268, "content": "<x>", "special": False, "single_word": True, "lstrip": True, "normalized": True}
    tree["added_tokens"].append(token)
    tree["post_processor"] = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing"}]}
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    return folder / "tokenizer.json"


def word_level(folder: Path) -> Path:
    WordLevelTokenizer.train(["low lower lowest low , lower ,"]).save(folder)
    return folder / "tokenizer.json"


def ranks(folder: Path) -> Path:
    write_tiktoken(texts.tiny(), folder / "ranks.tiktoken")
    return folder / "ranks.tiktoken"


def model(folder: Path) -> Path:
    words = [("▁", -3.0, 1), ("l", -4.0, 1), ("o", -5.0, 1), ("lo", -1.0, 1), ("▁lo", -2.0, 1), ("<x>", 0.0, 4)]
    (folder / "some.model").write_bytes(written([("<unk>", 0.0, 2), ("<s>", 0.0, 3), *BYTES, *words]))
    return folder / "some.model"


def vocab(folder: Path) -> Path:
    write_gpt2_files(texts.tiny(), folder)
    return folder / "vocab.json"


def merges(folder: Path) -> Path:
    return vocab(folder).with_name("merges.txt")


def words(folder: Path) -> Path:
    content = {"special": {"<pad>": 0, "<space>": 1}, "l": {"complete_token": 2, "o": {"complete_token": 3}}}
    (folder / "words.json").write_text(json.dumps(content))
    return folder / "words.json"


def in_folder(path: Path) -> Tokenizer:
    return read_gpt2_files(path.parent)


KINDS: dict[Callable[[Path], Path], Callable[[Path], Any]] = {
    tokenizer_json: open_tokenizer,
    word_level: open_tokenizer,
    ranks: open_tokenizer,
    model: open_tokenizer,
    vocab: in_folder,
    merges: in_folder,
    words: read_word_list,
}


@pytest.mark.parametrize("n", [150, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", list(KINDS), ids=lambda kind: kind.__name__)
def test_damaged_files(tmp_path: Path, kind: Callable[[Path], Path], n: int) -> None:
    path = kind(tmp_path)
    whole, refused = path.read_bytes(), 0
    works_or_is_refused(path, KINDS[kind])
    for content in damaged(whole, random.Random(n), n):
        path.write_bytes(content)
        refused += works_or_is_refused(path, KINDS[kind])
    assert refused > n / 4


def works_or_is_refused(path: Path, read: Callable[[Path], Any]) -> bool:
    """True if it is refused. A tokenizer must find ids for any text and, where it promises to, give the text back."""

    def stop(*_: object) -> None:
        raise AssertionError(f"{path.name} takes more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        refusal = use(path, read)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert "\n" not in refusal
    assert refusal.startswith(str(path.parent)) or not refusal
    assert len(refusal) < len(str(path)) + 200
    return bool(refusal)


def use(path: Path, read: Callable[[Path], Any]) -> str:
    """Read it and use it; returns why it is refused, "" if it is not."""
    try:
        tokenizer = read(path)
    except TokenizerError as error:
        return str(error)
    greedy = isinstance(tokenizer, Tokenizer) and tokenizer.vocabulary.needs_greedy
    options = {"method": "greedy"} if greedy else {}
    text = tokenizer.decode(tokenizer.encode(SAMPLE, **options), skip_special=False)
    tokenizer.encode(SAMPLE, allowed_special="all", **options)
    if isinstance(tokenizer, Tokenizer) and tokenizer.settings[1:] == ("none", False, False):
        assert text == SAMPLE
    return ""


def damaged(whole: bytes, rng: random.Random, n: int) -> Iterator[bytes]:
    yield from (
        b"",
        b"\0" * 100,
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'"' + b"x" * 100_000,
        b"\xff\xfe" + whole,
        whole * 2,
    )
    for _ in range(n):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            rng.choice((_cut, _flip, _swap, _repeat, _exchange, _exchange))(content, rng)
        yield bytes(content)


def _cut(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content) + 1)
    del content[start : start + rng.choice((1, 2, 30, 10**9))]


def _flip(content: bytearray, rng: random.Random) -> None:
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _swap(content: bytearray, rng: random.Random) -> None:
    start, length = rng.randrange(len(content) + 1), rng.randrange(40)
    content[start : start + 2 * length] = content[start + length : start + 2 * length] + content[start : start + length]


def _repeat(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content) + 1)
    content[start:start] = content[start : start + rng.randrange(60)] * rng.choice((1, 2, 50))


def _exchange(content: bytearray, rng: random.Random) -> None:
    """Put another value in the place of one number, name or constant."""
    tokens = list(re.finditer(rb'"[^"]{0,40}"|-?\d+|true|false|null|\[|\]', content))
    values = (
        b"-1",
        b"999999999",
        b"1e400",
        b"null",
        b"true",
        b'"lo"',
        b'"\\ud800"',
        b'"\xc4\xa0"',
        b"[]",
        b"{}",
        b"0",
        b'""',
    )
    if tokens:
        found = rng.choice(tokens)
        content[found.start() : found.end()] = rng.choice([*values, rng.choice(tokens)[0]])
