"""tokenizer.json in Hugging Face's layout, written and read.

The promise: what Hugging Face's `tokenizers` loads of ours gives the same ids there. Its reader refuses top-level keys
it does not know and skips unknown keys deeper down, so there is no honest place for extra settings and none is used:
each setting is the part of the layout that does the same thing.

    gpt2 pattern, bytes             pre_tokenizer and decoder ByteLevel
    other pattern, bytes            pre_tokenizer Split by the pattern, then ByteLevel
    any pattern, characters         pre_tokenizer Split; model.byte_fallback, where <0x80> … <0xFF> are the lone bytes
    nfc, nfkc, lowercase            normalizer NFC, NFKC, Lowercase
    ascii                           normalizer "AnyAscii"    ⎫ no such part exists there, so `tokenizers` refuses the
    a word list without merges      model "LongestMatch"     ⎭ file rather than give other ids
"""

import json
import re
from itertools import product
from pathlib import Path
from reprlib import repr as short
from typing import Any, get_args

from pre_process.tokenizer.byte_level import from_visible, to_visible, utf8
from pre_process.tokenizer.json_files import faults_named, read_json, tokens_by_id, typed
from pre_process.tokenizer.normalize import NormalizerName
from pre_process.tokenizer.pre_tokenize import PATTERNS, PatternName
from pre_process.tokenizer.vocabulary import Level, TokenizerError, Vocabulary

Json = dict[str, Any]
Settings = tuple[PatternName, NormalizerName, bool]

_NORMALIZERS: dict[NormalizerName, list[Json]] = {
    "none": [],
    "nfc": [{"type": "NFC"}],
    "nfkc": [{"type": "NFKC"}],
    "ascii": [{"type": "AnyAscii"}],
}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_DECODERS: dict[Level, Json] = {
    "byte": _BYTE_LEVEL | {"add_prefix_space": True},
    "character": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
}
_LONE_BYTE = re.compile("<0x([89A-F][0-9A-F])>")


def dump(vocabulary: Vocabulary, settings: Settings) -> str:
    """The text of tokenizer.json; equal tokenizers give equal text. Raises TokenizerError if two tokens look alike."""
    pattern, normalizer, lowercase = settings
    names = written_tokens(vocabulary)
    specials = sorted(vocabulary.specials.items(), key=lambda name_and_id: name_and_id[1])
    tree = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(name, token_id) for name, token_id in specials],
        "normalizer": _one_or_sequence(_normalizers(normalizer, lowercase), "normalizers"),
        "pre_tokenizer": _one_or_sequence(_pre_tokenizers(pattern, vocabulary.level), "pretokenizers"),
        "post_processor": None,
        "decoder": _DECODERS[vocabulary.level],
        "model": {
            "type": "LongestMatch" if vocabulary.needs_greedy else "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": vocabulary.level == "character",
            "ignore_merges": False,
            "vocab": {name: token_id for token_id, name in enumerate(names)},
            "merges": [[names[left], names[right]] for left, right in vocabulary.merges],
        },
    }
    return json.dumps(tree, ensure_ascii=False, indent=1) + "\n"


def load(path: Path) -> tuple[Vocabulary, Settings]:
    """Read tokenizer.json. Raises TokenizerError, one line with the file and the fault, for all that is not ours to do.

    Files by others are read too if they hold byte-level BPE with one of our patterns; `padding` and `truncation`
    are ignored, since here each call to `encode_batch` decides them.
    """
    with faults_named(path):
        tree = typed(read_json(path), "the file", dict)
        model = typed(tree.get("model"), "model", dict)
        pattern, level = _read_pre_tokenizer(tree.get("pre_tokenizer"))
        normalizer, lowercase = _read_normalizer(tree.get("normalizer"))
        _refuse_other_parts(tree, model, level)
        vocabulary = _read_model(model, level, _read_added_tokens(tree))
        return vocabulary, (pattern, normalizer, lowercase)


def _read_model(model: Json, level: Level, specials: dict[str, int]) -> Vocabulary:
    ids = typed(model.get("vocab"), "model.vocab", dict)
    for name, token_id in specials.items():
        if ids.setdefault(name, token_id) != token_id:
            raise TokenizerError(
                f"the special token {short(name)} has the ids {short(ids[name])} and {short(token_id)}"
            )
    tokens = tuple(utf8(name) if name in specials else unwritten(name, level) for name in tokens_by_id(ids))
    merges = tuple(_read_merge(merge, ids) for merge in typed(model.get("merges"), "model.merges", list))
    vocabulary = Vocabulary(tokens, merges, specials, level)
    if vocabulary.needs_greedy != (_model_type(model) == "LongestMatch"):
        raise TokenizerError(f"model.type is {_model_type(model)} with {len(merges)} merges for {len(tokens)} tokens")
    return vocabulary


