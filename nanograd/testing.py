"""Floor 5. Is backward the slope of forward? For the operations here, and for those you write yourself.

Case(ops.softmax, (2, 3, 5), axis=1)                 one way to call an operation
gradient_check(ops.softmax, [x], …)                  AssertionError unless the gradient is right
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nanograd import backend
from nanograd.backend import Array, array_module
from nanograd.tensor import Tensor, no_grad


class Case:
    """One way to call an operation.

    op        takes tensors and settings, returns a tensor
    inputs    for each array: a shape (floats are drawn), or an array, a number or None that is given as it is
    within    the range that the floats are drawn from: where the operation is defined and smooth
    overflows why large inputs may overflow by right; None if they must not
    """

    def __init__(
        self,
        op: Callable[..., Tensor],
        *inputs: Any,
        within: tuple[float, float] = (-2.0, 2.0),
        overflows: str | None = None,
        **settings: Any,
    ) -> None:
        self.op, self.inputs, self.within, self.overflows, self.settings = op, inputs, within, overflows, settings
        self.name: str = getattr(op, "__name__", repr(op))

    def draw(self, seed: int = 0, dtype: Any = np.float64) -> list[Any]:
        """NumPy inputs: the same for the same seed."""
        rng = np.random.default_rng(seed)
        low, high = self.within
        return [np.asarray(rng.uniform(low, high, x), dtype) if isinstance(x, tuple) else x for x in self.inputs]

    def call(self, inputs: Sequence[Any], move: Callable[[Any], Any] = lambda array: array) -> Tensor:
        """op(*inputs, **settings); `move` brings the arrays within the settings to where the inputs are."""
        return self.op(*inputs, **{name: _moved(value, move) for name, value in self.settings.items()})

    def __repr__(self) -> str:
        parts = [*map(_brief, self.inputs), *(f"{name}={_brief(value)}" for name, value in self.settings.items())]
        return f"{self.name}({', '.join(parts)})"


def value_and_gradients(
    f: Callable[..., Tensor], arrays: Sequence[Any], dy: Array | None = None
) -> tuple[Array, list[Array | None]]:
    """f(*arrays), and the gradient of ⟨f, dy⟩ for each floating-point array, in their order.

    dy is drawn at random unless given. A gradient is None where the value does not depend on the array.
    """
    inputs = [Tensor(a, requires_grad=True) if is_floating(a) else a for a in arrays]
    y = f(*inputs)
    if y.requires_grad:
        y.backward(random_like(y.data) if dy is None else dy)
    return y.data, [x.grad for x in inputs if isinstance(x, Tensor)]


def gradient_check(
    f: Callable[..., Tensor],
    arrays: Sequence[Any],
    *,
    seed: int = 0,
    step: float = 1e-4,
    rtol: float = 1e-7,
    atol: float = 1e-9,
) -> None:
    """Raise AssertionError unless backward gives the slope of f at these arrays, in float64.

    For each floating-point array x, along a random direction v:  ⟨dx, v⟩ = d/dh ⟨f(x + hv), dy⟩ at h = 0.
    Other arrays are constants. f must be smooth within 2 `step` of x, and return the same each time it is called.
    """
    arrays = [a.astype(np.float64) if is_floating(a) else a for a in arrays]
    y, gradients = value_and_gradients(f, arrays)
    dy, found = random_like(y), iter(gradients)
    for i, x in enumerate(arrays):
        if not is_floating(x):
            continue
        dx, v = next(found), random_like(x, seed=seed + i + 1)
        if dx is not None and dx.shape != x.shape:
            raise AssertionError(f"array {i} has shape {x.shape}, its gradient {dx.shape}")
        claimed = 0.0 if dx is None else float((dx * v).sum())
        slope = _slope(f, arrays, i, v, dy, step)
        if not abs(claimed - slope) <= atol + rtol * abs(slope):
            raise AssertionError(f"array {i} {x.shape}: backward says {claimed:.10g}, the slope is {slope:.10g}")


def _slope(f: Callable[..., Tensor], arrays: Sequence[Any], i: int, v: Array, dy: Array, step: float) -> float:
    """d/dh ⟨f(…, xᵢ + hv, …), dy⟩ at h = 0, by a five-point difference (error of order step⁴)"""

    def value(h: float) -> float:
        x = array_module(v).asarray(arrays[i] + h * v)
        with no_grad():
            return float((f(*arrays[:i], Tensor(x), *arrays[i + 1 :]).data * dy).sum())

    return (8 * (value(step) - value(-step)) - (value(2 * step) - value(-2 * step))) / (12 * step)


def is_floating(x: Any) -> bool:
    """Is it an array that may have a gradient?"""
    return hasattr(x, "dtype") and backend.is_floating(x.dtype)


def random_like(y: Array, seed: int = 0) -> Array:
    """Normal numbers with the shape, type and device of `y`: a dy that no symmetry of a formula can hide from."""
    return array_module(y).asarray(np.random.default_rng(seed).standard_normal(y.shape), dtype=y.dtype)


def _moved(value: Any, move: Callable[[Any], Any]) -> Any:
    if isinstance(value, tuple):
        return tuple(_moved(part, move) for part in value)
    return move(value) if isinstance(value, np.ndarray) else value


def _brief(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return f"[{', '.join(map(_brief, value))}]" if isinstance(value, list) else str(value)
