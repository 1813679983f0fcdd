"""Floor 4. Positions: where a token stands, as a number, and as a vector that is added to the token's own."""

import numpy as np

from nanograd import backend, ops
from nanograd.backend import Array
from nanograd.nn.layers import Embedding
from nanograd.nn.module import Constant, Module
from nanograd.tensor import Tensor
from pre_process.encode_position import sinusoidal


class SinusoidalPositions(Module):
    """Sines and cosines of geometrically spaced wavelengths.   positions (…) → (…, d_model)

    Nothing is learned and nothing is saved: the table follows from its two sizes. Vaswani et al. 2017, §3.5.
    """

    def __init__(self, context_length: int, d_model: int) -> None:
        self.table = Constant(sinusoidal(context_length, d_model, dtype=np.float32))

    def forward(self, positions: Array) -> Tensor:
        return ops.embedding(self.table, positions)


class LearnedPositions(Embedding):
    """A free vector for each position, as in GPT-2.   positions (…) → (…, d_model)"""


def document_starts(documents: Array) -> Array:
    """The column in which each token's document begins.   documents (B, T) integers → (B, T) integers

    A document is a run of equal numbers: the next one begins where the number changes.
    """
    xp, (B, T) = backend.array_module(documents), documents.shape
    rows, columns = xp.arange(B)[:, None], xp.arange(T)
    begins = xp.concatenate([xp.ones((B, 1), bool), documents[:, 1:] != documents[:, :-1]], axis=1)
    number = xp.cumsum(begins, axis=1) - 1  # 0, 1, 2, … along the row
    first = xp.zeros((B, T + 1), columns.dtype)  # of each document; what is none goes to the last column
    first[rows, xp.where(begins, number, T)] = xp.broadcast_to(columns, (B, T))
    return first[rows, number]


def token_positions(ids: Array, padding_mask: Array | None = None, starts: Array | None = None) -> Array:
    """0, 1, 2, … along each document: (T,), or with a padding mask or starts (B, T). Only real tokens are counted.

    ids     (B, T, …) says how long and on which device
    starts  (B, T), where each token's document begins (`document_starts`); without them a sequence is one document
    So a sequence that is padded on the left, or that stands behind others, has the same positions as alone. Padding
    itself gets the number of the token before it (0 at the start); nobody looks there.
    """
    xp = backend.array_module(ids)
    if padding_mask is None:
        return xp.arange(ids.shape[1]) if starts is None else xp.arange(ids.shape[1]) - starts
    counted = xp.cumsum(padding_mask, axis=1)
    if starts is not None:
        rows = xp.arange(len(ids))[:, None]
        counted = counted - counted[rows, starts] + padding_mask[rows, starts]
    return xp.maximum(counted - 1, 0)
