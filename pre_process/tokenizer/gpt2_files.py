"""vocab.json and merges.txt, the two files of GPT-2: byte-level tokens with their ids, and one merge a line.

They say nothing about the pattern, the normalizer or which tokens are special: the reader has to be told. Prefer
tokenizer.json (hugging_face.py), which says all of it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as short

from pre_process.files import write_atomic
from pre_process.tokenizer.byte_level import utf8
from pre_process.tokenizer.hugging_face import unwritten, written_tokens
from pre_process.tokenizer.json_files import faults_named, read_json, read_text, tokens_by_id, typed
from pre_process.tokenizer.pre_tokenize import PatternName
from pre_process.tokenizer.tiktoken_files import unmerged
from pre_process.tokenizer.tokenizer import Tokenizer
from pre_process.tokenizer.vocabulary import TokenizerError, Vocabulary

_HEADER = "#version: 0.2"


def write_gpt2_files(tokenizer: Tokenizer, folder: str | Path, *, prefix: str = "") -> None:
    """Write `folder`/vocab.json and `folder`/merges.txt. Raises TokenizerError for what they cannot hold, OSError.

    With a `prefix` they are called prefix-vocab.json and prefix-merges.txt, as Hugging Face's `save_model` has it.
    """
    vocabulary = tokenizer.vocabulary
    if vocabulary.level != "byte" or tokenizer.normalizer != "none" or tokenizer.lowercase:
        raise TokenizerError("vocab.json and merges.txt hold byte-level tokens without a normalizer: use save()")
    if vocabulary.needs_greedy or (vocabulary.whole_pieces and unmerged(vocabulary)):
        raise TokenizerError("vocab.json and merges.txt hold only tokens that merges make: use save()")
    names = written_tokens(vocabulary)
    ids = {name: token_id for token_id, name in enumerate(names)}
    lines = [_HEADER, *(f"{names[left]} {names[right]}" for left, right in vocabulary.merges)]
    Path(folder).mkdir(parents=True, exist_ok=True)
    vocab_path, merges_path = _paths(folder, prefix)
    write_atomic(vocab_path, json.dumps(ids, ensure_ascii=False).encode("utf-8"))
    write_atomic(merges_path, ("\n".join(lines) + "\n").encode("utf-8"))


def _paths(folder: str | Path, prefix: str) -> tuple[Path, Path]:
    start = f"{prefix}-" if prefix else ""
    return Path(folder) / f"{start}vocab.json", Path(folder) / f"{start}merges.txt"


def read_gpt2_files(
    folder: str | Path,
    *,
    pattern: PatternName = "gpt2",
    special_tokens: Sequence[str] = ("<|pad|>", "<|endoftext|>"),
    add_prefix_space: bool = False,
    prefix: str = "",
) -> Tokenizer:
    """Read `folder`/vocab.json and `folder`/merges.txt. Those of `special_tokens` that vocab.json has are special.

    With a `prefix` they are prefix-vocab.json and prefix-merges.txt; `add_prefix_space` is what the tokenizer was
    trained with.

    Raises TokenizerError for a broken file, and for a token that no merge makes: then the two do not belong together.
    """
    vocab_path, merges_path = _paths(folder, prefix)
    with faults_named(vocab_path):
        ids = typed(read_json(vocab_path), "the file", dict)
        names = tokens_by_id(ids)
        specials = {name: ids[name] for name in special_tokens if name in ids}
        tokens = tuple(utf8(name) if name in specials else unwritten(name, "byte") for name in names)
    with faults_named(merges_path):
        merges = _read_merges(read_text(merges_path), ids)
        vocabulary = Vocabulary(tokens, merges, specials, "byte")
        made = {token_id for _, token_id in vocabulary.ranks.values()}
        if orphans := [token for token, i in vocabulary.ids.items() if len(token) > 1 and i not in made]:
            raise TokenizerError(f"no merge makes the token {short(orphans[0])} ({len(orphans)} such tokens)")
    return Tokenizer(vocabulary, pattern=pattern, add_prefix_space=add_prefix_space)


def _read_merges(text: str, ids: dict[str, int]) -> tuple[tuple[int, int], ...]:
    lines = text.split("\n")  # not splitlines: it also cuts at characters that may stand in a token
    if lines[0].startswith("#version"):
        lines[0] = ""
    pairs = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    for number, pair in pairs:
        if len(pair) != 2 or not all(part in ids for part in pair):
            raise TokenizerError(f"line {number}, {short(' '.join(pair))}, is no pair of tokens of vocab.json")
    return tuple((ids[left], ids[right]) for _, (left, right) in pairs)
