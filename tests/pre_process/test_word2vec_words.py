"""Text → words → ids, beside Python's own regular expressions and str.split."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pre_process.word2vec import WordCorpus, read_words, text_blocks, train_words
from pre_process.word2vec.id_rows import split_sentences
from pre_process.word2vec.kernels import LONGEST

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")  # as split="letters", for text without combining accents


def sentences(corpus: WordCorpus) -> list[list[str]]:
    return [[corpus.words[word] for word in ids] for ids in split_sentences(corpus.ids)]


def read(*texts: str | Path, **options: object) -> list[list[str]]:
    return sentences(read_words(list(texts), min_count=1, **options))


def test_letters_digits_and_inner_apostrophes():
    text = "'Tis the 2nd time—Don’t say “O'Neil's” said!\nÉtudes_naïves, ὈΔΥΣΣΕΎΣ; ЁЛКА 你好 re'sume\u0301 x'' 'y"
    [words] = read(text)
    assert words[:8] == ["tis", "the", "2nd", "time", "don't", "say", "o'neil's", "said"]
    assert words[8:] == ["études", "naïves", "ὀδυσσεύς", "ёлка", "你好", "re'sume\u0301", "x", "y"]


def test_paragraphs_are_sentences_of_prose_and_lines_are_not():
    assert read("a b\nc d\n \t\ne f\n\n\n\ng h\r\n\r\ni", "j k") == [
        ["a", "b", "c", "d"], ["e", "f"], ["g", "h"], ["i"], ["j", "k"]
    ]  # fmt: skip


def test_between_white_space_all_is_a_word_and_a_line_a_sentence():
    text = "The  cat's\tmat.\n\n THE x\u00a0y\u2028z\r\n—"
    assert read(text, split="space") == [["The", "cat's", "mat."], ["THE", "x", "y", "z"], ["—"]]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text("ab'’ \n\tÉé_你Ως1İ—\U0001f600\x1c\u3000.", max_size=60), min_size=1, max_size=5))
def test_any_text_is_cut_as_python_cuts_it(texts):
    count = Counter(word for text in texts for word in text.split())
    if len(count) >= 2:
        lines = [line.split() for text in texts for line in text.split("\n")]
        assert read(*texts, split="space") == [line for line in lines if line]
    found = [[word.lower().replace("’", "'") for word in WORD.findall(part)]
             for text in texts for part in re.split(r"\n[^\S\n]*\n", text)]  # fmt: skip
    if len({word for words in found for word in words}) >= 2:
        assert read(*texts) == [words for words in found if words]


def test_words_fall_in_count_and_rare_ones_leave_no_gap():
    corpus = read_words(["b a rare b\n\nonce\n\na c B"], min_count=2, split="space")
    assert (corpus.words, corpus.counts.tolist()) == (["a", "b"], [2, 2])
    assert sentences(corpus) == [["b", "a", "b"], ["a"]]
    assert (corpus.total_words, corpus.distinct_words) == (8, 6)
    assert read_words(["b a rare b\n\nonce\n\na c B"], min_count=2).words == ["b", "a"]


def many_words(n: int) -> str:
    """Long words too, and more different ones than the first table holds."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(40_000, size=n) // rng.integers(1, 40, size=n)
    return "\n".join(" ".join(f"w{x}é" * (1 + x % 7) for x in drawn[i : i + 20]) for i in range(0, n, 20))


@pytest.mark.parametrize("threads", [1, 3])
def test_large_files_in_blocks(threads, tmp_path, monkeypatch):
    monkeypatch.setattr(text_blocks, "SIZE", 50_000)
    text, file = many_words(120_000), tmp_path / "words.txt"
    file.write_text(text, encoding="utf-8")
    corpus = read_words([file], min_count=2, split="space", threads=threads)
    counts = Counter(text.split())
    kept = {word: n for word, n in counts.items() if n >= 2}
    assert dict(zip(corpus.words, corpus.counts.tolist(), strict=True)) == kept
    assert corpus.words == sorted(kept, key=lambda word: (-kept[word], word))
    assert len(counts) == corpus.distinct_words > 1 << 13
    lines = [[word for word in line.split() if word in kept] for line in text.split("\n")]
    assert sentences(corpus) == [line for line in lines if line]


