"""The ids are everybody's: frozen ones always, other libraries' on 10,000 strings where they are installed."""

import copy
import functools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from pre_process.tokenizer import Tokenizer, TokenizerError
from pre_process.tokenizer.batch import split_rows
from pre_process.tokenizer.kernels.compiled import CompiledEncoder
from tests.pre_process import tokenizer_texts as texts
from tests.pre_process.freeze_ids import PATH, SHAPES, hugging_face_ids, tiktoken_ids

N = 10_000
patterns = pytest.mark.parametrize("pattern", SHAPES)


@functools.cache
def golden() -> dict[str, Any]:
    return json.loads(PATH.read_text())


@pytest.mark.parametrize("compiled", [False, True])
@patterns
def test_frozen_ids(tmp_path: Path, pattern: str, compiled: bool) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(golden()["tokenizers"][pattern]))
    tokenizer = Tokenizer.load(tmp_path)
    assert len(golden()["texts"]) == len(golden()["ids"][pattern]) == 200
    if compiled:
        rows = CompiledEncoder(tokenizer.vocabulary, pattern, greedy=False).encode(golden()["texts"])  # type: ignore[arg-type]
        assert [row.tolist() for row in split_rows(rows)] == golden()["ids"][pattern]
    else:
        with mock.patch.dict(os.environ, NANOGRAD_KERNELS="0"):
            assert [tokenizer.encode(text).tolist() for text in golden()["texts"]] == golden()["ids"][pattern]


@functools.cache
def without_specials(pattern: Any) -> Tokenizer:
    documents = texts.documents("news")[:150]
    return Tokenizer.train(documents, vocab_size=1500, pattern=pattern, special_tokens=[])


@functools.cache
def ours(pattern: str) -> list[list[int]]:
    """The ids of N strings, by compiled code."""
    compiled = CompiledEncoder(without_specials(pattern).vocabulary, pattern, greedy=False)  # type: ignore[arg-type]
    return [row.tolist() for row in split_rows(compiled.encode(texts.nasty_strings(N), threads=2))]


@patterns
def test_ten_thousand_strings_get_hugging_faces_ids(pattern: str) -> None:
    pytest.importorskip("tokenizers", reason="Hugging Face's tokenizers is not installed: nothing to compare with")
    assert hugging_face_ids(without_specials(pattern), texts.nasty_strings(N)) == ours(pattern)


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "cl100k_tiktoken"])
def test_ten_thousand_strings_get_tiktokens_ids(pattern: str) -> None:
    pytest.importorskip("tiktoken", reason="tiktoken is not installed: nothing to compare with")
    assert tiktoken_ids(without_specials(pattern), texts.nasty_strings(N)) == ours(pattern)


@patterns
def test_python_gives_the_same_ids_and_the_texts_come_back(pattern: str) -> None:
    tokenizer = without_specials(pattern)
    with mock.patch.dict(os.environ, NANOGRAD_KERNELS="0"):
        assert [tokenizer.encode(text).tolist() for text in texts.nasty_strings(N)[::10]] == ours(pattern)[::10]
    assert "".join(texts.nasty_strings(N)) == tokenizer.decode([i for row in ours(pattern) for i in row])


# Many documents at once


@pytest.mark.parametrize("threads", [1, 2, None])
def test_documents_are_their_texts_behind_each_other(threads: int | None) -> None:
    tokenizer, documents = texts.trained("gpt2"), ["", *texts.documents("news")[:30], "<|endoftext|>", ""]
    rows = [tokenizer.encode(document) for document in documents]
    ids, starts = tokenizer.encode_documents(documents, threads=threads)
    assert (ids.dtype, starts.dtype) == (np.uint16, np.int64)
    assert ids.tolist() == np.concatenate(rows).tolist()
    assert starts.tolist() == np.cumsum([0, *map(len, rows)]).tolist()

    ids, starts = tokenizer.encode_documents(documents, threads=threads, end_of_text=True)
    for i, row in enumerate(rows):
        assert ids[starts[i] : starts[i + 1]].tolist() == [*row.tolist(), tokenizer.end_of_text_id]


def test_no_documents_are_no_ids() -> None:
    ids, starts = texts.trained("gpt2").encode_documents([])
    assert (ids.shape, starts.tolist()) == ((0,), [0])
    assert texts.trained("gpt2").encode_batch([], allowed_special="all")[0].shape == (0, 0)


def test_an_iterator_of_documents_is_read_once() -> None:
    tokenizer, documents = texts.trained("gpt2"), ["one", "two three"]
    assert (
        tokenizer.encode_documents(iter(documents)).ids.tolist() == tokenizer.encode_documents(documents).ids.tolist()
    )
    assert tokenizer.encode_batch(iter(documents))[0].tolist() == tokenizer.encode_batch(documents)[0].tolist()


def test_no_threads_are_refused() -> None:
    with pytest.raises(TokenizerError, match="threads is 0"):
        texts.trained("gpt2").encode_documents(["a"], threads=0)


def test_a_small_text_needs_no_compiler(tmp_path: Path) -> None:
    texts.trained("gpt2").save(tmp_path)
    code = (
        "import sys; from pre_process.tokenizer import Tokenizer; tokenizer = Tokenizer.load(sys.argv[1]);"
        "text = 'small ' * 2000; assert tokenizer.decode(tokenizer.encode(text)) == text;"
        "assert 'numba' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_large_vocabulary_gives_wider_ids() -> None:
    vocabulary = copy.copy(texts.trained("gpt2").vocabulary)
    names = {f"<|{i}|>": 700 + i for i in range(65_000)}
    object.__setattr__(vocabulary, "tokens", (*vocabulary.tokens, *(name.encode() for name in names)))
    assert Tokenizer(vocabulary).encode_documents(["the"]).ids.dtype == np.uint32


@pytest.mark.parametrize("wrong", ["one text", [b"bytes"], [None]])
def test_documents_that_are_no_texts_are_refused(wrong: Any) -> None:
    with pytest.raises(TokenizerError, match=r"several texts|one str, not"):
        texts.trained("gpt2").encode_documents(wrong)


def test_copies_and_pickles_encode_alike() -> None:
    tokenizer = Tokenizer.train(["Low lower lowest"], vocab_size=300, normalizer="nfkc", lowercase=True)
    tokenizer.encode("fill the cache")
    for other in (copy.copy(tokenizer), copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert other.sha256 == tokenizer.sha256
        assert other.encode("LOWEST ﬁ").tolist() == tokenizer.encode("LOWEST ﬁ").tolist()
