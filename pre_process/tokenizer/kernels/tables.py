"""A vocabulary as the arrays that kernels read."""

from collections.abc import Collection, Mapping

import numpy as np

from pre_process.tokenizer.batch import starts_of
from pre_process.tokenizer.kernels.apply_merges import Merges, last_joins
from pre_process.tokenizer.kernels.pair_ranks import MOST_MERGES, MOST_TOKENS, pair_ranks, ranks_in
from pre_process.tokenizer.kernels.support import padded
from pre_process.tokenizer.kernels.trie import Trie, make_trie
from pre_process.tokenizer.vocabulary import Vocabulary

MOST_STEPS = 1 << 28  # `last_joins` takes the square of a token's bytes: a third of a second for all, or one of 16 KB


def fits(vocabulary: Vocabulary) -> bool:
    """Can kernels encode with it? Its ids and ranks must fit into the bits of a table, its tokens be not too long."""
    few_enough = len(vocabulary.tokens) <= MOST_TOKENS and len(vocabulary.merges) <= MOST_MERGES
    return few_enough and sum(len(token) ** 2 for token in vocabulary.ids) <= MOST_STEPS


def merges_of(vocabulary: Vocabulary) -> Merges:
    """The merges, for a vocabulary that `fits`, but for those that no text ever uses: see `_used`."""
    parts = np.array(vocabulary.merges, np.int64).reshape(-1, 2)
    merges = Merges(
        symbols=_symbols(vocabulary),
        pairs=pair_ranks(parts, np.arange(len(parts))),
        made=np.array([token_id for _, token_id in vocabulary.ranks.values()], np.int32),
        lengths=np.array([len(token) for token in vocabulary.tokens], np.int32),
        in_order=False,
    )
    used = _used(vocabulary, merges, parts)
    made_at = np.full(len(vocabulary.tokens), -1)
    made_at[merges.made[used]] = used
    in_order = bool((made_at[parts[used]] < used[:, None]).all())
    return merges._replace(pairs=pair_ranks(parts[used], used), in_order=in_order)


def _used(vocabulary: Vocabulary, merges: Merges, parts: np.ndarray) -> np.ndarray:
    """The ranks of merges that are ever used. Of several that make one token, it is the last that its bytes go through.

    For wherever two tokens stand side by side, the bytes of the two, taken alone, would have gone through the same
    joins, since none crossed their ends; and there is one way that bytes go. So what two tokens are joined to, no other
    two are.
    """
    data, starts = laid_out([vocabulary.tokens[token_id] for token_id in merges.made.tolist()])
    last = np.empty((2, len(parts)), np.int32)
    last_joins(data, starts, merges, last[0], last[1])
    return np.flatnonzero((parts == last.T).all(axis=1))


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


def trie_of(ids: Mapping[bytes, int]) -> Trie:
    """The trie of some tokens and their ids."""
    return make_trie(*laid_out(ids), np.array(list(ids.values()), np.int32))


def reached(vocabulary: Vocabulary, merges: Merges) -> dict[bytes, int]:
    """The tokens that their own bytes are merged to: those that merges make, and the first symbols."""
    made = np.zeros(len(vocabulary.tokens), np.bool_)
    made[merges.made[ranks_in(merges.pairs)]] = True
    made[merges.symbols[merges.symbols >= 0]] = True
    return {token: token_id for token, token_id in vocabulary.ids.items() if made[token_id]}


def no_trie() -> Trie:
    """For where no longest match is asked for: of the type that kernels are compiled for."""
    return Trie(np.full((1, 2), -1), np.full(1, -1, np.int32))


def laid_out(tokens: Collection[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """All tokens behind each other, padded, and where each begins, the end of the last included (N + 1,)."""
    return padded(*tokens), starts_of([len(token) for token in tokens])
