"""Every case of the table in float32, value and gradients, against what PyTorch says about the same call."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nanograd import ops
from nanograd.testing import Case, is_floating, random_like, value_and_gradients
from pre_process.encode_position import scaled_frequencies
from tests.cases import CASES

torch = pytest.importorskip("torch", reason="PyTorch is the yardstick of these tests: pip install 'nanograd[peers]'")
F = torch.nn.functional


def over_axes(reduce: Callable[..., Any], over_nothing: Callable[[Any], Any]) -> Callable[..., Any]:
    """PyTorch reads dim=() as "all axes", NumPy as "none"."""

    def reduced(x: Any, axis: Any = None, keepdims: bool = False, **settings: Any) -> Any:
        if axis == () or x.ndim == 0:
            return over_nothing(x)
        return reduce(x, dim=tuple(range(x.ndim)) if axis is None else axis, keepdim=keepdims, **settings)

    return reduced


def expand_dims(x: Any, axis: Any) -> Any:
    for place in sorted(axis) if isinstance(axis, tuple) else [axis]:
        x = x.unsqueeze(place)
    return x


def split(x: Any, sections: Any, axis: int) -> Any:
    parts = x.split(sections if isinstance(sections, list) else x.shape[axis] // sections, dim=axis)
    return torch.cat([(i + 1.0) * part for i, part in enumerate(parts)][::-1], dim=axis)


def attention(
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    starts: Any = None,
    *,
    causal: bool,
    scale: Any = None,
    slopes: Any = None,
    window: int | None = None,
) -> Any:
    """What may not be seen as a bias of −∞, ALiBi as another: to SDPA both are one mask that is added to the scores."""
    T, S = q.shape[-2], k.shape[-2]
    visible = torch.ones(T, S, dtype=torch.bool)
    visible = visible.tril(S - T) if causal else visible  # SDPA's own is_causal aligns the first key
    visible = visible if window is None else visible.triu(S - T - window + 1)
    visible = visible if mask is None else visible & mask
    visible = visible if starts is None else visible & (torch.arange(S) >= starts[..., None])
    if slopes is None:
        return F.scaled_dot_product_attention(q, k, v, visible, scale=scale, enable_gqa=q.ndim > 2)
    distance = (torch.arange(T)[:, None] + S - T - torch.arange(S)).to(q)
    bias = -torch.tensor(slopes).to(q)[:, None, None] * distance
    bias = bias if q.ndim > 2 else bias[0]
    return F.scaled_dot_product_attention(q, k, v, bias.masked_fill(~visible, -torch.inf), scale=scale)


def packed_attention(qkv: Any, mask: Any = None, starts: Any = None, *, n_heads: int, **settings: Any) -> Any:
    B, T, width = qkv.shape
    q, k, v = (x.view(B, T, n_heads, -1).transpose(1, 2) for x in qkv.split(width // 3, dim=-1))
    starts = None if starts is None else starts[..., None, :]
    return attention(q, k, v, mask, starts, **settings).transpose(1, 2).reshape(B, T, width // 3)


def attention_weights(q: Any, k: Any, mask: Any, starts: Any = None, **settings: Any) -> Any:
    return attention(q, k, torch.eye(k.shape[-2]).expand(*k.shape[:-2], -1, -1), mask, starts, **settings)


def cross_entropy(
    logits: Any, targets: Any, ignore_index: int = -100, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> Any:
    z, t = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1).long()
    real = t != ignore_index
    if not real.any():
        return 0 * logits.sum()  # where PyTorch answers nan
    loss = F.cross_entropy(z, t, ignore_index=ignore_index, label_smoothing=label_smoothing)
    return loss + z_loss * z[real].logsumexp(-1).square().mean()


def rotary(x: Any, positions: Any, base: float = 10_000.0, layout: str = "halves", scaling: Any = None) -> Any:
    """Pairs as complex numbers, and a position as a power of a unit: as in Meta's Llama."""
    D, length = x.shape[-1], 1.0
    theta = base ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    if scaling is not None:
        theta = torch.from_numpy(scaled_frequencies(theta.numpy(), base=base, scaling=scaling))
        length = scaling.amplitude
    angles = positions.double()[..., None] * theta
    turn = torch.polar(torch.full_like(angles, length), angles)
    if layout == "pairs":
        return torch.view_as_real(torch.view_as_complex(x.double().unflatten(-1, (-1, 2))) * turn).flatten(-2).to(x)
    y = torch.complex(*x.double().chunk(2, dim=-1)) * turn
    return torch.cat([y.real, y.imag], dim=-1).to(x)


