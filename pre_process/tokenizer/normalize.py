"""Normalizing text before it is split: nothing at all (the default), NFC, NFKC or ASCII, and lower case on request.

Everything here but "none" throws something away: decode(encode(text)) then gives the normalized text back.
"""

import unicodedata
from collections.abc import Callable
from typing import Literal, get_args

NormalizerName = Literal["none", "nfc", "nfkc", "ascii"]


def make_normalizer(name: NormalizerName = "none", *, lowercase: bool = False) -> Callable[[str], str]:
    """The function str → str that `name` stands for, followed by `lower` if `lowercase`.

    "nfc" joins letters and accents that Unicode can write in two ways, "nfkc" also flattens ligatures, wide letters
    and superscripts (Unicode Annex 15), "ascii" transliterates every letter (the anyascii package: 中 → Zhong).
    Raises ValueError for another name.
    """
    if name not in get_args(NormalizerName):
        raise ValueError(f"unknown normalizer {name!r}: choose one of {', '.join(get_args(NormalizerName))}")
    first = _FUNCTIONS[name]
    return (lambda text: lower(first(text))) if lowercase else first


def lower(text: str) -> str:
    """Lower case, letter by letter: `str.lower` alone looks around a Σ to choose its form, the field's files do not."""
    return text.replace("Σ", "σ").lower()


def _same(text: str) -> str:
    return text


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    from anyascii import anyascii

    return str(anyascii(text))


_FUNCTIONS: dict[str, Callable[[str], str]] = {"none": _same, "nfc": _nfc, "nfkc": _nfkc, "ascii": _ascii}
