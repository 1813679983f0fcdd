"""Real text for the tokenizer's tests (what every install holds; Shakespeare where NANOGRAD_DATA has it), helpers."""

import argparse
import functools
import importlib.util
import inspect
import os
import pydoc_data.topics
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pre_process.tokenizer import Tokenizer, encoder

NAMES = ("news", "manual", "code", "shakespeare")


@functools.cache
def documents(name: str) -> list[str]:
    """The documents of one corpus, 0.1 to 1.1 MB together; skips the test where a text is missing."""
    if name == "news":
        return _news().read_text(encoding="utf-8").splitlines()
    if name == "manual":
        return list(pydoc_data.topics.topics.values())
    if name == "code":
        return [inspect.getsource(argparse), inspect.getsource(inspect)]
    folder = os.environ.get("NANOGRAD_DATA")
    if not folder or not (Path(folder) / "tinyshakespeare.txt").exists():
        pytest.skip("NANOGRAD_DATA names no folder with tinyshakespeare.txt")
    return (Path(folder) / "tinyshakespeare.txt").read_text(encoding="utf-8").split("\n\n")


def _news() -> Path:
    """The Lee corpus inside the gensim package, found without the second that importing gensim takes."""
    spec = importlib.util.find_spec("gensim")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "test" / "test_data" / "lee_background.cor"


def refusal(call: Callable[[], object]) -> str:
    """The message of the ValueError that `call` raises; fails if it raises none or more than one line."""
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    return message


@functools.cache
def trained(pattern: str, vocab_size: int = 700) -> Tokenizer:
    """A small tokenizer that several tests share."""
    return Tokenizer.train(documents("news")[:100], vocab_size=vocab_size, pattern=pattern)  # type: ignore[arg-type]


@functools.cache
def tiny(pattern: str = "gpt2") -> Tokenizer:
    """268 tokens, few of them merged: its file is small."""
    documents = ["low lower lowest ééé"]
    return Tokenizer.train(documents, vocab_size=268, pattern=pattern, min_frequency=1)  # type: ignore[arg-type]


HOW_MANY = pytest.mark.parametrize(
    ("n", "compiled"),
    [
        (300, False),
        pytest.param(10_000, False, marks=pytest.mark.slow),
        pytest.param(10_000, True, marks=pytest.mark.slow),
    ],
)


def encode_compiled(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    """Texts are encoded by compiled code, or in Python, however short they are."""
    monkeypatch.setattr(encoder, "compiled_pays", lambda part, n_bytes: compiled)


@functools.cache
def nasty_strings(n: int) -> list[str]:
    """`n` strings to compare with other libraries: real text in odd lengths with characters of all kinds among it."""
    rng, text = random.Random(n), " ".join(documents("news")[200:260])
    return [*NASTY[:n], *(_nasty(rng, text) for _ in range(n - len(NASTY)))]


def _nasty(rng: random.Random, text: str) -> str:
    start = rng.randrange(len(text))
    parts = [text[start : start + rng.randrange(60)]]
    for _ in range(rng.randrange(4)):
        parts.append("".join(rng.choices(rng.choice(ALPHABETS), k=rng.randrange(12))))
    rng.shuffle(parts)
    return "".join(parts)


ALPHABETS = (
    "aaaaab '", " \t\n\r\v\f\x1c\x85\xa0\u2003\u3000", "0123456789٣²½Ⅷ", "'sStTrReEvVmMlLdDſ ", "<|>[]endoftextPAD_ ",
    "éèñüßøçÅΣςσИй", "中文字日本語かなカナ한국", "😀👩\u200d🚀🏳️\u200d🌈", "e\u0301a\u0308\u0327\u200b\u200d\ufeff",
    "\x00\x01\x7f\x80\ufffd▁Ġ", "!?.,;:-_()\"#$%&*+/=@[]{}~^`\\", "ﬁＡ①㎏ſ℡", "אבגדابتשלום", "กขคงจहिन्दी",
)  # fmt: skip
NASTY = (
    "", " ", "  ", "a", " a", "a ", "\n", "\r\n", " \n \n  x", "I'm you'll HE'S 'tis ''s", "1234567 12 1", "x" * 300,
    " " * 300, "\n" * 200, "ab" * 150, "<|endoftext|>", "[UNK][PAD]", "\u2581\u2581a", "\x00", "\U0010ffff", "e\u0301",
    "😀" * 20, "don't—stop…", "\ufeffx",
)  # fmt: skip
