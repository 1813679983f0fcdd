"""Normalizing, and cutting text into pieces: the naive table, GPT-2's and GPT-4's patterns."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pre_process.tokenizer import NaivePreTokenizer
from pre_process.tokenizer.normalize import make_normalizer
from pre_process.tokenizer.pre_tokenize import NAIVE_SPECIALS, PATTERNS, PUNCTUATION, splitter

anything = st.text(st.characters())  # lone surrogates included
mostly_white = st.text("a1'sé. \t\n\r\u3000\x1c")


def test_the_table_of_37_specials() -> None:
    assert len(NAIVE_SPECIALS) == len(set(NAIVE_SPECIALS)) == 37
    assert NAIVE_SPECIALS[:7] == ("<pad>", "<unknown>", "<endoftext>", "<newline>", "<space>", "<tab>", "!")
    assert NAIVE_SPECIALS[-3:] == ("`", "[", "]")
    assert set(PUNCTUATION) == set(string.punctuation) - {"\\"}


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Hello, world!", ["Hello", ",", "<space>", "world", "!"]),
        ("How's it", ["How", "'", "s", "<space>", "it"]),
        ("$5.99", ["$", "5", ".", "99"]),
        ("Café-naïve", ["Café", "-", "naïve"]),
        ("a\tb\nc", ["a", "<tab>", "b", "<newline>", "c"]),
        ("  x ", ["<space>", "<space>", "x", "<space>"]),  # nothing is stripped
        ("includ0e\\q;", ["includ0e\\q", ";"]),
        ("", []),
    ],
)
def test_naive_pieces_by_name(text: str, pieces: list[str]) -> None:
    naive = NaivePreTokenizer()
    assert naive.named(text) == pieces
    assert naive.named(text, end_of_text=True) == [*pieces, "<endoftext>"]
    assert naive.join(naive.named(text, end_of_text=True)) == text


@given(anything | st.text("ab \t\n!\\'<>é\r"))
def test_the_naive_loop_and_the_naive_pattern_cut_alike(text: str) -> None:
    assert NaivePreTokenizer().split(text) == splitter("naive")(text)


@pytest.mark.parametrize("pattern", list(PATTERNS))
@given(text=anything | mostly_white)
def test_joined_pieces_are_the_text(pattern: str, text: str) -> None:
    pieces = splitter(pattern)(text)  # type: ignore[arg-type]
    assert "".join(pieces) == text
    assert all(pieces)


def test_what_gpt2_and_gpt4_do_differently() -> None:
    text = "I'LL pay 12345  now!\n\n we've"
    assert splitter("gpt2")(text) == [
        *("I", "'", "LL", " pay", " 12345", " ", " now", "!", "\n\n", " we", "'ve"),
    ]
    assert splitter("cl100k")(text) == [
        *("I", "'LL", " pay", " ", "123", "45", " ", " now", "!\n\n", " we", "'ve"),
    ]


unicode = st.text(
    st.sampled_from("aZéßñ жЩ αΩ 中文字 かな 한글 عربي हिन्दी 012٣½ '’sſ -_!?…€😀\u200d\u00a0\u3000\t\r\n\x00\x1c")
    | st.characters(exclude_categories=["Cs"]),  # a lone surrogate is no text to the others
    max_size=40,
)


@pytest.mark.parametrize("pattern", list(PATTERNS))
@given(text=unicode)
def test_pieces_are_those_of_hugging_face(pattern: str, text: str) -> None:
    hf = pytest.importorskip("tokenizers", reason="Hugging Face's tokenizers is not installed: nothing to compare with")
    theirs = hf.pre_tokenizers.Split(hf.Regex(PATTERNS[pattern]), behavior="isolated").pre_tokenize_str(text)
    assert splitter(pattern)(text) == [piece for piece, _ in theirs]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "lowercase", "text", "expected"),
    [
        ("none", False, "ﬁ Cafe\u0301", "ﬁ Cafe\u0301"),
        ("nfc", False, "ﬁ Cafe\u0301", "ﬁ Café"),
        ("nfkc", False, "ﬁ ２³ Cafe\u0301", "fi 23 Café"),
        ("ascii", False, "2×3 café — naïve 中", "2*3 cafe - naive Zhong"),
        ("ascii", True, "Ünter", "unter"),
        ("none", True, "ΌΣΟΣ İ", "όσοσ i\u0307"),  # letter by letter: no final ς
        ("nfkc", True, "ℌ", "h"),  # first the form, then the case
        ("nfc", False, "\ud800", "\ud800"),
    ],
)
def test_normalizers(name: str, lowercase: bool, text: str, expected: str) -> None:
    assert make_normalizer(name, lowercase=lowercase)(text) == expected  # type: ignore[arg-type]


@given(anything)
def test_ascii_is_ascii_and_none_is_nothing(text: str) -> None:
    assert make_normalizer("ascii")(text).isascii()
    assert make_normalizer("none")(text) == text
