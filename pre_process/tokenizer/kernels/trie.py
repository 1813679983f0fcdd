"""The longest token that begins at a place: a tree of all tokens, read byte by byte.

Each node is a beginning that at least one token has; node 0 is the empty one. The children of all nodes lie in one hash
table, (node, byte) → node, so a step costs the same however many children a node has. Fredkin 1960.
"""

from typing import Any, NamedTuple

import numpy as np

from pre_process.tokenizer.kernels.support import kernel, lean

NONE = np.int32(-1)
_MULTIPLIER = 0x9E3779B97F4A7C15 - 2**64


class Trie(NamedTuple):
    """Tokens as a tree. An entry of `children` is node · 256 + byte, and the child; −1 where it is empty."""

    children: np.ndarray  # (slots, 2) int64
    ids: np.ndarray  # (nodes,) int32: the token that ends in this node, NONE if there is none


def make_trie(data: np.ndarray, starts: np.ndarray, ids: np.ndarray) -> Trie:
    """The trie of the tokens data[starts[k]:starts[k + 1]], with ids (N,) int32."""
    children = np.full((1 << (2 * int(starts[-1])).bit_length(), 2), -1)
    node_ids = np.full(starts[-1] + 1, NONE)
    n_nodes = _plant(data, starts, ids, children, node_ids)
    return Trie(children, node_ids[:n_nodes].copy())


@kernel
def _plant(data: np.ndarray, starts: np.ndarray, ids: np.ndarray, children: np.ndarray, node_ids: np.ndarray) -> int:
    n_nodes = 1
    for k in range(len(ids)):
        node = 0
        for place in range(starts[k], starts[k + 1]):
            slot = _slot(children, node, data[place])
            if children[slot, 0] < 0:
                children[slot, 0], children[slot, 1] = node << 8 | np.int64(data[place]), n_nodes
                n_nodes += 1
            node = children[slot, 1]
        node_ids[node] = ids[k]
    return n_nodes


@lean
def _slot(children: np.ndarray, node: int, byte: int) -> Any:
    """Where the child of `node` by `byte` is, or would be."""
    key, mask = node << 8 | np.int64(byte), len(children) - 1
    slot = key * _MULTIPLIER >> 20 & mask
    while children[slot, 0] >= 0 and children[slot, 0] != key:
        slot = slot + 1 & mask
    return slot


@lean
def longest_match(data: np.ndarray, start: int, end: int, trie: Trie) -> tuple[Any, int]:
    """(id, its end) of the longest token that data[start:end] begins with; (NONE, start) if there is none."""
    found, found_end, node = NONE, start, 0
    for place in range(start, end):
        slot = _slot(trie.children, node, data[place])
        if trie.children[slot, 0] < 0:
            break
        node = trie.children[slot, 1]
        if trie.ids[node] != NONE:
            found, found_end = trie.ids[node], place + 1
    return found, found_end
