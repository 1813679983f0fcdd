"""Text as UTF-8 bytes, and each byte as a visible character: how byte-level tokens are written in files.

A token may be half a character, which JSON cannot hold. GPT-2 (Radford et al. 2019) therefore writes each byte as one
character: visible Latin-1 stands for itself, the other 68 bytes for U+0100, U+0101 … So " the" is written "Ġthe".
"""

from reprlib import repr as short

_VISIBLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]
BYTE_TO_CHARACTER = {**{byte: chr(byte) for byte in _VISIBLE}, **{byte: chr(256 + i) for i, byte in enumerate(_HIDDEN)}}
CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}

# All 256 single bytes in the order in which Hugging Face numbers them: by the code point of the visible character.
BYTES_IN_ORDER = tuple(bytes([CHARACTER_TO_BYTE[character]]) for character in sorted(CHARACTER_TO_BYTE))


def utf8(text: str) -> bytes:
    """The UTF-8 bytes of any Python string; a lone surrogate, which UTF-8 proper forbids, takes three bytes too."""
    return text.encode("utf-8", "surrogatepass")


def has_lone_surrogate(text: str) -> bool:
    """True if a code point of `text` is half a UTF-16 pair: a str can hold it, a UTF-8 file cannot."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def to_visible(token: bytes) -> str:
    """b" the" → "Ġthe"."""
    return token.decode("latin-1").translate(BYTE_TO_CHARACTER)


def from_visible(written: str) -> bytes:
    """The inverse of `to_visible`. Raises ValueError for a character that stands for no byte."""
    try:
        return bytes(CHARACTER_TO_BYTE[character] for character in written)
    except KeyError as error:
        raise ValueError(f"token {short(written)}: the character {error.args[0]!r} stands for no byte") from None
