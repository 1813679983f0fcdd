"""From texts to a vocabulary: normalize, cut into pieces, count them, number the first symbols, learn the merges."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

from pre_process.tokenizer.bpe import learn_merges
from pre_process.tokenizer.byte_level import BYTES_IN_ORDER, has_lone_surrogate, utf8
from pre_process.tokenizer.vocabulary import Level, TokenizerError, Vocabulary


def count_pieces(
    texts: Iterable[str], normalize: Callable[[str], str], split: Callable[[str], list[str]]
) -> Counter[str]:
    """How often each piece occurs in all texts; holds one text at a time. Raises TokenizerError if there is none."""
    if isinstance(texts, str):
        raise TokenizerError("texts is one string: pass an iterable of strings, [text]")
    pieces: Counter[str] = Counter()
    for text in texts:
        if not isinstance(text, str):
            raise TokenizerError(f"texts holds a {type(text).__name__}: a tokenizer is trained on strings")
        pieces.update(split(normalize(text)))
    if not pieces:
        raise TokenizerError("the training text is empty: a tokenizer needs some text to learn from")
    return pieces


def check_specials(special_tokens: Sequence[str], split: Callable[[str], list[str]]) -> None:
    """Raise TokenizerError for special tokens that are empty, doubled, not Unicode, or that a merge could spell."""
    if isinstance(special_tokens, str):
        raise TokenizerError(f"special_tokens is one string: pass a list, [{special_tokens!r}]")
    if len(set(special_tokens)) < len(special_tokens):
        raise TokenizerError(f"special tokens are given twice: {', '.join(special_tokens)}")
    for special in special_tokens:
        if len(split(special)) < 2:
            raise TokenizerError(f"special token {special!r} looks like ordinary text: write it like <|name|>")
        if has_lone_surrogate(special):
            raise TokenizerError(f"special token {special!r} holds a lone surrogate, which no file can hold")


def train_vocabulary(
    pieces: Counter[str],
    *,
    vocab_size: int,
    level: Level,
    special_tokens: Sequence[str],
    min_frequency: int,
    progress: Callable[[int, int], None] | None,
) -> Vocabulary:
    """Special tokens first, then the first symbols, then as many merges as `vocab_size` leaves room for."""
    symbols = first_symbols(pieces, level=level, min_frequency=min_frequency)
    tokens = [*map(utf8, special_tokens), *symbols]
    if vocab_size < len(tokens):
        raise TokenizerError(
            f"vocab_size {vocab_size} is too small: {len(special_tokens)} special tokens and {len(symbols)} "
            f"{level}s need {len(tokens)}"
        )
    specials = {special: token_id for token_id, special in enumerate(special_tokens)}
    start = Vocabulary(tuple(tokens), (), specials, level)
    merges = learn_merges(
        _words(pieces, start),
        n_merges=vocab_size - len(tokens),
        first_id=len(tokens),
        min_frequency=min_frequency,
        progress=progress,
    )
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return Vocabulary(tuple(tokens), tuple(merges), specials, level)


def first_symbols(pieces: Mapping[str, int], *, level: Level, min_frequency: int) -> Sequence[bytes]:
    """The tokens that exist before any merge: the 256 bytes, and for "character" each non-ASCII character seen often.

    `pieces` counts the pieces of the training text; a character rarer than `min_frequency` is left to its bytes.
    """
    if level == "byte":
        return BYTES_IN_ORDER
    counts: Counter[str] = Counter()
    for piece, count in pieces.items():
        if not piece.isascii():
            for character in piece:
                counts[character] += count
    seen = sorted(
        character for character, count in counts.items() if count >= min_frequency and _may_be_a_token(character)
    )
    return [bytes([byte]) for byte in range(256)] + [utf8(character) for character in seen]


def _may_be_a_token(character: str) -> bool:
    return not character.isascii() and not has_lone_surrogate(character)


def _words(pieces: Counter[str], vocabulary: Vocabulary) -> Counter[tuple[int, ...]]:
    """The pieces as first symbols. At character level a rare character's bytes cut the word: they are never merged."""
    never_merged = set(vocabulary.byte_ids(bytes(range(128, 256)))) if vocabulary.level == "character" else set[int]()
    words: Counter[tuple[int, ...]] = Counter()
    for piece, count in pieces.items():
        for is_cut, run in groupby(vocabulary.symbols(piece), key=never_merged.__contains__):
            if not is_cut:
                words[tuple(run)] += count
    return words
