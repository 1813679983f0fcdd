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
from itertools import product
from pathlib import Path
from typing import Any, get_args

from pre_process.tokenizer.byte_level import from_visible, to_visible, utf8
from pre_process.tokenizer.json_files import read_json, tokens_by_id
from pre_process.tokenizer.normalize import NormalizerName
from pre_process.tokenizer.pre_tokenize import PATTERNS, PatternName
from pre_process.tokenizer.vocabulary import Level, TokenizerError, Vocabulary

Json = dict[str, Any]
Settings = tuple[PatternName, NormalizerName, bool]

_NORMALIZERS: dict[str, Json | None] = {
    "none": None,
    "nfc": {"type": "NFC"},
    "nfkc": {"type": "NFKC"},
    "ascii": {"type": "AnyAscii"},
}


def dump(vocabulary: Vocabulary, settings: Settings) -> str:
    """The text of tokenizer.json; equal tokenizers give equal text."""
    pattern, normalizer, lowercase = settings
    names = [written(token, vocabulary.level) for token in vocabulary.tokens]
    for special, token_id in vocabulary.specials.items():
        names[token_id] = special
    tree = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(name, i) for name, i in sorted(vocabulary.specials.items(), key=lambda s: s[1])],
        "normalizer": _normalizer_json(normalizer, lowercase),
        "pre_tokenizer": _pre_tokenizer_json(pattern, vocabulary.level),
        "post_processor": None,
        "decoder": _decoder_json(vocabulary.level),
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
    tree = read_json(path)
    try:
        return _read(tree)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None


def _read(tree: Any) -> tuple[Vocabulary, Settings]:
    model = _typed(tree, "the file", dict).get("model")
    _typed(model, "model", dict)
    pattern, level = _read_pre_tokenizer(tree)
    normalizer, lowercase = _read_normalizer(tree.get("normalizer"))
    _refuse_other_parts(tree, model, level)
    ids, specials = _read_vocab(tree, model)
    tokens = tuple(utf8(name) if name in specials else unwritten(name, level) for name in tokens_by_id(ids))
    merges = [_read_merge(merge, ids) for merge in _typed(model.get("merges"), "model.merges", list)]
    vocabulary = Vocabulary(tokens, tuple(merges), specials, level)
    if vocabulary.needs_greedy != (model["type"] == "LongestMatch"):
        raise TokenizerError(f"model.type is {model['type']} with {len(merges)} merges for {len(tokens)} tokens")
    return vocabulary, (pattern, normalizer, lowercase)


def _read_vocab(tree: Json, model: Json) -> tuple[Json, dict[str, int]]:
    """Every token with its id, and the special ones among them."""
    ids, specials = dict(_typed(model.get("vocab"), "model.vocab", dict)), {}
    for token in _typed(tree.get("added_tokens", []), "added_tokens", list):
        name = _typed(_typed(token, "an added token", dict).get("content"), "an added token's content", str)
        if not token.get("special") or any(token.get(flag) for flag in ("single_word", "lstrip", "rstrip")):
            raise TokenizerError(f"added token {name!r}: only special tokens without strip or word rules can be used")
        if ids.setdefault(name, token.get("id")) != token.get("id") or name in specials:
            raise TokenizerError(f"added token {name!r} has the ids {ids[name]!r} and {token.get('id')!r}")
        specials[name] = ids[name]
    return ids, specials


