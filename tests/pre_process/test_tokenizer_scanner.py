"""The compiled scanner and the Python patterns cut alike, and as Hugging Face's tokenizers and tiktoken do."""

import functools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pre_process.tokenizer.byte_level import utf8
from pre_process.tokenizer.kernels import unicode_classes
from pre_process.tokenizer.pre_tokenize import PATTERNS, PatternName, splitter
from tests.pre_process import freeze_unicode

every_pattern = pytest.mark.parametrize("pattern", get_args(PatternName))
nasty = (
    st.text(st.characters())  # lone surrogates included
    | st.text("a1'sé. \t\n\r\u3000\x1c")
    | st.text("ab 'stmdlrveSLVſ12!.\n  ")
    | st.text("aZéßñ жЩ αΩ 中文字 かな 한글 عربي हिन्दी 012٣½ '’sſ -_!?…€😀\u200d\u00a0\u3000\t\r\n\x00\x1c\ud800")
)
# cl100k_base as the library holds it
TIKTOKENS = {
    "cl100k_tiktoken": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|"
    r"\s++$|\s*[\r\n]|\s+(?!\S)|\s"
}


@functools.cache
def _scan():
    from pre_process.tokenizer.kernels.scanner import scan
    from pre_process.tokenizer.kernels.support import kernel

    return kernel(scan.py_func)


def scanned(text: str, pattern: str, *, room: int = 1 << 20) -> list[str]:
    """The pieces of `text` by the scanner; `room` is how many ends it may write at a time."""
    from pre_process.tokenizer.kernels.boundaries import PATTERN_NUMBERS
    from pre_process.tokenizer.kernels.support import padded

    data, ends, pieces, at = utf8(text), np.empty(room, np.int64), list[bytes](), 0
    while at < len(data):
        number = PATTERN_NUMBERS[pattern]  # type: ignore[index]
        n = _scan()(padded(data, b"next document"), at, len(data), number, unicode_classes.classes(), ends)
        for end in ends[:n].tolist():
            pieces.append(data[at:end])
            at = end
    return [piece.decode("utf-8", "surrogatepass") for piece in pieces]


@every_pattern
@settings(max_examples=300)
@given(text=nasty)
def test_the_scanner_cuts_as_the_pattern_does(pattern: str, text: str) -> None:
    assert scanned(text, pattern) == splitter(pattern)(text)  # type: ignore[arg-type]


@every_pattern
@given(text=nasty, room=st.integers(1, 4))
def test_a_scan_goes_on_where_it_stopped(pattern: str, text: str, room: int) -> None:
    assert scanned(text, pattern, room=room) == scanned(text, pattern)


@every_pattern
@pytest.mark.parametrize("around", ["a{}1'{} !", " {}\n{}{}a"])
def test_every_code_point(pattern: str, around: str) -> None:
    text = "".join(around.replace("{}", chr(code)) for code in range(unicode_classes.N_CODE_POINTS))
    assert scanned(text, pattern, room=1 << 23) == splitter(pattern)(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "cl100k_tiktoken"])
@settings(max_examples=300)
@given(text=nasty.filter(lambda text: len(text) < 40).map(lambda text: text.encode("utf-8", "replace").decode()))
def test_pieces_are_those_of_tiktoken(pattern: str, text: str) -> None:
    """Every stretch of the text is a token there, so each piece becomes the one token that it is."""
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not installed: nothing to compare with")
    data = text.encode()
    tokens = {data[i:j] for i in range(len(data)) for j in range(i + 1, len(data) + 1)}
    tokens |= {bytes([byte]) for byte in range(256)}
    written = TIKTOKENS.get(pattern, PATTERNS[pattern])
    ranks = {token: rank for rank, token in enumerate(sorted(tokens, key=lambda token: (len(token), token)))}
    encoding = tiktoken.Encoding("all", pat_str=written, mergeable_ranks=ranks, special_tokens={})
    theirs = encoding.decode_tokens_bytes(encoding.encode_ordinary(text))
    assert [utf8(piece) for piece in scanned(text, pattern)] == theirs


def test_where_the_two_forms_of_gpt4s_pattern_differ() -> None:
    assert scanned("a\n  ", "cl100k") == ["a", "\n", "  "]
    assert scanned("a\n  ", "cl100k_tiktoken") == ["a", "\n  "]
    assert scanned("a\n  b", "cl100k") == scanned("a\n  b", "cl100k_tiktoken") == ["a", "\n", " ", " b"]


@pytest.mark.parametrize("name", ["N", "White_Space", *(pytest.param(c, marks=pytest.mark.slow) for c in "LM")])
def test_the_frozen_table_is_that_of_tiktoken_and_hugging_face(name: str) -> None:
    pytest.importorskip("tiktoken", reason="tiktoken is not installed: nothing to compare with")
    pytest.importorskip("tokenizers", reason="Hugging Face's tokenizers is not installed: nothing to compare with")
    wanted = [number for number, category in enumerate(unicode_classes.CATEGORIES) if category.startswith(name)]
    ours = set(map(chr, np.flatnonzero(np.isin(unicode_classes.categories(), wanted)).tolist()))
    pattern = r"\s" if name == "White_Space" else rf"\p{{{name}}}"
    assert ours == freeze_unicode.matched_by_tiktoken(pattern) == freeze_unicode.matched_by_hugging_face(pattern)


def test_the_frozen_table_is_what_the_script_writes() -> None:
    assert freeze_unicode.written(unicode_classes.categories()) == unicode_classes._FROZEN
