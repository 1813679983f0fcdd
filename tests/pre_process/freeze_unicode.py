"""Makes the frozen table of kernels/unicode_classes.py: `python -m tests.pre_process.freeze_unicode` prints it.

It asks tiktoken and Hugging Face's tokenizers which characters each category of a pattern matches, and stops if they do
not agree. Run it when both have moved to a newer Unicode: from then on texts with the new letters get other ids.
"""

import base64
import zlib

import numpy as np

from pre_process.tokenizer.kernels.unicode_classes import CATEGORIES, N_CODE_POINTS

PATTERNS = {name: r"\s" if name == "White_Space" else rf"\p{{{name}}}" for name in CATEGORIES if name}
EVERY_CHARACTER = "".join(chr(code) for code in range(N_CODE_POINTS) if not 0xD800 <= code < 0xE000)


def matched_by_tiktoken(pattern: str) -> set[str]:
    """All characters that `pattern`, a class, matches: what it does not match, tiktoken leaves out."""
    import tiktoken

    bytes_only = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("bytes", pat_str=pattern, mergeable_ranks=bytes_only, special_tokens={})
    return set(encoding.decode(encoding.encode_ordinary(EVERY_CHARACTER)))


def matched_by_hugging_face(pattern: str) -> set[str]:
    """The same: splitting removes what the pattern matches."""
    from tokenizers import Regex, pre_tokenizers

    rest = pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(EVERY_CHARACTER)
    return set(EVERY_CHARACTER).difference(*(piece for piece, _ in rest))


def written(table: np.ndarray) -> str:
    """The table of categories as unicode_classes.py holds it."""
    starts = np.flatnonzero(np.diff(table, prepend=255))
    lengths = np.diff(starts, append=len(table))
    data = bytearray()
    for number in (16 * lengths + table[starts]).tolist():
        while number > 127:
            data.append(number & 127 | 128)
            number >>= 7
        data.append(number)
    return base64.b85encode(zlib.compress(data, 9)).decode()


def main() -> None:
    """Print the lines to put between the brackets of _FROZEN."""
    table = np.zeros(N_CODE_POINTS, np.uint8)
    for name, pattern in PATTERNS.items():
        matched = matched_by_tiktoken(pattern)
        if matched != matched_by_hugging_face(pattern):
            raise SystemExit(f"tiktoken and tokenizers do not agree on {name}")
        table[[ord(character) for character in matched]] = CATEGORIES.index(name)
    text = written(table)
    print(*(f'    "{text[i : i + 112]}"' for i in range(0, len(text), 112)), sep="\n")


if __name__ == "__main__":
    main()
