"""Text → ids, the loop: cut out a piece, look it up among the pieces seen lately, encode it if it is not there."""

import numpy as np

from pre_process.tokenizer.kernels.apply_merges import FEW, MANY, Merges, join_few, join_many
from pre_process.tokenizer.kernels.heap_merges import join_by_heap
from pre_process.tokenizer.kernels.keys import piece_key
from pre_process.tokenizer.kernels.piece_cache import LONGEST, PieceCache, find, recall, remember
from pre_process.tokenizer.kernels.scanner import scan
from pre_process.tokenizer.kernels.support import helper, kernel, lean
from pre_process.tokenizer.kernels.trie import Trie, longest_match

MERGES, WHOLE_PIECES, GREEDY = range(3)  # the rules: see `_encode_piece`
SLACK = 3  # ids of room that are written to before it is known how many are needed
_ENDS = 4096  # pieces that are cut out at a time


@kernel
def encode_documents(
    text: np.ndarray,
    starts: np.ndarray,
    pattern: int,
    table: np.ndarray,
    rule: int,
    merges: Merges,
    trie: Trie,
    cache: PieceCache,
    out: np.ndarray,
    id_starts: np.ndarray,
) -> None:
    """Write the ids of all documents to `out`, those of document d from id_starts[d] to id_starts[d + 1].

    text       uint8, UTF-8 with PADDING behind; document d is text[starts[d]:starts[d + 1]]
    pattern    which one, and `table`, the classes of characters: see scanner.scan
    rule       MERGES, WHOLE_PIECES or GREEDY; merges, trie: Merges and Trie
    cache      PieceCache of this vocabulary and this rule
    out        int32, at least an id for each byte, and SLACK
    """
    ends, memory = np.empty(_ENDS, np.int64), np.empty((2, FEW), np.int32)
    n_out = 0
    for d in range(len(starts) - 1):
        id_starts[d] = n_out
        at = starts[d]
        while at < starts[d + 1]:
            n_pieces = scan(text, at, starts[d + 1], pattern, table, ends)
            n_out = _encode_pieces(text, at, ends[:n_pieces], rule, merges, trie, cache, memory, out, n_out)
            at = ends[n_pieces - 1]
    id_starts[len(starts) - 1] = n_out


@lean
def _encode_pieces(
    text: np.ndarray,
    at: int,
    ends: np.ndarray,
    rule: int,
    merges: Merges,
    trie: Trie,
    cache: PieceCache,
    memory: np.ndarray,
    out: np.ndarray,
    n_out: int,
) -> int:
    """Append the ids of neighbouring pieces, from `at` on, to `out`; return how many there are then."""
    for end in ends:
        size = end - at
        low, high = piece_key(text, at, size)
        slot = find(cache, low, high, text, at, size)
        if cache.slots[slot, 1] != 0:
            n_out = recall(cache, slot, out, n_out)
        else:
            first = n_out
            n_out = _encode_piece(text, at, end, rule, merges, trie, memory, out, n_out)
            if size <= LONGEST:
                remember(cache, slot, low, high, text, at, size, out, first, n_out - first)
        at = end
    return n_out


@lean
def _encode_piece(
    text: np.ndarray,
    at: int,
    end: int,
    rule: int,
    merges: Merges,
    trie: Trie,
    memory: np.ndarray,
    out: np.ndarray,
    n_out: int,
) -> int:
    """Append the ids of one piece: by merges, by merges unless the whole piece is a token, or the longest tokens."""
    if rule == GREEDY:
        while at < end:
            out[n_out], at = longest_match(text, at, end, trie)
            n_out += 1
        return n_out
    if rule == WHOLE_PIECES:
        out[n_out], match_end = longest_match(text, at, end, trie)
        if match_end == end:
            return n_out + 1
    if end - at > FEW:
        return _encode_long_piece(text, at, end, merges, out, n_out)
    count = join_few(text, at, end, merges, memory[0], memory[1])
    for k in range(count):
        out[n_out + k] = memory[0, k]
    return n_out + count


@helper
def _encode_long_piece(text: np.ndarray, at: int, end: int, merges: Merges, out: np.ndarray, n_out: int) -> int:
    if merges.in_order and end - at >= MANY:
        return join_many(text, at, end, merges, out, n_out)
    return join_by_heap(text, at, end, merges, out, n_out)
