"""Floor 5. Memory-mapped token files → batches. The one place where targets are shifted by one."""

from collections.abc import Iterator

import numpy as np

from nanograd import random
from pre_process.token_shards import Tokens
from pre_process.token_shards import open_tokens as open_tokens

Batch = tuple[np.ndarray, np.ndarray]  # inputs and targets, both (B, T) int64; targets[b, t] follows inputs[b, t]


class DataError(ValueError):
    """Too few tokens for what was asked: one line that says how many there are and what to do."""


class TrainingBatches:
    """Random windows without replacement: every epoch cuts the tokens anew and deals the pieces in a new order.

    Batch `i` depends on (seed, i) alone, so a run can be continued anywhere.
    Source of the scheme: sampling without replacement, as in Shamir, NeurIPS 2016; each token counts once an epoch.
    """

    def __init__(self, ids: Tokens | np.ndarray, *, batch_size: int, context_length: int, seed: int) -> None:
        self.ids, self.batch_size, self.context_length, self.seed = ids, batch_size, context_length, seed
        self.windows = (len(ids) - 1) // context_length - 1  # one is spent on the random phase
        if self.windows < 1:
            raise DataError(
                f"the training text has {len(ids):,} tokens, too few for --context-length {context_length}: "
                "give more --data or a shorter context"
            )
        self._epoch, self._starts = -1, np.empty(0, np.int64)

    def batch(self, index: int) -> Batch:
        """Inputs and targets of micro-batch `index` = 0, 1, 2, …"""
        first = index * self.batch_size
        starts = np.array([self._start(i) for i in range(first, first + self.batch_size)])
        return _windows(self.ids, starts, self.context_length)

    def _start(self, window: int) -> int:
        epoch, i = divmod(window, self.windows)
        if epoch != self._epoch:
            rng = random.generator(self.seed, f"data epoch {epoch}")
            phase = rng.integers(self.context_length)
            self._epoch, self._starts = epoch, phase + self.context_length * rng.permutation(self.windows)
        return int(self._starts[i])


def validation_batches(
    ids: Tokens | np.ndarray, *, batch_size: int, context_length: int, max_tokens: int = 0
) -> Iterator[Batch]:
    """Windows side by side from the start, always the same; at most `max_tokens` targets (0: all).

    Raises DataError if not even one window fits.
    """
    windows = (len(ids) - 1) // context_length
    if windows < 1:
        raise DataError(
            f"the validation text has {len(ids):,} tokens, too few for --context-length {context_length}: "
            "raise --val-fraction, give more --data or a shorter context"
        )
    if max_tokens:
        windows = min(windows, max(1, max_tokens // context_length))
    for first in range(0, windows, batch_size):
        starts = context_length * np.arange(first, min(first + batch_size, windows))
        yield _windows(ids, starts, context_length)


def _windows(ids: Tokens | np.ndarray, starts: np.ndarray, context_length: int) -> Batch:
    pieces = ids[starts[:, None] + np.arange(context_length + 1)].astype(np.int64)
    return pieces[:, :-1], pieces[:, 1:]
