"""Floor 4. Linear layers that hold their weights in 8 or 16 bits, for reading with a trained model."""

from nanograd import backend, ops
from nanograd.nn.layers import MLP, Linear
from nanograd.nn.module import Buffer, Module
from nanograd.ops.mlp import ACTIVATIONS
from nanograd.ops.quantized import WeightFormat, encoded
from nanograd.tensor import Tensor, is_recording


class QuantizedLinear(Module):
    """y = (x Wqᵀ) ∘ scale + b, the place of a Linear.   (…, d_in) → (…, d_out)

    codes  (d_out, d_in), 1 or 2 bytes each: see nanograd/ops/quantized.py
    scale  (d_out,), one for each row; None for bf16
    Raises ValueError where a gradient would have to pass.
    """

    def __init__(self, linear: Linear, form: WeightFormat) -> None:
        device = linear.weight.device
        codes, scale = encoded(backend.to_host(linear.weight.data), form)
        self.codes = Buffer(backend.to_device(codes, device))
        self.scale = None if scale is None else Buffer(backend.to_device(scale, device))
        self.bias, self.form = linear.bias, form

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """residual (…, d_out) is added to y."""
        if is_recording() and (x.requires_grad or (residual is not None and residual.requires_grad)):
            raise ValueError(
                f"no gradient passes through {self.form} weights: train the float32 model, or compute inside no_grad()"
            )
        return ops.quantized_linear(x, self.codes, self.scale, self.bias, residual)


class QuantizedMLP(Module):
    """y = W₂ f(W₁ x + b₁) + b₂ with both matrices in codes, the place of an MLP."""

    def __init__(self, mlp: MLP, form: WeightFormat) -> None:
        self.up, self.down = QuantizedLinear(mlp.up, form), QuantizedLinear(mlp.down, form)
        self.activation = mlp.activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """residual (…, d_model) is added to y."""
        bend, settings = ACTIVATIONS[self.activation]
        return self.down(bend(self.up(x), **settings), residual)


def quantize_linears(module: Module, form: WeightFormat) -> None:
    """Every Linear below `module` holds its weights as `form` from now on, and every MLP both of its matrices.

    Biases and all else stay as they are; the float32 matrices are let go. Raises ValueError for a weight that is NaN or
    infinite.
    """
    for _, part in list(module.named_modules()):
        if isinstance(part, MLP):
            continue  # replaced as a whole: its float32 forward is one operation on both matrices
        for name, child in list(vars(part).items()):
            if isinstance(child, MLP):
                setattr(part, name, QuantizedMLP(child, form))
            elif isinstance(child, Linear):
                setattr(part, name, QuantizedLinear(child, form))
