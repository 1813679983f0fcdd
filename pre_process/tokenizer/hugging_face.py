"""tokenizer.json in Hugging Face's layout, written and read.

The promise: what Hugging Face's `tokenizers` loads of ours gives the same ids there. Its reader refuses top-level keys
it does not know and skips unknown keys deeper down, so there is no honest place for extra settings and none is used:
each setting is the part of the layout that does the same thing.

    gpt2 pattern, bytes             pre_tokenizer and decoder ByteLevel
    other pattern, bytes            pre_tokenizer Split by the pattern, then ByteLevel
    any pattern, characters         pre_tokenizer Split; model.byte_fallback, where <0x80> … <0xFF> are the lone bytes
    nfc, nfkc, lowercase            normalizer NFC, NFKC, Lowercase
    add_prefix_space                ByteLevel.add_prefix_space, or normalizers Prepend and Replace before a Split
    ascii                           normalizer "AnyAscii"    ⎫ no such part exists there, so `tokenizers` refuses the
    a word list without merges      model "LongestMatch"     ⎭ file rather than give other ids
"""

import re
from collections import Counter
from pathlib import Path
from reprlib import repr as short
from typing import Any

import msgspec

from pre_process.tokenizer.byte_level import from_visible, to_visible, utf8
from pre_process.tokenizer.hugging_face_parts import (
    Json,
    Settings,
    read_added_tokens,
    read_settings,
    steps_of,
    type_of,
    written_added_token,
    written_settings,
)
from pre_process.tokenizer.json_files import faults_named, read_json, tokens_by_id, typed
from pre_process.tokenizer.vocabulary import PLAIN_SPECIAL, AddedToken, Level, TokenizerError, Vocabulary

_LONE_BYTE = re.compile("<0x([89A-F][0-9A-F])>")


def dump(vocabulary: Vocabulary, settings: Settings) -> str:
    """The text of tokenizer.json; equal tokenizers give equal text. Raises TokenizerError if two tokens look alike."""
    names, added = written_tokens(vocabulary), vocabulary.added
    specials = sorted(vocabulary.specials.items(), key=lambda name_and_id: name_and_id[1])
    parts = written_settings(settings, vocabulary.level)
    tree = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [written_added_token(name, i, added.get(name, PLAIN_SPECIAL)) for name, i in specials],
        "normalizer": parts["normalizer"],
        "pre_tokenizer": parts["pre_tokenizer"],
        "post_processor": None,
        "decoder": parts["decoder"],
        "model": _written_model(vocabulary, names),
    }
    return msgspec.json.format(msgspec.json.encode(tree), indent=1).decode() + "\n"


def _written_model(vocabulary: Vocabulary, names: list[str]) -> Json:
    return {
        "type": "LongestMatch" if vocabulary.needs_greedy else "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": vocabulary.level == "character",
        "ignore_merges": vocabulary.whole_pieces,
        "vocab": {name: token_id for token_id, name in enumerate(names)},
        "merges": [[names[left], names[right]] for left, right in vocabulary.merges],
    }


def load(path: Path) -> tuple[Vocabulary, Settings]:
    """Read tokenizer.json. Raises TokenizerError, one line with the file and the fault, for all that is not ours to do.

    Files by others are read too if they hold byte-level BPE with one of our patterns; `padding` and `truncation` are
    ignored, since here each call to `encode_batch` decides them, and so is a `post_processor` that puts special tokens
    around a text, since `encode` adds none: the ids are those of Hugging Face's `add_special_tokens=False`.
    """
    with faults_named(path):
        tree = typed(read_json(path), "the file", dict)
        model = typed(tree.get("model"), "model", dict)
        settings, level = read_settings(tree)
        _refuse_other_parts(tree, model, level)
        specials, added = read_added_tokens(tree, settings)
        return _read_model(model, level, specials, added), settings


def _read_model(model: Json, level: Level, specials: dict[str, int], added: dict[str, AddedToken]) -> Vocabulary:
    ids = typed(model.get("vocab"), "model.vocab", dict)
    for name, token_id in specials.items():
        if ids.setdefault(name, token_id) != token_id:
            raise TokenizerError(
                f"the special token {short(name)} has the ids {short(ids[name])} and {short(token_id)}"
            )
    tokens = tuple(utf8(name) if name in specials else unwritten(name, level) for name in tokens_by_id(ids))
    merges = tuple(_read_merge(merge, ids) for merge in typed(model.get("merges"), "model.merges", list))
    whole_pieces = typed(model.get("ignore_merges", False), "model.ignore_merges", bool)
    vocabulary = Vocabulary(tokens, merges, specials, level, whole_pieces=whole_pieces, added=added)
    if vocabulary.needs_greedy != (model_type(model) == "LongestMatch"):
        raise TokenizerError(f"model.type is {model_type(model)} with {len(merges)} merges for {len(tokens)} tokens")
    return vocabulary


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
    if model_type(model) not in ("BPE", "LongestMatch"):
        raise TokenizerError(f"model.type is {short(model_type(model))}, not 'BPE'")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise TokenizerError(f"model.{key} is {short(model[key])}: not supported")
    if bool(model.get("byte_fallback")) != (level == "character"):
        raise TokenizerError(f"model.byte_fallback does not fit a pre_tokenizer that gives {level}s")
    for step in steps_of(tree.get("post_processor"), "processors"):
        if type_of(step) not in (None, "ByteLevel", "TemplateProcessing"):  # ByteLevel only moves offsets there
            raise TokenizerError(f"the post_processor {short(type_of(step))} is not supported")


def written_tokens(vocabulary: Vocabulary) -> list[str]:
    """All tokens as they stand in files, by id. Raises TokenizerError if a special token looks like an ordinary one."""
    special_names = {token_id: name for name, token_id in vocabulary.specials.items()}
    names = [special_names.get(i) or _written(token, vocabulary.level) for i, token in enumerate(vocabulary.tokens)]
    counts = Counter(names)
    for name in special_names.values():
        if counts[name] > 1:
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


def model_type(model: Json) -> Any:
    """ "BPE" where it is missing: the first files, GPT-2's among them, do not say."""
    return model.get("type", "BPE")
