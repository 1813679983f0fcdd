"""Floor 4. AdamW: Adam with weight decay kept out of the gradient."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nanograd import backend
from nanograd.backend import Array
from nanograd.optim.compiled import compiled
from nanograd.optim.flat import FlatParameters

CPU_CHUNK, GPU_CHUNK = 1 << 15, 1 << 24  # elements: six float32 arrays fit the L2 cache; few launches


class AdamW:
    """Loshchilov & Hutter, "Decoupled weight decay regularization", 2019, algorithm 2.

        m ← β₁ m + (1 − β₁) g             m̂ = m / (1 − β₁ᵗ)
        v ← β₂ v + (1 − β₂) g²            v̂ = v / (1 − β₂ᵗ)
        w ← w − lr λ w − lr m̂ / (√v̂ + ε)      λ = 0 for biases and gains

    The formulas run chunk by chunk through two scratch arrays: no temporary is as large as the model. On a CPU a
    compiled kernel takes their place, if there are many parameters.
    """

    def __init__(
        self,
        flat: FlatParameters,
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1 and eps > 0 and weight_decay >= 0):
            raise ValueError(f"AdamW: betas {betas} in [0, 1), eps {eps} > 0, weight_decay {weight_decay} ≥ 0 wanted")
        self.flat, self.betas, self.eps, self.weight_decay = flat, betas, eps, weight_decay
        self.steps = 0
        xp = backend.array_module(flat.parameters)
        self.m, self.v = xp.zeros_like(flat.parameters), xp.zeros_like(flat.parameters)
        self._chunk = min(len(self.m), CPU_CHUNK if xp is np else GPU_CHUNK)
        self._scratch = xp.empty_like(self.m[: self._chunk]), xp.empty_like(self.m[: self._chunk])

    def step(self, lr: float, *, scale: float = 1.0, zero_grad: bool = False) -> None:
        """Change the parameters by one update from `scale` · `flat.gradients`.

        scale      a factor that shortens the gradient: see clip_scale
        zero_grad  leave zeros in flat.gradients, which otherwise stay as they are: it saves a pass over them
        """
        self.flat.check_views()
        self.steps += 1
        kernels = compiled(self.m)
        for group, decay in ((self.flat.decayed, self.weight_decay), (self.flat.not_decayed, 0.0)):
            if kernels is None:
                self._update_in_chunks(group, lr, decay, scale)
                if zero_grad:
                    self.flat.gradients[group] = 0
            else:
                settings = {"lr": lr, "betas": self.betas, "eps": self.eps, "decay": decay, "scale": scale}
                kernels.adamw(*self._views(group), step=self.steps, zero_grad=zero_grad, **settings)

    def _views(self, part: slice) -> tuple[Array, Array, Array, Array]:
        return self.flat.parameters[part], self.flat.gradients[part], self.m[part], self.v[part]

    def _update_in_chunks(self, group: slice, lr: float, decay: float, scale: float) -> None:
        for start in range(group.start, group.stop, self._chunk):
            self._update(slice(start, min(start + self._chunk, group.stop)), lr, decay, scale)

    def _update(self, chunk: slice, lr: float, decay: float, scale: float) -> None:
        xp, (beta_1, beta_2) = backend.array_module(self.m), self.betas
        w, g, m, v = self._views(chunk)
        step, root = (scratch[: len(w)] for scratch in self._scratch)
        if scale != 1:
            g = xp.multiply(g, scale, out=root)
        m *= beta_1
        m += xp.multiply(g, 1 - beta_1, out=step)
        v *= beta_2
        xp.multiply(g, g, out=step)
        step *= 1 - beta_2
        v += step
        xp.sqrt(v, out=root)
        root /= (1 - beta_2**self.steps) ** 0.5
        root += self.eps
        xp.divide(m, root, out=step)
        step *= lr / (1 - beta_1**self.steps)
        if decay:
            w *= 1 - lr * decay
        w -= step

    def state_dict(self) -> dict[str, Any]:
        """'steps', and 'm.NAME' and 'v.NAME' for each parameter: NumPy arrays, on the CPU the live ones."""
        return {"steps": np.asarray(self.steps)} | {name: backend.to_host(view) for name, view in self._state().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken. Raises ValueError, before any change, if names or shapes misfit."""
        views = self._state()
        for name in ("steps", *views):
            if name not in state:
                raise ValueError(f"optimizer state: {name} is missing")
        for name, view in views.items():
            if tuple(state[name].shape) != view.shape:
                raise ValueError(
                    f"optimizer state: {name} has shape {tuple(state[name].shape)}, the model's is {view.shape}"
                )
        for name, view in views.items():
            view[...] = backend.to_device(state[name], backend.device_of(view))
        self.steps = int(state["steps"])

    def _state(self) -> dict[str, Array]:
        means = {"m": self.m, "v": self.v}
        return {
            f"{letter}.{name}": view for letter, flat in means.items() for name, view in self.flat.split(flat).items()
        }
