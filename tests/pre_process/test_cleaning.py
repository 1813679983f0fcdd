"""Cleaning: what goes, what stays, and that a second time changes nothing."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pre_process.corpus.cleaning import clean, strip_gutenberg

BOOK = "EMMA\n\nBy Jane Austen\n\n" + "It was a fine morning, and nobody was in want of a wife.\n" * 30
MODERN = (
    "The Project Gutenberg eBook of Emma\n\nThis ebook is for the use of anyone\n\n"
    "*** START OF THE PROJECT GUTENBERG EBOOK EMMA ***\n\n\nProduced by An Anonymous Volunteer\nand David Widger\n\n\n"
    f"{BOOK}\n\n*** END OF THE PROJECT GUTENBERG EBOOK EMMA ***\n\nUpdated editions will replace the previous one\n"
)
OLD = (
    "**The Project Gutenberg Etext of Emma**\n\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n"
    f"{BOOK}\n\nEnd of The Project Gutenberg Etext of Emma\n\nmore\n"
)


@given(st.text())
def test_clean_keeps_all_but_control_characters(text: str) -> None:
    cleaned = clean(text)
    assert not any((ord(c) < 32 and c not in "\t\n\r") or 127 <= ord(c) < 160 for c in cleaned)
    assert unicodedata.is_normalized("NFC", cleaned)
    assert clean(cleaned) == cleaned
    kept = "".join(c for c in text if c in "\t\n\r" or not (ord(c) < 32 or 127 <= ord(c) < 160))
    assert cleaned == unicodedata.normalize("NFC", kept)


def test_clean_by_hand() -> None:
    assert clean("e\u0301\x00a\x1bb\x7f\x85\tc\r\n") == "éab\tc\r\n"


@pytest.mark.parametrize("wrapped", [MODERN, OLD, MODERN.replace("THE PROJECT", "THIS PROJECT").replace("*** ", "***")])
def test_a_book_loses_its_wrapping(wrapped: str) -> None:
    assert strip_gutenberg(wrapped) == BOOK.strip("\n") + "\n"
    assert strip_gutenberg(strip_gutenberg(wrapped)) == strip_gutenberg(wrapped)


def test_the_last_of_several_start_marks_counts() -> None:
    start = "*** START OF THE PROJECT GUTENBERG EBOOK EMMA ***\n"
    assert strip_gutenberg(f"{start}small print\n{start}{BOOK}") == BOOK


def test_marks_in_the_wrong_half_are_text() -> None:
    text = f"{BOOK}*** START OF THE PROJECT GUTENBERG EBOOK EMMA ***\n"
    assert strip_gutenberg(text) == text
    assert strip_gutenberg("plain") == "plain"
    assert strip_gutenberg("") == ""