def _read_merge(merge: Any, ids: Json) -> tuple[int, int]:
    """["a", "b"], or "a b" as older files have it, → (id, id)."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise TokenizerError(f"model.merges holds {merge!r}, which is no pair of tokens")
    if unknown := [part for part in parts if part not in ids]:
        raise TokenizerError(f"the merge {merge!r} has a part that is not in model.vocab: {unknown[0]!r}")
    return ids[parts[0]], ids[parts[1]]


def _refuse_other_parts(tree: Json, model: Json, level: Level) -> None:
    """Raise TokenizerError for settings that would change the ids or the text and that we do not have."""
    if model.get("type") not in ("BPE", "LongestMatch"):
        raise TokenizerError(f"model.type is {model.get('type')!r}, not 'BPE'")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(key):
            raise TokenizerError(f"model.{key} is {model[key]!r}: not supported")
    if bool(model.get("byte_fallback")) != (level == "character"):
        raise TokenizerError(
            f"model.byte_fallback is {model.get('byte_fallback')!r} with a {level}-level pre_tokenizer"
        )
    if _type_of(tree.get("post_processor")) not in (None, "ByteLevel"):  # ByteLevel only moves offsets there
        raise TokenizerError(f"post_processor {_type_of(tree['post_processor'])!r} is not supported")


def written(token: bytes, level: Level) -> str:
    """A token as it stands in the file: byte level "Ġthe", character level "the" and "<0xE2>" for a lone byte."""
    if level == "byte":
        return to_visible(token)
    return f"<0x{token[0]:02X}>" if len(token) == 1 and token >= b"\x80" else token.decode("utf-8")


def unwritten(name: str, level: Level) -> bytes:
    """The inverse of `written`. Raises TokenizerError."""
    if level == "character":
        is_byte = len(name) == 6 and name.startswith("<0x") and name.endswith(">") and name[3] in "89ABCDEF"
        return bytes.fromhex(name[3:5]) if is_byte else utf8(name)
    try:
        return from_visible(name)
    except ValueError as error:
        raise TokenizerError(str(error)) from None


def _added_token(name: str, token_id: int) -> Json:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": name, **flags}


def _normalizer_json(name: NormalizerName, lowercase: bool) -> Json | None:
    parts = [part for part in (_NORMALIZERS[name], {"type": "Lowercase"} if lowercase else None) if part]
    return {"type": "Sequence", "normalizers": parts} if len(parts) > 1 else next(iter(parts), None)


def _read_normalizer(found: Any) -> tuple[NormalizerName, bool]:
    for name, lowercase in product(get_args(NormalizerName), (False, True)):
        if found == _normalizer_json(name, lowercase):
            return name, lowercase
    raise TokenizerError(f"the normalizer {_type_of(found)!r} is not supported")


def _pre_tokenizer_json(pattern: PatternName, level: Level) -> Json:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": pattern == "gpt2"}
    if (pattern, level) == ("gpt2", "byte"):
        return byte_level
    split = {"type": "Split", "pattern": {"Regex": PATTERNS[pattern]}, "behavior": "Isolated", "invert": False}
    return (
        split
        if level == "character"
        else {"type": "Sequence", "pretokenizers": [split, byte_level | {"use_regex": False}]}
    )


def _read_pre_tokenizer(tree: Json) -> tuple[PatternName, Level]:
    found = tree.get("pre_tokenizer")
    for pattern, level in product(get_args(PatternName), get_args(Level)):
        if _without_offsets(found) == _without_offsets(_pre_tokenizer_json(pattern, level)):
            return pattern, level
    raise TokenizerError(f"the pre_tokenizer {_type_of(found)!r} is none of {', '.join(get_args(PatternName))}")


def _decoder_json(level: Level) -> Json:
    if level == "character":
        return {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    return {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def _without_offsets(part: Any) -> Any:
    """A pre_tokenizer without what only concerns offsets, and with the default that old files leave out."""
    if not isinstance(part, dict):
        return part
    parts = part.get("pretokenizers")
    inner = {"pretokenizers": [_without_offsets(p) for p in parts]} if isinstance(parts, list) else {}
    default = {"use_regex": True} if part.get("type") == "ByteLevel" else {}
    return default | {key: value for key, value in part.items() if key != "trim_offsets"} | inner


def _type_of(part: Any) -> Any:
    return part.get("type") if isinstance(part, dict) else part


def _typed(value: Any, what: str, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TokenizerError(f"{what} is {'missing' if value is None else type(value).__name__}, not a {kind.__name__}")
    return value
