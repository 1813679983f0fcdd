"""Floor 3. Σ g² over a whole gradient, which stays on the device. Twin of nanograd.optim.clip.squares.

Memory traffic: the gradient once.
"""

import numpy as np

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cuda.launch import aligned, launch, type_name

THREADS, BLOCKS = 256, 1056  # eight blocks for each SM of an H100. Always so many: the order decides the last digits


def takes(g: Array) -> bool:
    """Whether there are kernels for this array."""
    return g.ndim == 1 and type_name(g.dtype) is not None and bool(g.flags.c_contiguous)


def squares(xp: ArrayModule, g: Array) -> Array:
    """Σ g² of an array (n,) that `takes` accepts: float64 (), added up in the same order each time."""
    if not g.size:
        return xp.zeros((), np.float64)
    blocks = min(BLOCKS, -(-g.size // THREADS))
    partial, total = xp.empty(blocks, np.float32), xp.empty((), np.float64)
    launch(xp, f"squares_{type_name(g.dtype)}", blocks, THREADS, g, partial, np.int64(g.size), int(aligned(g)))
    launch(xp, "sum_of_squares", 1, THREADS, partial, total, blocks)
    return total
