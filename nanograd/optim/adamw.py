"""Floor 4. Adam, and AdamW: Adam with weight decay kept out of the gradient."""

from collections.abc import Collection
from typing import Any

from nanograd import backend
from nanograd.backend import Array
from nanograd.optim.compiled import compiled
from nanograd.optim.flat import FlatParameters
from nanograd.optim.optimizer import Optimizer, Part


class AdamW(Optimizer):
    """Loshchilov & Hutter, "Decoupled weight decay regularization", 2019, algorithm 2.

        m ← β₁ m + (1 − β₁) g             m̂ = m / (1 − β₁ᵗ)
        v ← β₂ v + (1 − β₂) g²            v̂ = v / (1 − β₂ᵗ)
        w ← w − lr λ w − lr m̂ / (√v̂ + ε)      λ = 0 for biases and gains

    The formulas run chunk by chunk: no temporary is as large as the model. On a CPU a compiled kernel takes their
    place, if there are many parameters; on a GPU one always does.
    """

    capturable = has_gpu_kernels = True

    def __init__(
        self,
        flat: FlatParameters,
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        names: Collection[str] | None = None,
    ) -> None:
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1 and eps > 0 and weight_decay >= 0):
            raise ValueError(f"AdamW: betas {betas} in [0, 1), eps {eps} > 0, weight_decay {weight_decay} ≥ 0 wanted")
        super().__init__(flat, weight_decay=weight_decay, names=names)
        self.betas, self.eps = betas, eps
        self.m, self.v = self._zeros(), self._zeros()

    def hyper(self, lr: float) -> list[float]:
        """lr, β₁, β₂, 1 / (1 − β₁ᵗ), 1 / (1 − β₂ᵗ), ε, λ, and 1: the place of the factor that clips."""
        corrections = [1 / (1 - beta ** (self.steps + 1)) for beta in self.betas]
        return [lr, *self.betas, *corrections, self.eps, self.weight_decay, 1.0]

    def update(self, part: Part, g: Array, lr: float, *, scale: float, zero_grad: bool) -> None:
        """The formulas of the class, or their compiled twin."""
        arrays = self.flat.parameters[part.where], g, self.m[part.own], self.v[part.own]
        decay = self.weight_decay if part.decays else 0.0
        if (kernels := self.gpu_kernels()) is not None:
            step = self._told(kernels, part, lr, decay, scale, zero_grad)
            kernels.adamw(*arrays, betas=self.betas, rises=self._rises(), eps=self.eps, step=step)
            return
        if (kernels := compiled(self.m)) is not None:
            settings = {"lr": lr, "betas": self.betas, "eps": self.eps, "decay": decay, "scale": scale}
            kernels.adamw(*arrays, step=self.steps, zero_grad=zero_grad, **settings)
            return
        for chunk in self._in_chunks(*arrays):
            self._formula(*chunk, lr=lr, decay=decay, scale=scale)
        if zero_grad:
            g[...] = 0

    def _formula(self, w: Array, g: Array, m: Array, v: Array, *, lr: float, decay: float, scale: float) -> None:
        xp, (beta_1, beta_2) = backend.array_module(w), self.betas
        step, root = xp.empty_like(w), xp.empty_like(w)
        if type(scale) is not float or scale != 1:  # an array on a GPU is not looked at: that would wait for it
            g = xp.multiply(g, scale, out=root)
        m *= beta_1
        m += xp.multiply(g, 1 - beta_1, out=step)
        v *= beta_2
        xp.multiply(g, g, out=step)
        step *= 1 - beta_2
        v += step
        xp.sqrt(v, out=root)
        correction_1, correction_2 = self._corrections()
        root /= correction_2**0.5
        root += self.eps
        xp.divide(m, root, out=step)
        step *= lr / correction_1
        if decay:
            w *= 1 - lr * decay
        w -= step

    def _corrections(self) -> tuple[Any, Any]:
        """1 − β₁ᵗ and 1 − β₂ᵗ"""
        if self.hyper_on_device is not None:
            return 1 / self.hyper_on_device[3], 1 / self.hyper_on_device[4]
        return 1 - self.betas[0] ** self.steps, 1 - self.betas[1] ** self.steps

    def _rises(self) -> Any:
        """1 / (1 − β₁ᵗ) and 1 / (1 − β₂ᵗ), two numbers or an array of two"""
        on_device = self.hyper_on_device
        return tuple(1 / x for x in self._corrections()) if on_device is None else on_device[3:5]

    def _state(self) -> dict[str, Array]:
        return self._named("m", self.m) | self._named("v", self.v)


class Adam(AdamW):
    """Kingma & Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1: AdamW with λ = 0.

    There is no L2 term in the gradient: divided by √v̂ it would decay least what the loss moves most, which is why AdamW
    exists.
    """

    def __init__(self, flat: FlatParameters, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        super().__init__(flat, betas=betas, eps=eps, weight_decay=0.0)
