"""Floor 4. A matrix to the nearest one whose rows are orthonormal, by matrix products alone."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from nanograd import backend
from nanograd.backend import Array
from nanograd.optim.compiled import compiled_for_gpu

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


def orthogonalize_all(flat: Array, shapes: Sequence[tuple[int, int]], *, may_round: bool = False) -> None:
    """`orthogonalize` in place for matrices of these shapes that lie one behind the other in `flat` (n,).

    may_round  products may round their factors to 11 bits where that is faster: on a GPU, several times
    """
    if (compiled := _compiled(flat, may_round)) is not None:
        compiled(flat, shapes, COEFFICIENTS, STEPS)
        return
    start = 0
    for shape in shapes:
        x = flat[start : start + shape[0] * shape[1]].reshape(shape)
        x[...] = orthogonalize(x)
        start += x.size


def _compiled(x: Array, may_round: bool) -> Callable[..., None] | None:
    """The compiled function for an array like `x`, or None: then the formula runs, with BLAS's or CuPy's products."""
    if x.dtype != np.float32 or not backend.kernels_enabled():
        return None
    if type(x) is np.ndarray:
        from nanograd.kernels.cpu import newton_schulz
        from nanograd.kernels.cpu.cpu_features import has_avx512

        return newton_schulz.orthogonalize_all if has_avx512() else None
    on_gpu = compiled_for_gpu(x, "newton_schulz")
    return None if on_gpu is None else functools.partial(on_gpu.orthogonalize_all, may_round=may_round)
