"""Floor 4. A matrix to the nearest one whose rows are orthonormal, by matrix products alone."""

import numpy as np

from nanograd import backend
from nanograd.backend import Array

COEFFICIENTS = 3.4445, -4.7750, 2.0315
STEPS = 5


def orthogonalize(g: Array) -> Array:
    """g = U S Vᵀ (rows, columns) → about U Vᵀ, by five steps of a Newton–Schulz iteration:

        X = g / ‖g‖,     X ← a X + (b A + c A²) X,   A = X Xᵀ

    Each step turns a singular value s into a s + b s³ + c s⁵ and leaves the singular vectors alone. The coefficients
    make the slope at 0 as steep as possible, so that small ones grow fast; the price is that they end between about 0.7
    and 1.2 instead of at 1, which does not matter for training.   Jordan et al., "Muon", 2024,
    https://kellerjordan.github.io/posts/muon
    """
    xp, tall = backend.array_module(g), g.shape[0] > g.shape[1]
    x = xp.ascontiguousarray(g.T if tall else g)  # A is then as small as possible
    x = x / xp.maximum(xp.sqrt(xp.sum(x * x)), 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = _product(x, x, transpose=True)
        polynomial = _product(gram, gram)
        polynomial *= c
        polynomial += b * gram
        polynomial.reshape(-1)[:: len(polynomial) + 1] += a  # on the diagonal
        x = _product(polynomial, x)
    return x.T if tall else x


def _product(a: Array, b: Array, *, transpose: bool = False) -> Array:
    """a b, or a bᵀ: by the project's own product where that is compiled, in the precision that is set there."""
    if not (type(a) is np.ndarray and a.dtype == np.float32 and backend.kernels_enabled()):
        return a @ (b.T if transpose else b)
    from nanograd.kernels.cpu.gemm import product

    out = np.empty((len(a), len(b) if transpose else b.shape[1]), np.float32)
    return product(a, b, out, transpose_b=transpose)