def packed_rotary(qkv: Any, positions: Any, n_heads: int, **settings: Any) -> Any:
    q, k, v = (part.unflatten(-1, (n_heads, -1)) for part in qkv.chunk(3, dim=-1))
    q, k = (rotary(part.transpose(1, 2), positions.unsqueeze(-2), **settings).transpose(1, 2) for part in (q, k))
    return torch.cat([part.flatten(-2) for part in (q, k, v)], dim=-1)


def packed_head_norm(qkv: Any, n_heads: int, eps: float = 1e-5) -> Any:
    q, k, v = (part.unflatten(-1, (n_heads, -1)) for part in qkv.chunk(3, dim=-1))
    q, k = (F.rms_norm(part, part.shape[-1:], eps=eps) for part in (q, k))
    return torch.cat([part.flatten(-2) for part in (q, k, v)], dim=-1)


def swiglu(x: Any) -> Any:
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


MLP: dict[str, Callable[[Any], Any]] = {
    "gelu": F.gelu,
    "gelu-tanh": lambda u: F.gelu(u, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda u: F.relu(u).square(),
    "silu": F.silu,
    "swiglu": swiglu,
}


def mlp(x: Any, up: Any, b1: Any, down: Any, b2: Any, residual: Any = None, *, activation: str) -> Any:
    y = F.linear(MLP[activation](F.linear(x, up, b1)), down, b2)
    return y if residual is None else y + residual


def quantized_linear(x, codes, scale=None, bias=None, residual=0.0):
    if codes.dtype == torch.int64:  # 16 bits: see as_torch
        codes = codes.to(torch.int16)
    kind = {torch.int8: torch.int8, torch.uint8: torch.float8_e4m3fn, torch.int16: torch.bfloat16}[codes.dtype]
    y = F.linear(x, codes.view(kind).float())
    y = y if scale is None else y * scale
    return ((y if bias is None else y + bias) + residual).detach()


TORCH: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "power": lambda a, b: a**b,
    "maximum": lambda a, b: torch.maximum(a, torch.as_tensor(b)),
    "minimum": lambda a, b: torch.minimum(a, torch.as_tensor(b)),
    "neg": torch.neg,
    "abs": torch.abs,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "clip": lambda x, low=None, high=None: x.clone() if low is high is None else x.clamp(low, high),
    "where": torch.where,
    "cast": lambda x, dtype: x.to(torch.float64),
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "equal": lambda a, b: a == b,
    "not_equal": lambda a, b: a != b,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "relu_squared": lambda x: F.relu(x).square(),
    "swiglu": swiglu,
    "packed_head_norm": packed_head_norm,
    "rotary": rotary,
    "packed_rotary": packed_rotary,
    "sum": over_axes(torch.sum, lambda x: x.clone()),
    "mean": over_axes(torch.mean, lambda x: x.clone()),
    "max": over_axes(torch.amax, lambda x: x.clone()),
    "min": over_axes(torch.amin, lambda x: x.clone()),
    "logsumexp": over_axes(torch.logsumexp, lambda x: x.clone()),
    "var": over_axes(lambda x, correction=0, **axes: torch.var(x, correction=correction, **axes), lambda x: 0 * x),
    "reshape": torch.reshape,
    "transpose": lambda x, axes=None: x.permute(*(range(x.ndim)[::-1] if axes is None else axes)),
    "swapaxes": lambda x, axis1, axis2: x.swapaxes(axis1, axis2),
    "expand": lambda x, shape: x.expand(shape),
    "squeeze": lambda x, axis=None: x.squeeze() if axis is None else x.squeeze(axis),
    "expand_dims": expand_dims,
    "flip": lambda x, axis=None: x.flip(list(range(x.ndim)) if axis is None else [axis]),
    "pad": lambda x, widths, value=0.0: F.pad(x, [n for pair in widths[::-1] for n in pair], value=value),
    "concatenate": lambda *arrays, axis=0: torch.cat(arrays, dim=axis),
    "stack": lambda *arrays, axis=0: torch.stack(arrays, dim=axis),
    "split": split,
    "getitem": lambda x, index: x[index],
    "embedding": lambda weight, ids: F.embedding(ids.long(), weight),
    "matmul": torch.matmul,
    "mlp": mlp,
    "linear": lambda x, w, b=None, residual=0.0: F.linear(x, w, b) + residual,
    "quantized_linear": quantized_linear,
    "layer_norm": lambda x, weight, bias, eps=1e-5: F.layer_norm(x, weight.shape, weight, bias, eps),
    "rms_norm": lambda x, weight, eps=1e-5: F.rms_norm(x, weight.shape, weight, eps),
    "dyt": lambda x, alpha, weight, bias: torch.tanh(alpha * x) * weight + bias,
    "derf": lambda x, alpha, shift, weight, bias: torch.erf(alpha * x + shift) * weight + bias,
    "softmax": lambda x, axis=-1, temperature=1.0: torch.softmax(x / temperature, axis),
    "log_softmax": lambda x, axis=-1, temperature=1.0: torch.log_softmax(x / temperature, axis),
    "attention": attention,
    "packed_attention": packed_attention,
    "attention_weights": attention_weights,
    "cross_entropy": cross_entropy,
    "linear_cross_entropy": lambda x, w, b, t, **settings: cross_entropy(F.linear(x, w, b), t, **settings),
}
BACKWARD_SLICE = "PyTorch has no slices with a negative step"
OWN_MASK = "the mask of our dropout comes from our own random numbers"


