"""Floor 5. Several texts mixed by weight: which of them number i comes from, and how many of it came before."""

from collections.abc import Sequence

import numpy as np

from nanograd import random
from nanograd.data.layouts import DataError

BLOCK = 1024


class Mixture:
    """Of every BLOCK draws each source has its exact share, rounded; chance decides their order within the block.

    So how often a source was drawn before number i needs no counting from the start, and shares hold everywhere.
    """

    def __init__(self, weights: Sequence[float], *, seed: int) -> None:
        self.counts, self.seed = shares(weights, BLOCK), seed
        self._block: tuple[int, np.ndarray, np.ndarray] = (-1, np.empty(0), np.empty(0))

    def place(self, number: int) -> tuple[int, int]:
        """(source, which draw from it) of draw `number` = 0, 1, 2, …"""
        if len(self.counts) == 1:
            return 0, number
        block, i = divmod(number, BLOCK)
        at = self._block
        if at[0] != block:
            at = self._block = (block, *self._shuffle(block))
        source = int(at[1][i])
        return source, block * int(self.counts[source]) + int(at[2][i])

    def _shuffle(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.repeat(np.arange(len(self.counts)), self.counts)
        random.generator(self.seed, f"mixture {block}").shuffle(order)
        before = np.empty_like(order)
        for source, count in enumerate(self.counts):
            before[order == source] = np.arange(count)
        return order, before


def shares(weights: Sequence[float], total: int) -> np.ndarray:
    """Whole numbers in proportion to the weights that add up to `total`: largest remainders are rounded up.

    Raises DataError for a weight that is not positive, or too small for one in `total`.
    """
    if not all(0 < weight < float("inf") for weight in weights):
        raise DataError(f"weights of --data must be positive numbers, not {', '.join(f'{w:g}' for w in weights)}")
    exact = np.array(weights) / sum(weights) * total
    counts = np.floor(exact).astype(np.int64)
    missing = total - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    if counts.min() == 0:
        raise DataError(f"a weight of --data is less than 1/{total} of their sum: leave that text out or raise it")
    return counts
