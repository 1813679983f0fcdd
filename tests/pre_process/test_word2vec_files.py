"""Files of word vectors: byte for byte gensim's, read whatever wrote them, refused in one line when damaged."""

import mmap
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pre_process.word2vec import load_vectors, save_vectors, word2vec_format
from pre_process.word2vec.files import SUFFIXES, check_writable, load_words, save_words
from pre_process.word2vec.word_vectors import WordVectors

gensim_models = pytest.importorskip("gensim.models")

ODD = [
    "the",
    "naïve",
    "中文",
    "ﷺ",
    "e\u0301",
    "😀",
    "\u202eleft",
    "no\u00a0break",
    "a\x00b",
    "\x1c",
    "0",
    "3",
    "-1.5",
    "Ġthe",
]
BOTH = pytest.mark.parametrize("suffix", [".bin", ".txt"])


def some(keys: list[str], d: int = 7) -> WordVectors:
    vectors = np.random.default_rng(0).normal(size=(len(keys), d)).astype(np.float32)
    return WordVectors(keys, np.zeros(len(keys), np.int64), vectors)


def equal(found: WordVectors, wanted: WordVectors) -> None:
    assert found.words == wanted.words
    np.testing.assert_array_equal(found.vectors, wanted.vectors)
    assert found.vectors.dtype == np.float32
    assert not found.counts.any()


@BOTH
@pytest.mark.parametrize("d", [1, 2, 7, 128])
def test_the_bytes_are_gensims_and_each_reads_the_other(tmp_path: Path, suffix: str, d: int) -> None:
    words = some(ODD, d)
    ours, theirs, binary = tmp_path / f"ours{suffix}", tmp_path / f"theirs{suffix}", suffix == ".bin"
    keyed = gensim_models.KeyedVectors(d)
    keyed.add_vectors(words.words, words.vectors)
    for row, word in enumerate(words.words):
        keyed.set_vecattr(word, "count", len(ODD) - row)
    keyed.save_word2vec_format(str(theirs), binary=binary)
    save_words(ours, words)
    assert ours.read_bytes() == theirs.read_bytes()
    equal(load_words(theirs, d_model=d), words)
    back = gensim_models.KeyedVectors.load_word2vec_format(str(ours), binary=binary)
    assert back.index_to_key == words.words
    np.testing.assert_array_equal(back.vectors, words.vectors)


@BOTH
def test_what_word2vec_c_writes(tmp_path: Path, suffix: str) -> None:
    """Written as its last lines do it: "%s ", then fwrite of a float or "%lf ", then "\\n"."""
    words = some(["</s>", "the", "naïve"], 3)
    content = b"3 3\n"
    for word, vector in zip(words.words, words.vectors.tolist(), strict=True):
        numbers = struct.pack("<3f", *vector) if suffix == ".bin" else "".join(f"{x:f} " for x in vector).encode()
        content += word.encode() + b" " + numbers + b"\n"
    (tmp_path / f"c{suffix}").write_bytes(content)
    found = load_words(tmp_path / f"c{suffix}")
    assert found.words == words.words
    np.testing.assert_allclose(found.vectors, words.vectors, atol=0 if suffix == ".bin" else 5e-7)
    back = gensim_models.KeyedVectors.load_word2vec_format(str(tmp_path / f"c{suffix}"), binary=suffix == ".bin")
    np.testing.assert_array_equal(back.vectors, found.vectors)


@BOTH
def test_a_word_cut_in_a_character_keeps_its_bytes(tmp_path: Path, suffix: str) -> None:
    """word2vec.c cuts words after 99 bytes. A second row for one word is left out, as gensim does."""
    path = tmp_path / f"cut{suffix}"
    row, other = (struct.pack("<2f", 1, 2), struct.pack("<2f", 3, 4)) if suffix == ".bin" else (b"1 2\n", b"3 4\n")
    path.write_bytes(b"3 2\n" + b"\xe4\xb8 " + row + b"the " + other + b"the " + row)
    words = load_words(path)
    assert words.words == ["\udce4\udcb8", "the"]
    assert words.vectors.tolist() == [[1, 2], [3, 4]]
    save_words(tmp_path / f"again{suffix}", words)
    equal(load_words(tmp_path / f"again{suffix}"), words)


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=" \t\n\v\f\r"), min_size=1),
                  min_size=1, max_size=8, unique=True),
    bits=st.lists(st.integers(0, 2**32 - 1), min_size=16, max_size=16),
    suffix=st.sampled_from([".bin", ".txt"]),
)  # fmt: skip
def test_any_keys_and_any_finite_numbers_come_back(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], bits: list[int], suffix: str
) -> None:
    vectors = np.array(bits[: 2 * len(keys)], np.uint32).view(np.float32).reshape(len(keys), 2)
    vectors = np.where(np.isfinite(vectors), vectors, 0).astype(np.float32)
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    save_vectors(path, vectors, keys)
    found = load_words(path)
    assert found.words == keys
    np.testing.assert_array_equal(found.vectors.view(np.uint32), vectors.view(np.uint32))


