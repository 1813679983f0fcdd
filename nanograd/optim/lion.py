"""Floor 4. Lion: only the signs of a running mean."""

from nanograd import backend
from nanograd.backend import Array
from nanograd.optim.compiled import compiled
from nanograd.optim.flat import FlatParameters
from nanograd.optim.optimizer import Optimizer, Part


class Lion(Optimizer):
    """Chen et al., "Symbolic discovery of optimization algorithms", 2023, algorithm 2: one moment instead of two.

        w ← w − lr λ w − lr sign(β₁ m + (1 − β₁) g)
        m ← β₂ m + (1 − β₂) g

    Each weight moves by lr in every step, so lr is 3 to 10 times smaller than AdamW's, and λ as many times larger.
    """

    capturable = has_gpu_kernels = True

    def __init__(
        self, flat: FlatParameters, *, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.1
    ) -> None:
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1 and weight_decay >= 0):
            raise ValueError(f"Lion: betas {betas} in [0, 1) and weight_decay {weight_decay} ≥ 0 wanted")
        super().__init__(flat, weight_decay=weight_decay)
        self.betas = betas
        self.m = self._zeros()

    def update(self, part: Part, g: Array, lr: float, *, scale: float, zero_grad: bool) -> None:
        """The formulas of the class, or their compiled twin."""
        arrays = self.flat.parameters[part.where], g, self.m[part.own]
        decay = self.weight_decay if part.decays else 0.0
        if (kernels := self.gpu_kernels()) is not None:
            step = self._told(kernels, part, lr, decay, scale, zero_grad)
            kernels.lion(*arrays, betas=self.betas, step=step)
            return
        if (kernels := compiled(self.m)) is not None:
            kernels.lion(*arrays, lr=lr, betas=self.betas, decay=decay, scale=scale, zero_grad=zero_grad)
            return
        for chunk in self._in_chunks(*arrays):
            self._formula(*chunk, lr=lr, decay=decay, scale=scale)
        if zero_grad:
            g[...] = 0

    def _formula(self, w: Array, g: Array, m: Array, *, lr: float, decay: float, scale: float) -> None:
        xp, (beta_1, beta_2) = backend.array_module(w), self.betas
        g = xp.multiply(g, scale)
        direction = xp.sign(beta_1 * m + (1 - beta_1) * g)
        if decay:
            w *= 1 - lr * decay
        w -= lr * direction
        m *= beta_2
        m += (1 - beta_2) * g

    def _state(self) -> dict[str, Array]:
        return self._named("m", self.m)
