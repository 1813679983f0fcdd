"""Floor 4. Adafactor: second moments of a matrix in one row and one column."""

from typing import Any

import numpy as np

from nanograd import backend
from nanograd.backend import Array
from nanograd.optim.flat import FlatParameters
from nanograd.optim.optimizer import Optimizer, Part


class Adafactor(Optimizer):
    """Shazeer & Stern, "Adafactor: adaptive learning rates with sublinear memory cost", 2018, algorithms 4 and 5.

        β₂ = 1 − t^−p                                   p = decay_power: 0 in the first step, towards 1 later
        R ← β₂ R + (1 − β₂) mean of g² along each row,    C ← β₂ C + (1 − β₂) mean of g² along each column
        V = R Cᵀ / mean R          (a bias or gain: V ← β₂ V + (1 − β₂) g²)
        u = g / √V,     w ← w − lr λ w − α u / max(1, RMS(u) / d)          d = update_clip

    α is lr; with relative_step  α = max(ε, RMS(w)) min(lr, 1/√t): steps in proportion to what they change.
    There is no first moment: an n × m matrix costs n + m numbers. Of an array with more axes the last two are factored.
    """

    one_by_one = True

    def __init__(
        self,
        flat: FlatParameters,
        *,
        decay_power: float = 0.8,
        update_clip: float = 1.0,
        relative_step: bool = False,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        if not (decay_power > 0 and update_clip > 0 and eps > 0 and weight_decay >= 0):
            raise ValueError(
                f"Adafactor: decay_power {decay_power}, update_clip {update_clip}, eps {eps} > 0 and"
                f" weight_decay {weight_decay} ≥ 0 wanted"
            )
        super().__init__(flat, weight_decay=weight_decay)
        self.decay_power, self.update_clip, self.relative_step, self.eps = decay_power, update_clip, relative_step, eps
        self.moments = {part.where.start: self._fresh_moments(part.shape) for part in self.parts}

    def _fresh_moments(self, shape: tuple[int, ...]) -> dict[str, Array]:
        w = self.flat.parameters
        shapes = {"rows": (*shape[:-1], 1), "columns": (*shape[:-2], 1, shape[-1])} if len(shape) > 1 else {"v": shape}
        return {letter: backend.array_module(w).zeros(size, w.dtype) for letter, size in shapes.items()}

    def update(self, part: Part, g: Array, lr: float, *, scale: float, zero_grad: bool) -> None:
        """The formulas of the class, on one parameter in its shape."""
        xp, w = backend.array_module(g), self.flat.parameters[part.where].reshape(part.shape)
        tiny, g = float(np.finfo(w.dtype).eps) ** 2, g.reshape(part.shape)
        u = g * scale
        v = self._second_moment(xp, u, self.moments[part.where.start])
        u /= xp.sqrt(xp.maximum(v, tiny, out=v), out=v)
        rate = min(lr, self.steps**-0.5) * xp.maximum(self.eps, _rms(xp, w)) if self.relative_step else lr
        u *= rate / xp.maximum(1.0, _rms(xp, u) / self.update_clip)
        if self.weight_decay and part.decays:
            w *= 1 - lr * self.weight_decay
        w -= u
        if zero_grad:
            g[...] = 0

    def _second_moment(self, xp: Any, g: Array, moments: dict[str, Array]) -> Array:
        """V, a new array like g, after the running means were brought up to date."""
        new, squares = self.steps**-self.decay_power, g * g
        if "v" in moments:
            v = moments["v"]
            v += new * (squares - v)
            return v.copy()
        rows, columns = moments["rows"], moments["columns"]
        rows += new * (squares.mean(axis=-1, keepdims=True) - rows)
        columns += new * (squares.mean(axis=-2, keepdims=True) - columns)
        tiny = float(np.finfo(g.dtype).eps)
        return xp.multiply(rows / xp.maximum(rows.mean(axis=-2, keepdims=True), tiny), columns, out=squares)

    def changed(self) -> list[Array]:
        """See Optimizer.changed."""
        return [*super().changed(), *self._state().values()]

    def _state(self) -> dict[str, Array]:
        return {
            f"{letter}.{name}": array
            for name, part in self.places.items()
            for letter, array in self.moments[part.where.start].items()
        }


def _rms(xp: Any, x: Array) -> Array:
    """√ mean x²: an array without axes, which may stay on its device"""
    return xp.sqrt(xp.mean(xp.square(x)))
