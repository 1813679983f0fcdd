"""Floor 5. Documents in a row of tokens, and how they are packed into rows of T without looking across borders.

In a token file every document ends in an end-of-text token (elsewhere it begins with one), and that token is also what
a model sees first when it is to write. So a document's inputs run from one end-of-text up to the token before the next,
its targets one token later: every token is an input once and a target once, and no target belongs to a neighbour.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

SCAN = 1 << 22  # tokens looked at together
WINDOW = 4096  # documents that are packed together: chance decides which, so rows stay mixed


class Ids(Protocol):
    """Token ids (n,): an array, a memory map, or a reader of shards."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Pieces:
    """Rows made of pieces: row r holds pieces first[r] … first[r+1] − 1; piece p has `lengths[p]` inputs from
    `starts[p]` on. All int64; starts and lengths (P,), first (rows + 1,)."""

    starts: np.ndarray
    lengths: np.ndarray
    first: np.ndarray

    @classmethod
    def one_each(cls, starts: np.ndarray, lengths: np.ndarray) -> "Pieces":
        """Rows of one piece."""
        return cls(starts, lengths, np.arange(len(starts) + 1))

    def __len__(self) -> int:
        return len(self.first) - 1

    def row(self, number: int) -> list[tuple[int, int]]:
        """(start, length) of each piece of a row."""
        here = slice(self.first[number], self.first[number + 1])
        return list(zip(self.starts[here].tolist(), self.lengths[here].tolist(), strict=True))


def find_documents(ids: Ids, end_of_text: int) -> Pieces:
    """The documents of a text, one to a row. Reads every token once."""
    found = [start + np.flatnonzero(ids[start : start + SCAN] == end_of_text) for start in range(0, len(ids), SCAN)]
    borders = np.unique(np.concatenate([[0], *found, [max(0, len(ids) - 1)]]))  # the last token is nobody's input
    return Pieces.one_each(borders[:-1], np.diff(borders))


def cut_long(documents: Pieces, longest: int) -> Pieces:
    """The same documents; one of more than `longest` tokens becomes several, the last of them with the rest."""
    parts = -(-documents.lengths // longest)
    offsets = longest * (np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts))
    starts = np.repeat(documents.starts, parts) + offsets
    return Pieces.one_each(starts, np.minimum(longest, np.repeat(documents.lengths, parts) - offsets))


def pack(pieces: Pieces, capacity: int, rng: np.random.Generator) -> Pieces:
    """Rows of at most `capacity` tokens that hold every piece once: best fit, in windows of shuffled pieces."""
    order = rng.permutation(len(pieces))
    rows = []
    for start in range(0, len(order), WINDOW):
        window = order[start : start + WINDOW]
        rows += [window[row] for row in best_fit(pieces.lengths[window], capacity)]
    chosen = np.concatenate(rows)
    first = np.cumsum([0, *map(len, rows)])
    return Pieces(pieces.starts[chosen], pieces.lengths[chosen], first)


def best_fit(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Numbers of the pieces in each row: the longest first, each where it leaves the least room, else in a new row.

    Best-fit decreasing needs at most 11/9 of the fewest rows possible, and one more (Johnson et al., SIAM J. Comput. 3,
    1974). Rows with c tokens of room are kept in a list per c, and bit c of an integer says whether there are any: the
    least room that is enough is then the lowest bit above.
    """
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    there = 0
    for piece in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[piece])
        if enough := there >> length:
            room = length + (enough & -enough).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                there &= ~(1 << room)
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(piece)
        if left := room - length:
            with_room[left].append(row)
            there |= 1 << left
    return rows