def _read_added_tokens(tree: Json) -> dict[str, int]:
    """The special tokens: name → id."""
    specials: dict[str, int] = {}
    for token in typed(tree.get("added_tokens", []), "added_tokens", list):
        name = typed(typed(token, "an added token", dict).get("content"), "an added token's content", str)
        if token.get("special") is not True or any(token.get(flag) for flag in ("single_word", "lstrip", "rstrip")):
            raise TokenizerError(f"added token {short(name)}: only plain special tokens are supported")
        if name in specials or not name:
            raise TokenizerError(f"added token {short(name)} is {'there twice' if name else 'empty'}")
        specials[name] = typed(token.get("id"), f"the id of {short(name)}", int)
    return specials


def _read_merge(merge: Any, ids: Json) -> tuple[int, int]:
    """["a", "b"], or "a b" as older files have it, → (id, id)."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise TokenizerError(f"the merge {short(merge)} is no pair of tokens")
    if unknown := [part for part in parts if part not in ids]:
        raise TokenizerError(f"the merge {short(merge)} has a part that is not in the vocabulary: {short(unknown[0])}")
    return ids[parts[0]], ids[parts[1]]


def _refuse_other_parts(tree: Json, model: Json, level: Level) -> None:
    """Raise TokenizerError for settings that would change the ids or the text and that we do not have."""
    if _model_type(model) not in ("BPE", "LongestMatch"):
        raise TokenizerError(f"model.type is {short(_model_type(model))}, not 'BPE'")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(key):
            raise TokenizerError(f"model.{key} is {short(model[key])}: not supported")
    if bool(model.get("byte_fallback")) != (level == "character"):
        raise TokenizerError(f"model.byte_fallback does not fit a pre_tokenizer that gives {level}s")
    if _type_of(tree.get("post_processor")) not in (None, "ByteLevel"):  # ByteLevel only moves offsets there
        raise TokenizerError(f"the post_processor {short(_type_of(tree['post_processor']))} is not supported")


def written_tokens(vocabulary: Vocabulary) -> list[str]:
    """All tokens as they stand in files, by id. Raises TokenizerError if a special token looks like an ordinary one."""
    special_names = {token_id: name for name, token_id in vocabulary.specials.items()}
    names = [special_names.get(i) or _written(token, vocabulary.level) for i, token in enumerate(vocabulary.tokens)]
    for name in special_names.values():
        if names.count(name) > 1:
            raise TokenizerError(f"the special token {name!r} looks like an ordinary token in the file: rename it")
    return names


def _written(token: bytes, level: Level) -> str:
    """Byte level " the" → "Ġthe"; character level: the text itself, a lone byte → "<0xE2>"."""
    if level == "byte":
        return to_visible(token)
    return f"<0x{token[0]:02X}>" if len(token) == 1 and token >= b"\x80" else token.decode("utf-8")


def unwritten(name: str, level: Level) -> bytes:
    """The bytes of an ordinary token that stands in a file as `name`. Raises TokenizerError."""
    if level == "character":
        lone_byte = _LONE_BYTE.fullmatch(name)
        return bytes.fromhex(lone_byte[1]) if lone_byte else utf8(name)
    try:
        return from_visible(name)
    except ValueError as error:
        raise TokenizerError(str(error)) from None


def _added_token(name: str, token_id: int) -> Json:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": name, **flags}


def _one_or_sequence(parts: list[Json], key: str) -> Json | None:
    return {"type": "Sequence", key: parts} if len(parts) > 1 else next(iter(parts), None)


def _normalizers(name: NormalizerName, lowercase: bool) -> list[Json]:
    return _NORMALIZERS[name] + [{"type": "Lowercase"}] * lowercase


def _read_normalizer(found: Any) -> tuple[NormalizerName, bool]:
    for name, lowercase in product(get_args(NormalizerName), (False, True)):
        if found == _one_or_sequence(_normalizers(name, lowercase), "normalizers"):
            return name, lowercase
    raise TokenizerError(f"the normalizer {short(_type_of(found))} is not supported")


def _pre_tokenizers(pattern: PatternName, level: Level) -> list[Json]:
    split = {"type": "Split", "pattern": {"Regex": PATTERNS[pattern]}, "behavior": "Isolated", "invert": False}
    if level == "character":
        return [split]
    return [_BYTE_LEVEL] if pattern == "gpt2" else [split, _BYTE_LEVEL | {"use_regex": False}]


def _read_pre_tokenizer(found: Any) -> tuple[PatternName, Level]:
    parts = found.get("pretokenizers") if _type_of(found) == "Sequence" else [found]
    parts = [_what_counts(part) for part in parts] if isinstance(parts, list) else []
    for pattern, level in product(get_args(PatternName), get_args(Level)):
        if parts == [_what_counts(part) for part in _pre_tokenizers(pattern, level)]:
            return pattern, level
    raise TokenizerError(f"the pre_tokenizer {short(_type_of(found))} is none of {', '.join(get_args(PatternName))}")


def _what_counts(part: Any) -> Any:
    """A pre_tokenizer with the default that old files leave out and without what only concerns offsets."""
    if _type_of(part) != "ByteLevel":
        return part
    return {"use_regex": True} | {key: value for key, value in part.items() if key != "trim_offsets"}


def _model_type(model: Json) -> Any:
    return model.get("type", "BPE")  # the first files, GPT-2's among them, do not say


def _type_of(part: Any) -> Any:
    return part.get("type") if isinstance(part, dict) else part
