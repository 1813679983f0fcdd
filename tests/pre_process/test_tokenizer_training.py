"""Compiled training: the same vocabulary as in Python, and as Hugging Face's, from documents that stream by."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pre_process.tokenizer import Tokenizer, documents, kernels
from pre_process.tokenizer.bpe import learn_merges
from pre_process.tokenizer.byte_level import utf8
from pre_process.tokenizer.pre_tokenize import PATTERNS, splitter
from tests.pre_process import tokenizer_texts as texts
from tests.pre_process.test_tokenizer_train import hugging_face_merges, our_merges

every_pattern = pytest.mark.parametrize("pattern", list(PATTERNS))
nasty = st.text("ab 'sé中\n\u3000\x00\ud800!1", max_size=60) | st.text(max_size=30)


@pytest.fixture(autouse=True)
def compiled(monkeypatch) -> None:
    """Compiled code even for a word."""
    monkeypatch.delenv("NANOGRAD_KERNELS", raising=False)
    monkeypatch.setattr(kernels, "SMALL", 0)
    monkeypatch.setattr(kernels, "LARGE", 0)


def by_python(texts_: list[str], **options) -> Tokenizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOGRAD_KERNELS", "0")
        return Tokenizer.train(texts_, **options)


@every_pattern
@settings(max_examples=60, deadline=None)
@given(
    st.lists(nasty, min_size=1, max_size=6).filter(any),
    st.sampled_from([0, 1, 2, 3]),
    st.sampled_from([300, 330, 2000]),
)
def test_compiled_and_python_give_the_same_vocabulary(pattern: str, documents_, min_frequency: int, vocab_size) -> None:
    options = {"vocab_size": vocab_size, "pattern": pattern, "min_frequency": min_frequency}
    assert Tokenizer.train(documents_, **options).to_json() == by_python(documents_, **options).to_json()


def flat(words: dict[tuple[int, ...], int]) -> tuple[np.ndarray, np.ndarray]:
    symbols, weights = [-1], [0]
    for word, count in words.items():
        symbols += [*word, -1]
        weights += [count] * (len(word) + 1)
    return np.array(symbols), np.array(weights)


def test_thousands_of_random_trainings_to_exhaustion() -> None:
    """Small alphabets: ties everywhere, runs like aaaa, and counts beyond 32 bits."""
    from pre_process.tokenizer.kernels import merging

    rng = random.Random(1)
    for _ in range(3000):
        n_symbols, words = rng.randrange(1, 6), {}
        for _ in range(rng.randrange(1, 12)):
            word = tuple(rng.randrange(n_symbols) for _ in range(rng.choice([1, 2, 3, 5, 12, 40])))
            words[word] = rng.choice([1, 1, 2, 3, 9, 1 << 40])
        options = {"n_merges": rng.choice([0, 1, 3, 500]), "first_id": n_symbols, "min_frequency": rng.randrange(4)}
        assert merging.learn_merges(*flat(words), **options) == learn_merges(words, **options), (words, options)


def test_pairs_find_room_when_there_are_many() -> None:
    """More different pairs than the table has rows at first, at the start and later."""
    from pre_process.tokenizer.kernels import merging

    rng = random.Random(2)
    words = {tuple(rng.randrange(3000) for _ in range(6)): rng.randrange(1, 5) for _ in range(20_000)}
    options = {"n_merges": 3000, "first_id": 3000, "min_frequency": 1}
    assert merging.learn_merges(*flat(words), **options) == learn_merges(words, **options)


def test_many_places_of_few_pairs_need_no_room(monkeypatch) -> None:
    from pre_process.tokenizer.kernels import merging

    monkeypatch.setattr(merging, "grown", None)
    symbols, weights = flat({(0,) * 300_000: 1})
    assert merging.learn_merges(symbols, weights, n_merges=3, first_id=1) == [(0, 0), (1, 1), (2, 2)]


def real_documents(name: str) -> list[str]:
    """One file a document, from the folder that NANOGRAD_DATA names."""
    folder = Path(os.environ.get("NANOGRAD_DATA") or "-")
    files = sorted((folder / name).glob("*"))[:12]
    if not files:
        pytest.skip(f"NANOGRAD_DATA names no folder with {name}")
    return [path.read_bytes().decode() for path in files]


@pytest.mark.parametrize("vocab_size", [300, 4000, 20_000])
@pytest.mark.parametrize("name", [*texts.NAMES, "wikitext-2", pytest.param("books", marks=pytest.mark.slow)])
def test_merges_are_those_of_hugging_face(name: str, vocab_size: int) -> None:
    corpus = texts.documents(name) if name in texts.NAMES else real_documents(name)
    theirs = hugging_face_merges(corpus, vocab_size=vocab_size, pattern="gpt2", min_frequency=2)
    assert our_merges(Tokenizer.train(corpus, vocab_size=vocab_size)) == theirs


@pytest.mark.parametrize("pattern", ["cl100k", "cl100k_tiktoken"])
def test_merges_of_gpt4s_patterns_too(pattern: str) -> None:
    corpus = texts.documents("code")
    theirs = hugging_face_merges(corpus, vocab_size=2000, pattern=pattern, min_frequency=2)
    assert our_merges(Tokenizer.train(corpus, vocab_size=2000, pattern=pattern)) == theirs  # type: ignore[arg-type]


def test_the_number_of_threads_changes_nothing(monkeypatch) -> None:
    from pre_process.tokenizer.kernels import training

    monkeypatch.setattr(training, "BATCH", 1000)
    corpus = [*texts.documents("news"), "a long piece " + "x" * 5000]
    made = [Tokenizer.train(corpus, vocab_size=3000, threads=threads).to_json() for threads in (1, 2, 5)]
    assert made == [by_python(corpus, vocab_size=3000).to_json()] * 3


@every_pattern
@given(text=nasty, part=st.integers(1, 8))
def test_the_parts_of_a_document_have_its_pieces(pattern: str, text: str, part: int) -> None:
    split = splitter(pattern)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PART", part)
        parts = list(documents.parts(utf8(text)))
    assert b"".join(parts) == utf8(text)
    assert [piece for part in parts for piece in split(part.decode("utf-8", "surrogatepass"))] == split(text)


@every_pattern
@given(text=nasty.map(lambda text: text.replace("\ud800", "")), part=st.integers(4, 12))
@example(text="ab!\n\n c", part=4)  # the first four bytes do not know what follows the newline
def test_a_file_in_parts_has_its_pieces(tmp_path_factory, pattern: str, text: str, part: int) -> None:
    split = splitter(pattern)  # type: ignore[arg-type]
    path = tmp_path_factory.mktemp("parts") / "text"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PART", part)
        parts = list(documents.file_parts(path))
    assert [piece for part in parts for piece in split(part.decode())] == split(text)


def test_documents_are_cut_where_they_can_be(monkeypatch) -> None:
    monkeypatch.setattr(documents, "PART", 4)
    parts = list(documents.parts(b"the first of many lines\nends\n\nhere"))
    assert parts == [b"the first", b" of many", b" lines\n", b"ends\n\nhere"]


def test_files_give_the_tokenizer_of_their_texts(tmp_path, monkeypatch) -> None:
    corpus = texts.documents("manual")[:40]
    paths = [tmp_path / f"{i}.txt" for i in range(len(corpus))]
    for path, text in zip(paths, corpus, strict=True):
        path.write_bytes(text.encode())
    expected = Tokenizer.train(corpus, vocab_size=1500, lowercase=True).to_json()
    monkeypatch.setattr(documents, "PART", 500)
    assert Tokenizer.train_files(paths, vocab_size=1500, lowercase=True).to_json() == expected


def test_a_file_that_is_no_text_says_where(tmp_path) -> None:
    path = tmp_path / "picture.txt"
    path.write_bytes(b"word \xff\xfe" + b"x" * 10)
    message = texts.refusal(lambda: Tokenizer.train_files([path], vocab_size=300))
    assert message.endswith("picture.txt: not UTF-8 text (byte 0xff at offset 5)")
    with pytest.raises(FileNotFoundError):
        Tokenizer.train_files([tmp_path / "none.txt"], vocab_size=300)
    assert "pass a list" in texts.refusal(lambda: Tokenizer.train_files(path, vocab_size=300))  # type: ignore[arg-type]


def test_one_endless_piece_and_nul_bytes() -> None:
    """A megabyte of one letter: aa, aaaa, aaaaaaaa … and what is left over at the end."""
    tokenizer = Tokenizer.train(["a" * 1_000_003 + "\x00\x00"], vocab_size=400, min_frequency=2)
    assert [len(tokenizer.token_bytes(258 + i)) for i in range(5)] == [2, 4, 8, 16, 32]
    assert tokenizer.encode("\x00\x00").size == 2


@pytest.mark.parametrize(
    ("texts_", "options", "message"),
    [
        ([], {}, "the training text is empty"),
        (["", ""], {}, "the training text is empty"),
        (["a"], {"vocab_size": 257}, "vocab_size 257 is too small: 2 special tokens and 256 bytes need 258"),
        (["ßß"], {"vocab_size": 258, "pattern": "naive"}, "2 special tokens and 257 characters need 259"),
        ([b"bytes"], {}, "texts holds a bytes"),
    ],
)
def test_what_cannot_be_trained_says_so_in_one_line(texts_, options, message: str) -> None:
    assert message in texts.refusal(lambda: Tokenizer.train(texts_, **{"vocab_size": 300, **options}))


def test_a_failing_source_ends_all_threads() -> None:
    def failing():
        yield "some text " * 1000
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        Tokenizer.train(failing(), vocab_size=300, threads=3)


def test_progress_of_counting_and_of_merging() -> None:
    corpus, counted, merged = texts.documents("news")[:50], [], []
    Tokenizer.train(
        corpus, vocab_size=500, counted=counted.append, progress=lambda done, total: merged.append((done, total))
    )
    assert counted[-1] == sum(len(text.encode()) for text in corpus)
    assert merged[-1] == (242, 242)


def test_when_compiled_code_is_used(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    for name, value in (("_ready", set()), ("_in_blocks", Counter()), ("SMALL", 50), ("LARGE", 1000)):
        monkeypatch.setattr(kernels, name, value)
    assert [kernels.compiled_pays("train", n) for n in (999, 1000)] == [False, True]
    kernels.cache_folder().mkdir(parents=True)
    with kernels.compiling("train") as is_first:
        assert is_first
    assert kernels.worth_compiling("train") == 0
    kernels._ready.clear()  # a later process
    assert [kernels.compiled_pays("train", n) for n in (49, 50)] == [False, True]
    with kernels.compiling("train") as is_first:
        assert not is_first
    monkeypatch.setenv("NANOGRAD_KERNELS", "0")
    assert not kernels.compiled_pays("train", 1 << 40)


def test_a_large_text_in_blocks_is_a_large_text(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("NANOGRAD_KERNELS", raising=False)
    for name, value in (("_ready", set()), ("_in_blocks", Counter()), ("SMALL", 50), ("LARGE", 1000)):
        monkeypatch.setattr(kernels, name, value)
    assert not any(kernels.compiled_pays("encode", 49) for _ in range(100))  # prompts, not a corpus
    assert [kernels.compiled_pays("encode", 400) for _ in range(4)] == [False, False, True, True]
    assert not kernels.compiled_pays("decode", 400)


def test_what_is_interrupted_counts_as_not_compiled(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernels, "_ready", set())
    with pytest.raises(KeyboardInterrupt), kernels.compiling("train"):
        raise KeyboardInterrupt
    assert kernels._ready == set()


def test_the_folder_for_compiled_code_is_put_back() -> None:
    import numba

    from pre_process.tokenizer.kernels.support import kernel

    before = numba.config.CACHE_DIR
    kernel(lambda x: x)
    assert before == numba.config.CACHE_DIR


def test_the_benchmark_compares_before_it_prints(tmp_path) -> None:
    """In a process of its own: it moves to as many cores as it was told."""
    text, records = tmp_path / "text.txt", tmp_path / "records.jsonl"
    text.write_text("\n".join(texts.documents("news")[:30]))
    command = [sys.executable, "-m", "benchmarks.tokenizer_training", "--text", str(text), "--jsonl", str(records)]
    done = subprocess.run([*command, "--threads", "1", "--vocab-size", "500", "--repeats", "2"], capture_output=True)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in records.read_text().splitlines()]
    assert found[0]["contestant"] == "nanograd"
    assert all(record["seconds"] > 0 and len(record["turns"]) == 2 for record in found)
