"""A vocabulary as the arrays that kernels read."""

from collections.abc import Collection

import numpy as np

from pre_process.tokenizer.batch import starts_of
from pre_process.tokenizer.kernels.apply_merges import Merges, last_joins
from pre_process.tokenizer.kernels.pair_ranks import MOST_MERGES, MOST_TOKENS, pair_ranks
from pre_process.tokenizer.kernels.support import padded
from pre_process.tokenizer.kernels.trie import Trie, make_trie
from pre_process.tokenizer.vocabulary import Vocabulary

_LONGEST_TOKEN = 1 << 10  # bytes; joining these takes the square of their length


def fits(vocabulary: Vocabulary) -> bool:
    """Can kernels encode with it? Its ids and ranks must fit into the bits of a table."""
    return len(vocabulary.tokens) <= MOST_TOKENS and len(vocabulary.merges) <= MOST_MERGES


def merges_of(vocabulary: Vocabulary) -> Merges:
    """The merges, for a vocabulary that `fits`."""
    parts = np.array(vocabulary.merges, np.int64).reshape(-1, 2)
    merges = Merges(
        symbols=_symbols(vocabulary),
        pairs=pair_ranks(parts[:, 0].copy(), parts[:, 1].copy()),
        made=np.array([token_id for _, token_id in vocabulary.ranks.values()], np.int32),
        lengths=np.array([len(token) for token in vocabulary.tokens], np.int32),
        in_order=False,
    )
    return merges._replace(in_order=_in_order(vocabulary, merges, parts))


def _symbols(vocabulary: Vocabulary) -> np.ndarray:
    """See Merges.symbols: Vocabulary.symbols as a table."""
    byte_ids = np.array(vocabulary.byte_ids(bytes(range(256))), np.int32)
    if vocabulary.level == "byte":
        return byte_ids
    characters = {_code_point(token): token_id for token, token_id in vocabulary.ids.items()}
    characters.pop(-1, None)
    character_ids = np.full(max(characters) + 1, -1, np.int32)
    character_ids[list(characters)] = list(characters.values())
    return np.concatenate([byte_ids, character_ids])


def _code_point(token: bytes) -> int:
    """Of the one character that the token is; −1 if it is something else."""
    try:
        return ord(token[:5].decode("utf-8", "surrogatepass"))
    except (TypeError, UnicodeDecodeError):
        return -1


def _in_order(vocabulary: Vocabulary, merges: Merges, parts: np.ndarray) -> bool:
    """Is each token made after its parts? Of several merges that make one token, only one is ever used: the last
    that its own bytes go through. For wherever two tokens stand side by side, the bytes of the two, taken alone, have
    gone through the same joins, and there is one way that bytes go."""
    if merges.lengths.max() > _LONGEST_TOKEN:
        return False
    data, starts = _laid_out([vocabulary.tokens[token_id] for token_id in merges.made.tolist()])
    last = np.empty((2, len(parts)), np.int32)
    last_joins(data, starts, merges, last[0], last[1])
    used = np.flatnonzero((parts == last.T).all(axis=1))
    made_at = np.full(len(vocabulary.tokens), -1)
    made_at[merges.made[used]] = used
    return bool((made_at[parts[used]] < used[:, None]).all())


def trie_of(vocabulary: Vocabulary) -> Trie:
    """All tokens but the special ones."""
    data, starts = _laid_out(vocabulary.ids)
    return make_trie(data, starts, np.array(list(vocabulary.ids.values()), np.int32))


def no_trie() -> Trie:
    """For where no longest match is asked for: of the type that kernels are compiled for."""
    return Trie(np.full((1, 2), -1), np.full(1, -1, np.int32))


def _laid_out(tokens: Collection[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """All tokens behind each other, padded, and where each begins, the end of the last included (N + 1,)."""
    return padded(*tokens), starts_of([len(token) for token in tokens])
