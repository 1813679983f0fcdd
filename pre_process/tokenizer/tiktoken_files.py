"""tiktoken's rank files, such as cl100k_base.tiktoken: one token a line, its bytes in base64 and its rank.

    IQ== 0          the byte "!" is token 0
    IHRoZQ== 262    " the" is token 262

There are no merges in it: two neighbours are joined if their bytes together are a token, whatever two they are, and the
token of the lowest rank comes first. That is a list of merges too, with all the ways to cut each token in two. Their
order within one token does not matter: what happens between the borders of a future token is what happens to its bytes
alone, so its two last parts are the same wherever it comes up.

The file says nothing about the pattern or about special tokens: the reader has to be told.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from reprlib import repr as short

from pre_process.files import write_atomic
from pre_process.tokenizer.byte_level import utf8
from pre_process.tokenizer.encoder import apply_merges
from pre_process.tokenizer.json_files import faults_named, read_text
from pre_process.tokenizer.pre_tokenize import PatternName
from pre_process.tokenizer.tokenizer import Tokenizer
from pre_process.tokenizer.vocabulary import TokenizerError, Vocabulary


def read_tiktoken(
    path: str | Path, *, pattern: PatternName = "cl100k", special_tokens: Mapping[str, int] | None = None
) -> Tokenizer:
    """The tokenizer of a rank file: token i is the one of rank i. `special_tokens` are name → id.

    Ids that belong to no token, as cl100k_base has between its special tokens, become special tokens "<|reserved_7|>".
    Raises TokenizerError for a broken file, OSError.
    """
    path, specials = Path(path), dict(special_tokens or {})
    with faults_named(path):
        ids = _read_lines(read_text(path))
        tokens = _placed(ids, specials)
        merges = tuple(_all_splits(ids))
        vocabulary = Vocabulary(tokens, merges, specials, "byte", whole_pieces=True)
    return Tokenizer(vocabulary, pattern=pattern)


def _read_lines(text: str) -> dict[bytes, int]:
    """Token → rank, in the order of the ranks."""
    ids: dict[bytes, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line:
            continue
        token, rank = _read_line(line, number)
        if not token or ids.setdefault(token, rank) != rank:
            raise TokenizerError(f"line {number}: token {short(token)} is {'there twice' if token else 'empty'}")
    return dict(sorted(ids.items(), key=lambda token_and_rank: token_and_rank[1]))


def _read_line(line: str, number: int) -> tuple[bytes, int]:
    encoded, _, rank = line.rstrip("\r").partition(" ")
    try:
        token = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        token = None
    if token is None or not (rank.isascii() and rank.isdigit() and len(rank) < 10):
        raise TokenizerError(f"line {number}, {short(line)}, is not a token in base64 and its rank")
    return token, int(rank)


def _placed(ids: Mapping[bytes, int], specials: dict[str, int]) -> tuple[bytes, ...]:
    """The tokens by id, special ones included; fills the gaps, also in `specials`."""
    names = {token_id: utf8(name) for name, token_id in specials.items()}
    placed = names | {token_id: token for token, token_id in ids.items()}
    if len(placed) < len(ids) + len(specials) or min(placed, default=0) < 0:
        raise TokenizerError("two tokens have the same rank, or a special token has the id of another token")
    size = max(placed, default=-1) + 1
    if size > 2 * len(placed) + 1000:
        raise TokenizerError(f"{len(placed)} tokens with ranks up to {size - 1}: most ranks are missing")
    for token_id in set(range(size)) - placed.keys():
        specials[f"<|reserved_{token_id}|>"] = token_id
    names = {token_id: utf8(name) for name, token_id in specials.items()}
    return tuple(names[i] if i in names else placed[i] for i in range(size))


def _all_splits(ids: Mapping[bytes, int]) -> Iterator[tuple[int, int]]:
    """Every pair of tokens that makes a token, the token of the lowest rank first."""
    find = ids.get
    for token in ids:
        for cut in range(1, len(token)):
            left, right = find(token[:cut]), find(token[cut:])
            if left is not None and right is not None:
                yield left, right


def write_tiktoken(tokenizer: Tokenizer, path: str | Path) -> None:
    """Write a rank file. Raises TokenizerError for a tokenizer that tiktoken would not follow, OSError.

    Read it there by `tiktoken.Encoding(name, pat_str=PATTERNS[tokenizer.pattern], mergeable_ranks=load_tiktoken_bpe(
    path), special_tokens=tokenizer.special_tokens)`.
    """
    vocabulary = tokenizer.vocabulary
    if vocabulary.level != "byte" or tokenizer.normalizer != "none" or tokenizer.lowercase:
        raise TokenizerError("a rank file holds byte-level tokens without a normalizer: use save()")
    if tokenizer.add_prefix_space or vocabulary.needs_greedy:
        raise TokenizerError("a rank file holds merges and no prefix space: use save()")
    _check_ranks_tell_all(vocabulary)
    tokens = sorted(vocabulary.ids.items(), key=lambda token_and_id: token_and_id[1])
    lines = [f"{base64.b64encode(token).decode()} {token_id}\n" for token, token_id in tokens]
    write_atomic(Path(path), "".join(lines).encode())


def _check_ranks_tell_all(vocabulary: Vocabulary) -> None:
    """Raise TokenizerError unless the ids alone lead to the merges, as after training.

    That is so if no merge makes a token of a lower id than the one before, and each token's own bytes are merged into
    that token: then any two neighbours that spell a token are the two that a merge joins. It is also so if all ways to
    cut a token in two are merges, as in what `read_tiktoken` returns.
    """
    made = [token_id for _, token_id in vocabulary.ranks.values()]
    if any(first > second for first, second in pairwise(made)):
        raise TokenizerError("the ids are not in the order of the merges, which is all a rank file holds: use save()")
    if vocabulary.whole_pieces and vocabulary.ranks.keys() >= set(_all_splits(vocabulary.ids)):
        return
    if (token := unmerged(vocabulary)) is not None:
        raise TokenizerError(f"no merges lead to token {short(token)}, as a rank file has it: use save()")


def unmerged(vocabulary: Vocabulary) -> bytes | None:
    """The first token whose own bytes are merged into something else, if there is one."""
    for token, token_id in vocabulary.ids.items():
        if apply_merges(vocabulary.byte_ids(token), vocabulary.ranks) != [token_id]:
            return token
    return None
