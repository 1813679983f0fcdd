"""The parts of Hugging Face's tokenizer.json around the model: normalizer, pre_tokenizer, added tokens.

Each is written in one way and recognised by comparison; a part that nothing here does is refused, never ignored.
"""

from itertools import product
from reprlib import repr as short
from typing import Any, NamedTuple, get_args

from pre_process.tokenizer.json_files import typed
from pre_process.tokenizer.normalize import NormalizerName
from pre_process.tokenizer.pre_tokenize import PATTERNS, PatternName
from pre_process.tokenizer.vocabulary import PLAIN_SPECIAL, AddedToken, Level, TokenizerError

Json = dict[str, Any]


class Settings(NamedTuple):
    """All of a tokenizer but its vocabulary: what happens to a text before it is cut, and what cuts it."""

    pattern: PatternName = "gpt2"
    normalizer: NormalizerName = "none"
    lowercase: bool = False
    add_prefix_space: bool = False


_NORMALIZERS: dict[NormalizerName, list[Json]] = {
    "none": [],
    "nfc": [{"type": "NFC"}],
    "nfkc": [{"type": "NFKC"}],
    "ascii": [{"type": "AnyAscii"}],
}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_SPACE_IN_FRONT: list[Json] = [  # two make one again
    {"type": "Prepend", "prepend": " "},
    {"type": "Replace", "pattern": {"Regex": r"\A  "}, "content": " "},
]
_DECODERS: dict[Level, Json] = {
    "byte": _BYTE_LEVEL | {"add_prefix_space": True},
    "character": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
}
_FLAGS = ("single_word", "lstrip", "rstrip")


def written_settings(settings: Settings, level: Level) -> Json:
    """The entries normalizer, pre_tokenizer and decoder."""
    return {
        "normalizer": _one_or_sequence(_normalizers(settings, level), "normalizers"),
        "pre_tokenizer": _one_or_sequence(_pre_tokenizers(settings, level), "pretokenizers"),
        "decoder": _DECODERS[level],
    }


def read_settings(tree: Json) -> tuple[Settings, Level]:
    """The settings that these entries stand for. Raises TokenizerError for what nothing here does."""
    parts = [_what_counts(part) for part in steps_of(tree.get("pre_tokenizer"), "pretokenizers")]
    steps = steps_of(tree.get("normalizer"), "normalizers")
    choices = product(get_args(PatternName), get_args(NormalizerName), (False, True), (False, True))
    all_settings = [Settings(*choice) for choice in choices]
    fitting = [(s, level) for s in all_settings for level in get_args(Level) if parts in _ways_to_cut(s, level)]
    if not fitting:
        found, known = type_of(tree.get("pre_tokenizer")), ", ".join(get_args(PatternName))
        raise TokenizerError(f"the pre_tokenizer {short(found)} is none of {known}")
    for settings, level in fitting:
        if steps == _normalizers(settings, level):
            return settings, level
    raise TokenizerError(f"the normalizer {short(type_of(tree.get('normalizer')))} is not supported")


def _normalizers(settings: Settings, level: Level) -> list[Json]:
    in_front = settings.add_prefix_space and not _byte_level_does_all(settings, level)
    lowercase = [{"type": "Lowercase"}] * settings.lowercase
    return _NORMALIZERS[settings.normalizer] + lowercase + _SPACE_IN_FRONT * in_front


def _byte_level_does_all(settings: Settings, level: Level) -> bool:
    return level == "byte" and settings.pattern == "gpt2"


def _pre_tokenizers(settings: Settings, level: Level) -> list[Json]:
    if _byte_level_does_all(settings, level):
        return [_BYTE_LEVEL | {"add_prefix_space": settings.add_prefix_space}]
    return _split_first(settings, level)


def _split_first(settings: Settings, level: Level) -> list[Json]:
    regex = {"Regex": PATTERNS[settings.pattern]}
    split = {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}
    return [split] if level == "character" else [split, _BYTE_LEVEL | {"use_regex": False}]


def _ways_to_cut(settings: Settings, level: Level) -> list[list[Any]]:
    """How this pre_tokenizer is written here, and for GPT-2's pattern the other way that does the same."""
    ways = [_pre_tokenizers(settings, level)]
    if level == "byte" and not settings.add_prefix_space:
        ways.append(_split_first(settings, level))
    return [[_what_counts(part) for part in way] for way in ways]


def steps_of(found: Any, key: str) -> list[Any]:
    """The steps of a part, whether it is none, one or a sequence. Raises TokenizerError."""
    if isinstance(found, dict) and found.get("type") == "Sequence":
        return list(typed(found.get(key), f"the list {key}", list))
    return [] if found is None else [found]


def _what_counts(part: Any) -> Any:
    """A step in the one form that is compared: old files leave out a default, offsets don't matter, splits have twins.

    "Isolated" cuts at the matches and "Removed", inverted, throws away what is between them: nothing, since each of
    the patterns has a match for every character.
    """
    if type_of(part) == "ByteLevel":
        return {"use_regex": True} | {key: value for key, value in part.items() if key != "trim_offsets"}
    if type_of(part) == "Split" and (part.get("behavior"), part.get("invert")) == ("Removed", True):
        return part | {"behavior": "Isolated", "invert": False}
    return part


def _one_or_sequence(parts: list[Json], key: str) -> Json | None:
    return {"type": "Sequence", key: parts} if len(parts) > 1 else next(iter(parts), None)


def type_of(part: Any) -> Any:
    """The "type" of a part, or what stands there instead of one."""
    return part.get("type") if isinstance(part, dict) else part


def written_added_token(name: str, token_id: int, token: AddedToken) -> Json:
    """An entry of added_tokens."""
    flags = {flag: getattr(token, flag) for flag in _FLAGS}
    return {"id": token_id, "content": name, **flags, "normalized": token.after_others, "special": token.silent}


def read_added_tokens(tree: Json, settings: Settings) -> tuple[dict[str, int], dict[str, AddedToken]]:
    """name → id of all added tokens, and the habits of those that are no plain special tokens."""
    ids: dict[str, int] = {}
    added: dict[str, AddedToken] = {}
    for entry in typed(tree.get("added_tokens", []), "added_tokens", list):
        name = typed(typed(entry, "an added token", dict).get("content"), "an added token's content", str)
        if name in ids or not name:
            raise TokenizerError(f"added token {short(name)} is {'there twice' if name else 'empty'}")
        ids[name] = typed(entry.get("id"), f"the id of {short(name)}", int)
        token = _read_flags(entry, name)
        if token.after_others and (settings.normalizer != "none" or settings.lowercase):
            raise TokenizerError(f"added token {short(name)} is sought in normalized text: not supported")
        if token != PLAIN_SPECIAL:
            added[name] = token
    return ids, added


def _read_flags(entry: Json, name: str) -> AddedToken:
    flags = {flag: typed(entry.get(flag, False), f"{flag} of {short(name)}", bool) for flag in (*_FLAGS, "normalized")}
    silent = typed(entry.get("special"), f"the key 'special' of {short(name)}", bool)
    return AddedToken(silent=silent, after_others=flags.pop("normalized"), **flags)