def test_ten_thousand_words_are_a_sentence(tmp_path, monkeypatch):
    assert [len(words) for words in read("a b " * LONGEST)] == [LONGEST, LONGEST]
    monkeypatch.setattr(text_blocks, "SIZE", 64)
    (tmp_path / "a.txt").write_text("你好" * 100 + " b", encoding="utf-8")  # no border to cut at: nothing is torn
    assert set("".join(word for words in read(tmp_path / "a.txt") for word in words)) == set("你好b")


def test_files_folders_and_documents_together(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_bytes(b"\xef\xbb\xbfone two\r\n")
    (tmp_path / "b.jsonl").write_text('{"text": "three four"}\n{"text": "five"}\n')
    assert read(tmp_path / "sub", tmp_path / "b.jsonl", "six") == [["one", "two"], ["three", "four"], ["five"], ["six"]]


def test_progress_counts_bytes():
    seen: list[tuple[int, int]] = []
    read_words(["é a b"], min_count=1, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6)
    read_words(iter(["a b c"]), min_count=1, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "there is no word in this text"),
        ([" …\n"], {}, "there is no word in this text"),
        (["yes yes Yes"], {}, r"at least two different words, and here is only 'yes' \(3 times\)"),
        (["a b c a"], {}, r"no word occurs at least 5 times \(the most frequent, 'a', 2 times\)"),
        (["a b c a"], {"min_count": 2}, r"only one word occurs at least 2 times \(the most frequent, 'a', 2 times\)"),
        (["a b"], {"min_count": 0}, "min_count and threads must be at least 1, not 0 and 1"),
        (["a b"], {"threads": 0}, "min_count and threads must be at least 1, not 5 and 0"),
        (["a b"], {"split": "lines"}, "no way to split 'lines'"),
        ("a b", {}, "texts is one text"),
        ([Path("nowhere.txt")], {}, "nowhere.txt: no such file or folder"),
    ],
)
def test_texts_that_cannot_be_read(texts, options, message):
    with pytest.raises(ValueError, match=message):
        read_words(texts, **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xef\xbb\xbfa b\n" * 20 + b"\xff c", r"bad\.txt: not UTF-8 text \(byte 0xff at offset 140\)"),
        (b"a b\n" * 20 + b"\0", r"bad\.txt: not a text file \(NUL byte at offset 80\)"),
        (b"a b\n" * 20 + b"\xe2\x80", r"bad\.txt: not UTF-8 text \(byte 0xe2 at offset 80\)"),
    ],
)
def test_files_that_are_no_text(content, message, tmp_path, monkeypatch):
    monkeypatch.setattr(text_blocks, "SIZE", 64)
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_words([tmp_path / "bad.txt"], min_count=1, threads=2)


@pytest.mark.parametrize("engine", ["nanograd", "gensim"])
def test_train_words_gives_each_word_its_vector(engine):
    """Words that stand in the same places become neighbours, by either engine."""
    rng = np.random.default_rng(0)
    places = [["left", "cat", "right"], ["left", "dog", "right"], ["up", "red", "down"], ["up", "blue", "down"]]
    text = "\n\n".join(" ".join(places[i]) for i in rng.integers(4, size=3000))
    found = train_words([text], engine=engine, d_model=12, sample=0, epochs=10, seed=1)
    assert sorted(found.words) == sorted({word for place in places for word in place})
    assert found.counts.tolist() == sorted(found.counts.tolist(), reverse=True)
    assert found.vectors.dtype == np.float32
    assert found.nearest("cat", 1)[0][0] == "dog"
    assert found.nearest("blue", 1)[0][0] == "red"
    with pytest.raises(ValueError, match="d_model must be at least 1"):
        train_words([Path("nowhere")], d_model=0)
