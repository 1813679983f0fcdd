"""Floor 5. Layouts: how a text is cut into rows of at most T tokens, and what order an epoch deals them in.

A piece is n inputs and, one token later, n targets. A row is one piece or several, a group the rows that stay together.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nanograd.data.packing import Pieces, cut_long, pack


class DataError(ValueError):
    """Too few tokens for what was asked: one line that says how many there are and what to do."""


@dataclass(frozen=True)
class Deal:
    """What an epoch deals: rows (as pieces of text), and the numbers (n_groups, rows in a group) in their order."""

    rows: Pieces
    order: np.ndarray


class Layout(Protocol):
    """Deals the same number of groups in every epoch: then where batch i lies is a division, not a memory."""

    n_groups: int
    rows_per_group: int

    def deal(self, rng: np.random.Generator) -> Deal:
        """The rows of one epoch in an order drawn from `rng`; no token is a target twice."""
        ...


class Windows:
    """Any T tokens that follow each other; every epoch cuts the text anew, at another phase.

    Source of the scheme: sampling without replacement, as in Shamir, NeurIPS 2016; each token counts once an epoch.
    """

    rows_per_group = 1

    def __init__(self, n_tokens: int, context_length: int) -> None:
        self.context_length = context_length
        self.n_groups = (n_tokens - 1) // context_length - 1  # one is spent on the random phase
        if self.n_groups < 1:
            raise DataError(
                f"the training text has {n_tokens:,} tokens, too few for --context-length {context_length}: "
                "give more --data or a shorter context"
            )

    def deal(self, rng: np.random.Generator) -> Deal:
        """As Layout.deal."""
        starts = int(rng.integers(self.context_length)) + self.context_length * np.arange(self.n_groups)
        rows = Pieces.one_each(starts, np.full(self.n_groups, self.context_length))
        return Deal(rows, rng.permutation(self.n_groups)[:, None])


class Packed:
    """Whole documents laid into rows of T; only those longer than T are cut. Which share a row is settled once.

    A token sees its own document alone, so it makes no difference to it who its neighbours in the row are: dealing
    the rows in another order is all an epoch has to do.
    """

    rows_per_group = 1

    def __init__(self, documents: Pieces, context_length: int, rng: np.random.Generator) -> None:
        self.rows = pack(cut_long(documents, context_length), context_length, rng)
        self.n_groups = len(self.rows)

    def deal(self, rng: np.random.Generator) -> Deal:
        """As Layout.deal."""
        return Deal(self.rows, rng.permutation(self.n_groups)[:, None])


class Padded:
    """A document to a row, rows of about the same length in a batch: what is filled up is little.

    An epoch shuffles the documents, parts them into buckets of BUCKET batches or more, sorts each by length, cuts it
    into batches and shuffles all batches. The last documents, which fill no batch, wait for another epoch.
    """

    BUCKET = 128

    def __init__(self, documents: Pieces, context_length: int, batch_size: int) -> None:
        self.rows, self.rows_per_group = cut_long(documents, context_length), batch_size
        self.n_groups = len(self.rows) // batch_size
        if self.n_groups < 1:
            raise DataError(
                f"the training text has {len(self.rows):,} documents (or parts), too few for a batch of "
                f"--batch-size {batch_size} with --layout padded"
            )

    def deal(self, rng: np.random.Generator) -> Deal:
        """As Layout.deal."""
        order = rng.permutation(len(self.rows))[: self.n_groups * self.rows_per_group]
        batches = order.reshape(self.n_groups, self.rows_per_group)
        buckets = np.array_split(batches, max(1, self.n_groups // self.BUCKET))
        return Deal(self.rows, rng.permutation(np.concatenate([self._by_length(bucket) for bucket in buckets])))

    def _by_length(self, bucket: np.ndarray) -> np.ndarray:
        flat = bucket.ravel()
        return flat[np.argsort(self.rows.lengths[flat], kind="stable")].reshape(bucket.shape)
