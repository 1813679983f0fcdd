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


def token_positions(ids: Array, padding_mask: Array | None = None) -> Array:
    """0, 1, 2, … along each sequence: (T,), or with a padding mask (B, T), where only real tokens are counted.

    ids  (B, T, …) says how long and on which device

    So a sequence that is padded on the left has the same positions as without padding. Padding itself gets the
    number of the token before it (0 at the start); nobody looks there.
    """
    xp = backend.array_module(ids)
    if padding_mask is None:
        return xp.arange(ids.shape[1])
    return xp.maximum(xp.cumsum(padding_mask, axis=1) - 1, 0)
