"""Floor 4. A matrix to the nearest one whose rows are orthonormal, by matrix products alone."""

from collections.abc import Sequence
from typing import Any

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
    x = g.T if tall else g  # A is then as small as possible
    x = x / xp.maximum(xp.sqrt(xp.sum(x * x)), 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if tall else x


def orthogonalize_all(flat: Array, shapes: Sequence[tuple[int, int]]) -> None:
    """`orthogonalize` in place for matrices of these shapes that lie one behind the other in `flat` (n,)."""
    if (kernels := _compiled(flat)) is not None:
        kernels.orthogonalize_all(flat, shapes, COEFFICIENTS, STEPS)
        return
    start = 0
    for shape in shapes:
        x = flat[start : start + shape[0] * shape[1]].reshape(shape)
        x[...] = orthogonalize(x)
        start += x.size


def _compiled(x: Array) -> Any | None:
    """The kernels for an array like `x`, or None: then the formula runs, with BLAS's or CuPy's products."""
    if type(x) is not np.ndarray or x.dtype != np.float32 or not backend.kernels_enabled():
        return None
    from nanograd.kernels.cpu import newton_schulz
    from nanograd.kernels.cpu.cpu_features import has_avx512

    return newton_schulz if has_avx512() else None
