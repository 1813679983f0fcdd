"""Floor 4. The small layers: linear, embedding, norms, dropout, MLP."""

import numpy as np

from nanograd import ops
from nanograd.backend import Array
from nanograd.nn.module import Module, Parameter
from nanograd.ops.mlp import ACTIVATIONS, Activation
from nanograd.random import DropoutKeys
from nanograd.tensor import Tensor


class Linear(Module):
    """y = x Wᵀ + b.   (…, d_in) → (…, d_out)

    weight  (d_out, d_in), normal with standard deviation `std`; or another layer's parameter, to share it (tying)
    bias    (d_out), zeros; None if switched off
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        rng: np.random.Generator,
        bias: bool = True,
        std: float = 0.02,
        weight: Parameter | None = None,
    ) -> None:
        self.weight = draw_normal(rng, (d_out, d_in), std=std) if weight is None else weight
        self.bias = Parameter(np.zeros(d_out, np.float32)) if bias else None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """residual (…, d_out) is added to y."""
        return ops.linear(x, self.weight, self.bias, residual)


class Embedding(Module):
    """yᵢ = W[idsᵢ].   ids (…) → (…, d_model)"""

    def __init__(self, vocab_size: int, d_model: int, *, rng: np.random.Generator, std: float = 0.02) -> None:
        self.weight = draw_normal(rng, (vocab_size, d_model), std=std)

    def forward(self, ids: Array) -> Tensor:
        return ops.embedding(self.weight, ids)


class LayerNorm(Module):
    """y = γ (x − mean x) / √(var x + eps) + β over the last axis.   Ba, Kiros & Hinton 2016"""

    def __init__(self, d_model: int, *, eps: float = 1e-5) -> None:
        self.weight = Parameter(np.ones(d_model, np.float32))
        self.bias = Parameter(np.zeros(d_model, np.float32))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, eps=self.eps)


class RMSNorm(Module):
    """y = γ x / √(mean x² + eps) over the last axis.   Zhang & Sennrich 2019"""

    def __init__(self, d_model: int, *, eps: float = 1e-5) -> None:
        self.weight = Parameter(np.ones(d_model, np.float32))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, eps=self.eps)


class DyT(Module):
    """y = γ tanh(αx) + β, a norm's substitute without a mean: it squashes outliers only.   Zhu et al. 2025, 2503.10622

    alpha  what α starts from: the paper's 0.5. Larger for inputs that are small, or y begins small as well
    """

    def __init__(self, d_model: int, *, alpha: float = 0.5) -> None:
        self.alpha = Parameter(np.full(1, alpha, np.float32))
        self.weight = Parameter(np.ones(d_model, np.float32))
        self.bias = Parameter(np.zeros(d_model, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        return ops.dyt(x, self.alpha, self.weight, self.bias)


class Derf(Module):
    """y = γ erf(αx + s) + β: DyT with another bend, and a shift that starts at 0.   Chen et al. 2025, 2512.10938"""

    def __init__(self, d_model: int, *, alpha: float = 0.5) -> None:
        self.alpha = Parameter(np.full(1, alpha, np.float32))
        self.shift = Parameter(np.zeros(1, np.float32))
        self.weight = Parameter(np.ones(d_model, np.float32))
        self.bias = Parameter(np.zeros(d_model, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        return ops.derf(x, self.alpha, self.shift, self.weight, self.bias)


class Dropout(Module):
    """In training, zero a share `p` of x and divide the rest by 1 − p; in evaluation, x itself.

    keys  one DropoutKeys for the whole model: its call counter is all that a resumed run has to remember.
    """

    def __init__(self, p: float, keys: DropoutKeys) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"Dropout: p must be at least 0 and below 1, not {p}")
        self.p, self.keys = p, keys

    @property
    def acts(self) -> bool:
        """Is anything zeroed at present?"""
        return self.training and self.p > 0

    def forward(self, x: Tensor) -> Tensor:
        return ops.dropout(x, p=self.p, key=self.keys.next()) if self.acts else x


class MLP(Module):
    """y = W₂ f(W₁ x + b₁) + b₂.   (…, d_model) → (…, d_hidden) → (…, d_model)

    swiglu   W₁ has 2 d_hidden rows: those of the gates, then those of what the gates let through
    out_std  standard deviation of W₂, which writes into the residual stream; None: as W₁
    """

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        *,
        rng: np.random.Generator,
        activation: Activation = "gelu",
        std: float = 0.02,
        out_std: float | None = None,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"MLP: activation {activation!r} is unknown; use one of {', '.join(ACTIVATIONS)}")
        self.up = Linear(d_model, 2 * d_hidden if activation == "swiglu" else d_hidden, rng=rng, std=std)
        self.down = Linear(d_hidden, d_model, rng=rng, std=std if out_std is None else out_std)
        self.activation: Activation = activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """residual (…, d_model) is added to y."""
        up, down = self.up, self.down
        return ops.mlp(x, up.weight, up.bias, down.weight, down.bias, residual, activation=self.activation)


def draw_normal(rng: np.random.Generator, shape: tuple[int, ...], *, std: float) -> Parameter:
    """A float32 parameter of `shape` from N(0, std²), drawn on the host so that every device starts from one model."""
    values = rng.standard_normal(shape, dtype=np.float32)
    values *= std
    return Parameter(values)
