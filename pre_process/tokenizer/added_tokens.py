"""Special tokens in a text: only those that the caller allows are found, with the habits Hugging Face gave them."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Literal

from pre_process.tokenizer.vocabulary import PLAIN_SPECIAL, AddedToken, TokenizerError
from pre_process.tokenizer.word_characters import word_class

# Unicode's White_Space; str.isspace() would add U+001C … U+001F.
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"


def allowed_specials(specials: Mapping[str, int], allowed: Collection[str] | Literal["all"]) -> Mapping[str, int]:
    """The special tokens that may be parsed from text: name → id. Raises TokenizerError for a name there is not."""
    if allowed == "all":
        return specials
    if isinstance(allowed, str):
        raise TokenizerError(f"allowed_special is one string: pass a list, [{allowed!r}], or 'all'")
    if unknown := [name for name in allowed if name not in specials]:
        raise TokenizerError(f"no special token {unknown[0]!r}: this tokenizer has {', '.join(specials) or 'none'}")
    return {name: specials[name] for name in allowed}


def split_specials(text: str, allowed: Mapping[str, int], added: Mapping[str, AddedToken]) -> Iterator[str | int]:
    """Stretches of plain text, and the ids of the allowed special tokens between them; the longest name wins."""
    late = {name: allowed[name] for name, flags in added.items() if flags.after_others and name in allowed}
    for stretch in _cut(text, {name: allowed[name] for name in allowed if name not in late}, added):
        if isinstance(stretch, int):
            yield stretch
        else:
            yield from _cut(stretch, late, added)


def _cut(text: str, wanted: Mapping[str, int], added: Mapping[str, AddedToken]) -> Iterator[str | int]:
    if not wanted:
        yield text
        return
    names, done = "|".join(map(re.escape, sorted(wanted, key=len, reverse=True))), 0
    for match in re.finditer(names, text):
        flags = added.get(match[0], PLAIN_SPECIAL)
        if flags.single_word and _inside_a_word(text, match.start(), match.end()):
            continue
        stretch, end = text[done : match.start()], match.end()
        yield stretch.rstrip(WHITE_SPACE) if flags.lstrip else stretch
        yield wanted[match[0]]
        while flags.rstrip and text[end : end + 1] in WHITE_SPACE and end < len(text):
            end += 1
        done = end
    yield text[done:]


def _inside_a_word(text: str, start: int, end: int) -> bool:
    """True if a word character stands right before `start` or at `end`."""
    is_word = re.compile(f"[{word_class()}]").match
    return any(is_word(text[i : i + 1]) for i in (start - 1, end) if i >= 0)
