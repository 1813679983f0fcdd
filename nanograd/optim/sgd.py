"""Floor 4. Stochastic gradient descent with momentum."""

from nanograd import backend
from nanograd.backend import Array
from nanograd.optim.compiled import compiled
from nanograd.optim.flat import FlatParameters
from nanograd.optim.optimizer import Optimizer, Part


class SGD(Optimizer):
    """Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013; PyTorch's scaling.

        m ← μ m + g
        w ← w − lr λ w − lr m               Nesterov's:  w ← w − lr λ w − lr (g + μ m)

    momentum  μ; with 0 nothing is remembered
    """

    capturable = has_gpu_kernels = True

    def __init__(
        self, flat: FlatParameters, *, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        if not (0 <= momentum < 1 and weight_decay >= 0):
            raise ValueError(f"SGD: momentum {momentum} in [0, 1) and weight_decay {weight_decay} ≥ 0 wanted")
        if nesterov and not momentum:
            raise ValueError("SGD: Nesterov's step looks ahead along the momentum, so momentum must be above 0")
        super().__init__(flat, weight_decay=weight_decay)
        self.momentum, self.nesterov = momentum, nesterov
        self.m = self._zeros() if momentum else None

    def update(self, part: Part, g: Array, lr: float, *, scale: float, zero_grad: bool) -> None:
        """The formulas of the class, or their compiled twin."""
        w, decay = self.flat.parameters[part.where], self.weight_decay if part.decays else 0.0
        m = w if self.m is None else self.m[part.own]  # without momentum the argument is there but not read
        if (kernels := self.gpu_kernels()) is not None:
            step = self._told(kernels, part, lr, decay, scale, zero_grad)
            m = None if self.m is None else m
            kernels.sgd(w, g, m, momentum=self.momentum, nesterov=self.nesterov, step=step)
            return
        if (kernels := compiled(self.flat.parameters)) is not None:
            settings = {"lr": lr, "momentum": self.momentum, "nesterov": self.nesterov, "decay": decay, "scale": scale}
            kernels.sgd(w, g, m, zero_grad=zero_grad, **settings)
            return
        for chunk in self._in_chunks(w, g, m):
            self._formula(*chunk, lr=lr, decay=decay, scale=scale)
        if zero_grad:
            g[...] = 0

    def _formula(self, w: Array, g: Array, m: Array, *, lr: float, decay: float, scale: float) -> None:
        xp = backend.array_module(w)
        step = xp.multiply(g, scale)
        if self.momentum:
            m *= self.momentum
            m += step
            step = step + self.momentum * m if self.nesterov else m
        if decay:
            w *= 1 - lr * decay
        w -= lr * step

    def _state(self) -> dict[str, Array]:
        return {} if self.m is None else self._named("m", self.m)