DAMAGE = {
    "empty": (lambda whole: b"", "its first line must be the numbers"),
    "no header": (lambda whole: whole.split(b"\n", 1)[1], "its first line must be the numbers"),
    "half a header": (lambda whole: b"12", "its first line must be the numbers"),
    "no vectors": (lambda whole: b"0 5\n", "holds 0 vectors of 5 numbers"),
    "cut": (lambda whole: whole[:-9], "is cut short"),
    "cut in the middle": (lambda whole: whole[: len(whole) // 2], "is cut short"),
    "only the header": (lambda whole: whole.split(b"\n")[0] + b"\n", "is cut short"),
    "too many promised": (lambda whole: whole.replace(b"3 4\n", b"4 4\n", 1), "cut short"),
    "far too many promised": (lambda whole: whole.replace(b"3 4\n", b"99999999999 300\n", 1), "short: 99,999,999,999"),
    "too few promised": (lambda whole: whole.replace(b"3 4\n", b"2 4\n", 1), "goes on behind the 2 vectors"),
    "wider": (lambda whole: whole.replace(b"3 4\n", b"3 5\n", 1), "cut short|4 numbers, the first line promises 5"),
    "narrower": (lambda whole: whole.replace(b"3 4\n", b"3 3\n", 1), "line 2: 4 numbers, the first line|goes on|NaN"),
    "a negative number": (lambda whole: whole.replace(b"3 4\n", b"-3 4\n", 1), "its first line must be the numbers"),
    "a picture": (lambda whole: b"\x89PNG\r\n\x1a\n" + whole, "its first line must be the numbers"),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("damage", list(DAMAGE))
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"damaged{suffix}"
    save_words(path, some(["the", "of", "and"], 4))
    change, message = DAMAGE[damage]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as failure:
        load_words(path)
    assert str(path) in str(failure.value)
    assert "\n" not in str(failure.value)


@BOTH
def test_every_cut_is_noticed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"whole{suffix}"
    save_words(path, some(["the", "of", "and"], 4))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"is cut short|its first line"):
            load_words(path)


def test_a_file_longer_than_what_stays_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word2vec_format, "_MAPPED", mmap.PAGESIZE)
    words = some([f"w{i}" for i in range(1000)], 13)
    save_words(tmp_path / "a.bin", words)
    equal(load_words(tmp_path / "a.bin"), words)


def test_lines_that_are_not_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for line, message in {
        b"the 1 two\n": "line 2: something in it is not a number",
        b"the 1,2 3\n": "line 2: something in it is not a number",
        b"the 1 2 3\n": "line 2: 3 numbers, the first line promises 2",
        b"the of 1 2\n": "line 2: something in it is not a number",
        b"the 1 nan\n": "the vector of 'the' holds NaN",
        b"the 1 1e99\n": "the vector of 'the' holds NaN or infinity",
    }.items():
        path.write_bytes(b"1 2\n" + line)
        with pytest.raises(ValueError, match=message):
            load_words(path)
    (tmp_path / "a.bin").write_bytes(b"1 1\n " + struct.pack("<f", 1))
    with pytest.raises(ValueError, match="vector 1 has no word"):
        load_words(tmp_path / "a.bin")


@pytest.mark.parametrize("suffix", [".bin", ".txt", ".npy"])
def test_nan_and_another_dimension(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_vectors(path, np.ones((2, 3), np.float32), ["a", "b"])
    with pytest.raises(ValueError, match="has vectors of 3 numbers, 5 are wanted"):
        load_vectors(path, ["a", "b"], d_model=5)
    bad = np.array([[1, 2], [np.nan, 1]], np.float32)
    if suffix == ".npy":
        np.save(path, bad)
    elif suffix == ".bin":
        with pytest.raises(ValueError, match="the vector of 'b' holds NaN"):
            save_vectors(tmp_path / "new.bin", bad, ["a", "b"])
        path.write_bytes(b"2 2\na " + bad[0].tobytes() + b"b " + bad[1].tobytes())
    else:
        path.write_bytes(b"2 2\na 1 2\nb nan 1\n")
    with pytest.raises(ValueError, match="NaN or infinity"):
        load_vectors(path, ["a", "b"])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_npy_holds_no_words(tmp_path: Path) -> None:
    for do in (lambda: save_words(tmp_path / "a.npy", some(["a"])), lambda: load_words(tmp_path / "a.npy")):
        with pytest.raises(ValueError, match="no place for words"):
            do()


@pytest.fixture
def little_disk() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


@BOTH
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, suffix: str, little_disk: None) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("old")
    with pytest.raises(OSError, match="File too large") as failure:
        save_words(path, some([f"w{i}" for i in range(500)]))
    assert failure.value.filename == str(path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_what_cannot_be_written_is_said_before(tmp_path: Path) -> None:
    check_writable(tmp_path / "a.bin")
    check_writable(tmp_path / "a.npy", SUFFIXES)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "folder.bin").mkdir()
    for name, error, message in [
        ("a.csv", ValueError, r"the name must end with \.bin or \.txt"),
        ("a.npy", ValueError, r"the name must end with \.bin or \.txt"),
        ("no/a.bin", FileNotFoundError, "no/a.bin"),
        ("folder.bin", IsADirectoryError, "is a folder"),
    ]:
        with pytest.raises(error, match=message):
            check_writable(tmp_path / name)


def test_reading_and_writing_do_without_gensim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gensim", None)
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    save_words(tmp_path / "a.bin", some(["a", "b"]))
    equal(load_words(tmp_path / "a.bin"), some(["a", "b"]))
