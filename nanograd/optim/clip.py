"""Floor 4. The length of the whole gradient, and a bound on it."""

import math

import numpy as np

from nanograd import backend
from nanograd.backend import Array
from nanograd.optim.compiled import compiled, compiled_for_gpu
from nanograd.optim.flat import FlatParameters

LONGEST = float(np.finfo(np.float32).max) ** 0.5  # 1.8·10¹⁹: the square of a longer gradient is infinite in float32
ROW = 1024  # squares are summed in the gradients' dtype inside a row, in float64 over rows


class NonFiniteGradientError(ArithmeticError):
    """The gradient holds an infinity or a NaN: the step must not be taken. `norm` says which, `name` whose it is."""

    def __init__(self, norm: float, name: str = "") -> None:
        super().__init__(
            f"the gradient of {name} has the norm {norm:.2g}"
            if name
            else f"the gradient's norm is {norm}: lower the learning rate, or skip this batch"
        )
        self.norm = norm


def grad_norm(flat: FlatParameters) -> float:
    """‖g‖₂ over all parameters. One float32 dot product over 13 million of them would be off in the third digit."""
    return math.sqrt(sum_of_squares(flat.gradients))


def sum_of_squares(g: Array) -> float:
    """Σ g² of an array (n,)."""
    if (kernels := compiled(g)) is not None:
        return float(kernels.sum_of_squares(g))
    return float(squares(g))


def squares(g: Array) -> Array:
    """Σ g² of an array (n,), as a float64 number that stays on the device."""
    xp = backend.array_module(g)
    if (on_gpu := compiled_for_gpu(g, "clip")) is not None and on_gpu.takes(g):
        return on_gpu.squares(xp, g)
    whole = len(g) - len(g) % ROW
    rows, rest = g[:whole].reshape(-1, ROW), g[whole:]
    with np.errstate(over="ignore", invalid="ignore"):  # the caller looks at the result instead
        return xp.einsum("ij,ij->i", rows, rows).astype(xp.float64).sum() + xp.dot(rest, rest)


def clip_scale(flat: FlatParameters, max_norm: float) -> tuple[float, float]:
    """The length of the gradient, and the factor ≤ 1 that makes it `max_norm` if it is longer: for AdamW.step.

    Raises NonFiniteGradientError if the length is infinite or NaN.
    Source: Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural networks", 2013, §3.2.
    """
    norm = grad_norm(flat)
    if not math.isfinite(norm):
        raise NonFiniteGradientError(norm)
    return norm, scale_to(norm, max_norm)


def scale_to(norm: float, max_norm: float) -> float:
    """The factor ≤ 1 that makes a gradient of this length `max_norm` long, if it is longer."""
    return max_norm / norm if norm > max_norm else 1.0


def clip_grad_norm(flat: FlatParameters, max_norm: float) -> float:
    """Scale the gradient itself down to length `max_norm` if it is longer. Returns its length before that.

    Raises NonFiniteGradientError, leaving the gradient as it is, if the length is infinite or NaN.
    """
    norm, scale = clip_scale(flat, max_norm)
    if scale != 1:
        flat.gradients *= scale
    return norm
