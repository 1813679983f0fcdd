"""Normalizing text before it is split: nothing at all (the default), NFC, NFKC or ASCII; lower case, a space in front.

Everything here but "none" throws something away: decode(encode(text)) then gives the normalized text back.
"""

import functools
import unicodedata
from collections.abc import Callable
from typing import Literal, get_args

NormalizerName = Literal["none", "nfc", "nfkc", "ascii"]


def make_normalizer(
    name: NormalizerName = "none", *, lowercase: bool = False, add_prefix_space: bool = False
) -> Callable[[str], str]:
    """The function str → str that `name` stands for, followed by `lower` if `lowercase`, by a prefix if asked for.

    "nfc" joins letters and accents that Unicode can write in two ways, "nfkc" also flattens ligatures, wide letters
    and superscripts (Unicode Annex 15), "ascii" transliterates every letter (the anyascii package: 中 → Zhong).
    With `add_prefix_space` the first word of a text looks like all others: "the" → " the"; an empty text stays empty.
    Raises ValueError for another name.
    """
    if name not in get_args(NormalizerName):
        raise ValueError(f"unknown normalizer {name!r}: choose one of {', '.join(get_args(NormalizerName))}")
    steps = [_FUNCTIONS[name], *[lower] * lowercase, *[space_in_front] * add_prefix_space]
    return steps[0] if len(steps) == 1 else lambda text: functools.reduce(lambda text, step: step(text), steps, text)


def lower(text: str) -> str:
    """Lower case, letter by letter: `str.lower` alone looks around a Σ to choose its form, the field's files do not."""
    return text.replace("Σ", "σ").lower()


def space_in_front(text: str) -> str:
    """ "the" → " the"; a text that begins with a space, or is empty, stays as it is."""
    return f" {text}" if text and text[0] != " " else text


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
