"""Rank files: tiktoken encodes with ours as we do, ours is what it reads, broken ones are refused in one line."""

import base64
import functools
import importlib
import random
from pathlib import Path
from typing import Any

import pytest

from pre_process.tokenizer import Tokenizer, TokenizerError, read_tiktoken, write_gpt2_files, write_tiktoken
from pre_process.tokenizer.pre_tokenize import PATTERNS
from tests.pre_process import tokenizer_texts as texts

BYTES = [bytes([byte]) for byte in range(256)]


def ranks(tokens: list[bytes]) -> str:
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))


def tiktoken_of(path: Path, pattern: str, special_tokens: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> Any:
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not installed: nothing to compare with")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # it would remember a path's content for ever
    mergeable = importlib.import_module("tiktoken.load").load_tiktoken_bpe(str(path))
    return tiktoken.Encoding(
        path.name, pat_str=PATTERNS[pattern], mergeable_ranks=mergeable, special_tokens=special_tokens
    )


@texts.HOW_MANY
@pytest.mark.parametrize("pattern", ["gpt2", "cl100k"])
def test_tiktoken_gives_the_same_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, n: int, compiled: bool
) -> None:
    texts.encode_compiled(monkeypatch, compiled)
    ours, path = texts.trained(pattern, 2000), tmp_path / "ours.tiktoken"
    write_tiktoken(ours, path)
    again = read_tiktoken(path, pattern=pattern, special_tokens=ours.special_tokens)  # type: ignore[arg-type]
    theirs = tiktoken_of(path, pattern, ours.special_tokens, monkeypatch)
    for text in texts.nasty_strings(n):
        ids = theirs.encode_ordinary(text)
        assert ours.encode(text).tolist() == ids
        assert again.encode(text).tolist() == ids
        assert again.decode(ids, skip_special=False) == theirs.decode(ids) == text
    text = "a<|endoftext|>b"
    assert again.encode(text, allowed_special="all").tolist() == theirs.encode(text, allowed_special="all")


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_any_ranks_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    """Tokens in an order that no training gives: long ones before their parts, some that no pair makes."""
    texts.encode_compiled(monkeypatch, compiled)
    rng, path = random.Random(0), tmp_path / "any.tiktoken"
    for _ in range(40):
        letters = "abc"[: rng.randint(1, 3)]
        words = {"".join(rng.choices(letters, k=rng.randint(2, 7))) for _ in range(rng.randint(5, 60))}
        path.write_text(ranks(BYTES + [word.encode() for word in rng.sample(sorted(words), len(words))]))
        ours, theirs = read_tiktoken(path), tiktoken_of(path, "cl100k", {}, monkeypatch)
        ours.save(tmp_path)
        for text in ("".join(rng.choices(letters, k=rng.randint(1, 60))) for _ in range(20)):
            assert ours.encode(text).tolist() == theirs.encode_ordinary(text)
            assert Tokenizer.load(tmp_path).encode(text).tolist() == theirs.encode_ordinary(text)
        write_tiktoken(ours, tmp_path / "again.tiktoken")
        assert (tmp_path / "again.tiktoken").read_text() == path.read_text()


def test_ids_between_special_tokens_are_reserved(tmp_path: Path) -> None:
    path = tmp_path / "gaps.tiktoken"
    path.write_text(ranks([*BYTES, b"ab"]))
    tokenizer = read_tiktoken(path, special_tokens={"<|endoftext|>": 259})
    assert tokenizer.special_tokens == {"<|endoftext|>": 259, "<|reserved_257|>": 257, "<|reserved_258|>": 258}
    assert tokenizer.encode("ab<|endoftext|>", allowed_special="all").tolist() == [256, 259]
    assert tokenizer.decode([256, 257, 258, 97]) == "aba"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "256 of the 256 single bytes are not in the vocabulary"),
        ("YQ==", "line 1, 'YQ==', is not a token in base64 and its rank"),
        ("YQ== x", "line 1, 'YQ== x', is not a token"),
        ("YQ== -1", "line 1, 'YQ== -1', is not a token"),
        ("YQ== ²", "line 1, 'YQ== ²', is not a token"),
        ("YQ== 99999999999", "is not a token"),
        ("Y?== 1", "line 1, 'Y?== 1', is not a token"),
        ("é 1", "line 1, 'é 1', is not a token"),
        (" 1", "line 1: token b'' is empty"),
        ("YQ== 1\nYQ== 2", "line 2: token b'a' is there twice"),
        ("YQ== 1\nYg== 1", "two tokens have the same rank"),
        ("YQ== 999999999", "1 tokens with ranks up to 999999999: most ranks are missing"),
        (ranks(BYTES[:-1]), r"1 of the 256 single bytes are not in the vocabulary: b'\xff'"),
        (b"\xff", "not UTF-8 text (byte 0 is 0xff)"),
    ],
)
def test_broken_rank_files(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "broken.tiktoken"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = texts.refusal(lambda: read_tiktoken(path))
    assert found.startswith(f"{path}: ")
    assert message in found


def test_a_special_token_may_not_have_the_id_of_another(tmp_path: Path) -> None:
    (tmp_path / "x.tiktoken").write_text(ranks(BYTES))
    for token_id in (7, -1):
        with pytest.raises(TokenizerError, match="the id of another token"):
            read_tiktoken(tmp_path / "x.tiktoken", special_tokens={"<|end|>": token_id})


def from_merges(*merges: str, whole_pieces: bool = False) -> Tokenizer:
    """Of the bytes and these merges, "a b" each; the tokens they make are numbered in their order."""
    from pre_process.tokenizer.vocabulary import Vocabulary

    pairs = [tuple(part.encode() for part in merge.split()) for merge in merges]
    tokens = list(dict.fromkeys([*BYTES, *sorted((left + right for left, right in pairs), key=len)]))
    ids = tuple((tokens.index(left), tokens.index(right)) for left, right in pairs)
    return Tokenizer(Vocabulary(tuple(tokens), ids, {}, "byte", whole_pieces=whole_pieces))


@functools.cache
def unwritable() -> dict[str, Tokenizer]:
    return {
        "without a normalizer": Tokenizer.train(["a b"], vocab_size=300, normalizer="nfc"),
        "byte-level tokens": texts.tiny("naive"),
        "no prefix space": Tokenizer.train(["a b"], vocab_size=300, add_prefix_space=True),
        "not in the order of the merges": from_merges("b c", "a b", "a bc", "c d"),
        "no merges lead to token b'abc'": from_merges("a b", "b c", "a bc"),
    }


@pytest.mark.parametrize("reason", list(unwritable()))
def test_what_ranks_cannot_say_is_refused(tmp_path: Path, reason: str) -> None:
    assert reason in texts.refusal(lambda: write_tiktoken(unwritable()[reason], tmp_path / "x.tiktoken"))
    assert not list(tmp_path.iterdir())


def test_whole_pieces_without_all_merges_are_refused(tmp_path: Path) -> None:
    """In tiktoken "abc" is joined inside of longer pieces too, and with the two files of GPT-2 it is never joined."""
    tokenizer = from_merges("a b", "b c", "a bc", whole_pieces=True)
    with pytest.raises(TokenizerError, match="no merges lead to token b'abc'"):
        write_tiktoken(tokenizer, tmp_path / "x.tiktoken")
    with pytest.raises(TokenizerError, match="hold only tokens that merges make"):
        write_gpt2_files(tokenizer, tmp_path)