def why_not_comparable(case: Case) -> str | None:
    if case.op is ops.dropout or case.settings.get("dropout"):
        return OWN_MASK
    return BACKWARD_SLICE if "None, None, -1" in repr(case) else None


def test_every_operation_is_compared():
    assert {case.name for case in CASES} - set(TORCH) == {"dropout"}


def as_torch(a: Any) -> Any:
    """The same array as a torch tensor, a leaf if it is floating-point; anything else as it is."""
    if isinstance(a, tuple):
        return tuple(map(as_torch, a))
    if not isinstance(a, np.ndarray):
        return a
    a = a.astype(np.int64) if a.dtype.kind in "iu" and a.dtype.itemsize > 1 else a.copy()
    return torch.tensor(a, requires_grad=is_floating(a))


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_value_and_gradients_agree_with_pytorch(case):
    if reason := why_not_comparable(case):
        pytest.skip(reason)
    arrays = case.draw(dtype=np.float32)
    y, gradients = value_and_gradients(lambda *inputs: case.call(inputs), arrays)
    inputs = [as_torch(a) for a in arrays]
    expected = TORCH[case.name](*inputs, **{name: as_torch(value) for name, value in case.settings.items()})
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=2e-5, atol=2e-6)
    if expected.requires_grad and case.name != "attention_weights":
        expected.backward(torch.from_numpy(random_like(y)))
        leaves = [x for x in inputs if torch.is_tensor(x) and x.requires_grad]
        for dx, leaf in zip(gradients, leaves, strict=True):
            np.testing.assert_allclose(dx, leaf.grad.numpy(), rtol=2e-5, atol=1e-5)
