"""What `benchmarks.ops` measures: every operation that has a compiled twin, at the size it has in a training step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

B, T, C, H = 16, 128, 256, 8
ROWS, F, V, PARAMETERS = B * T, 4 * C, 8192, 11_000_000
NARROW, WIDE = (ROWS, C), (ROWS, F)
Run = Callable[[], Any]


@dataclass(frozen=True)
class Subject:
    """One operation on arrays of these shapes; an int in their place stands for ROWS integers below it.

    Its limit is the product peak if it has `gflop`, else the memory's bandwidth: `passes` is how often memory of the
    first array's size must be moved, forward and backward together.
    """

    op: str
    inputs: tuple[Any, ...]
    passes: float = 0
    gflop: float = 0
    settings: dict[str, Any] = field(default_factory=dict)
    weights: tuple[int, ...] = ()  # which inputs are weights: their gradients are added up, as in training
    label: str = ""

    @property
    def name(self) -> str:
        """What --only and the table call it."""
        return self.label or self.op

    def arrays(self) -> list[Any]:
        """The same for every contestant; integers are drawn as words are, some often and most seldom."""
        rng = np.random.default_rng(0)
        return [_draw(rng, x) for x in self.inputs]

    def bytes(self) -> float:
        """What the operation cannot avoid to move; of an embedding's table only the rows that are asked for."""
        shape = NARROW if self.op == "embedding" else self.inputs[0]
        return 4.0 * self.passes * float(np.prod(shape))


def _draw(rng: np.random.Generator, x: Any) -> Any:
    if isinstance(x, int):
        share = 1 / np.arange(1, x + 1)
        return rng.choice(x, ROWS, p=share / share.sum())
    return rng.standard_normal(x, np.float32) if isinstance(x, tuple) else x


def products(*sizes: int) -> float:
    """GFLOP of a linear map of ROWS rows, (in, out) for each: one product forward, two backward."""
    return sum(6e-9 * ROWS * d_in * d_out for d_in, d_out in pairwise(sizes))


ATTENTION = 1e-9 * B * 6 * T * T * C  # two products forward, four backward, half of each masked away
POSITIONS = np.arange(T)
SUBJECTS = [
    Subject("layer_norm", (NARROW, (C,), (C,)), 5, weights=(1, 2)),
    Subject("rms_norm", (NARROW, (C,)), 5, weights=(1,)),
    Subject("gelu", (WIDE,), 5),
    Subject("gelu", (WIDE,), 5, settings={"approximate": "tanh"}, label="gelu_tanh"),
    Subject("silu", (WIDE,), 5),
    Subject("relu", (WIDE,), 5),
    Subject("relu_squared", (WIDE,), 5),
    Subject("swiglu", ((ROWS, 2 * F),), 4),
    Subject("softmax", (WIDE,), 5),
    Subject("log_softmax", (WIDE,), 5),
    Subject("dropout", (WIDE,), 4, settings={"p": 0.1, "key": (1, 2)}),
    Subject("rotary", ((B, H, T, C // H), POSITIONS), 4),
    Subject("packed_rotary", ((B, T, 3 * C), POSITIONS), 4, settings={"n_heads": H}),
    Subject("packed_head_norm", ((B, T, 3 * C),), 4, settings={"n_heads": H}),
    Subject("embedding", ((50_257, C), 50_257), 5, weights=(0,)),
    Subject("cross_entropy", ((ROWS, V), V), 3),
    Subject("adamw", ((PARAMETERS,),), 9, label="clip_and_adamw"),
    Subject("matmul", (NARROW, (C, F)), gflop=products(C, F), weights=(1,)),
    Subject("linear", (NARROW, (F, C), (F,)), gflop=products(C, F), weights=(1, 2)),
    Subject("linear", (WIDE, (C, F), (C,), NARROW), gflop=products(F, C), weights=(1, 2), label="linear_and_residual"),
    Subject(
        "mlp",
        (NARROW, (F, C), (F,), (C, F), (C,), NARROW),
        gflop=products(C, F, C),
        settings={"activation": "gelu-tanh"},
        weights=(1, 2, 3, 4),
    ),
    Subject("linear_cross_entropy", (NARROW, (V, C), None, V), gflop=products(C, V), weights=(1,)),
    Subject("attention", (*((B, H, T, C // H),) * 3, None), gflop=ATTENTION, settings={"causal": True}),
    Subject("packed_attention", ((B, T, 3 * C), None), gflop=ATTENTION, settings={"n_heads": H, "causal": True}),
    Subject(
        "packed_attention",
        ((B, T, 3 * C), None),
        gflop=ATTENTION,
        settings={"n_heads": H, "causal": True, "dropout": 0.1, "dropout_key": (1, 2)},
        label="attention_dropout",
    ),
]


def ours(subject: Subject) -> Run:
    """Through the engine, as in training: what a leaf receives is added to what it has, if it is a weight."""
    from nanograd import ops
    from nanograd.tensor import Tensor

    arrays, op = subject.arrays(), getattr(ops, subject.op)
    floats = [isinstance(x, np.ndarray) and x.dtype == np.float32 for x in arrays]
    inputs = [Tensor(x, requires_grad=True) if is_float else x for x, is_float in zip(arrays, floats, strict=True)]
    activations = [x for i, x in enumerate(inputs) if floats[i] and i not in subject.weights]
    y = op(*inputs, **subject.settings)
    dy = np.asarray(np.random.default_rng(1).standard_normal(y.shape), np.float32)

    def run() -> None:
        for x in activations:
            x.grad = None
        op(*inputs, **subject.settings).backward(dy)

    return run


def our_optimizer(subject: Subject) -> Run:
    """The gradient's norm, clipping, the update and the zeroing of the gradient."""
    from nanograd.nn import Module, Parameter
    from nanograd.optim import AdamW, FlatParameters, clip_scale

    module = Module()
    module.weight = Parameter(subject.arrays()[0].reshape(-1, 1000))
    flat = FlatParameters(module)
    optimizer = AdamW(flat)

    def run() -> None:
        flat.gradients[:1000] = 1
        _, scale = clip_scale(flat, 1.0)
        optimizer.step(1e-3, scale=scale, zero_grad=True)

    return run


def torchs(subject: Subject) -> Run:
    """The same in PyTorch, eagerly; its gradients are new arrays each time."""
    import torch

    arrays = [torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in subject.arrays()]
    wanted = [x.requires_grad_() for x in arrays if x is not None and x.is_floating_point()]
    function = torch_functions(subject)[subject.op]
    dy = torch.randn(function(*arrays).shape)
    return lambda: torch.autograd.grad(function(*arrays), wanted, dy)


def torch_functions(subject: Subject) -> dict[str, Callable[..., Any]]:
    """op → what PyTorch has for it."""
    import torch
    from torch.nn import functional

    from tests.torch_twin import turn

    s, attend = subject.settings, functional.scaled_dot_product_attention

    def heads(qkv: torch.Tensor) -> Any:
        return qkv.view(B, T, 3, H, C // H).permute(2, 0, 3, 1, 4)

    def packed_rotary(qkv: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        turned = turn(qkv[..., : 2 * C].view(B, T, 2 * H, -1).transpose(1, 2), positions, 10_000.0)
        return torch.cat([turned.transpose(1, 2).reshape(B, T, 2 * C), qkv[..., 2 * C :]], -1)

    def packed_head_norm(qkv: torch.Tensor) -> torch.Tensor:
        normed = functional.rms_norm(qkv[..., : 2 * C].view(B, T, 2 * H, -1), (C // H,), eps=1e-5)
        return torch.cat([normed.view(B, T, 2 * C), qkv[..., 2 * C :]], -1)

    def packed_attention(qkv: torch.Tensor, mask: None) -> torch.Tensor:
        y = attend(*heads(qkv), is_causal=True, dropout_p=s.get("dropout", 0.0))
        return y.transpose(1, 2).reshape(B, T, C)

    def mlp(x: Any, up: Any, up_bias: Any, down: Any, down_bias: Any, residual: Any) -> torch.Tensor:
        hidden = functional.gelu(functional.linear(x, up, up_bias), approximate="tanh")
        return functional.linear(hidden, down, down_bias) + residual

    def linear(x: Any, w: Any, b: Any, residual: Any = None) -> torch.Tensor:
        y = functional.linear(x, w, b)
        return y if residual is None else y + residual

    return {
        "layer_norm": lambda x, w, b: functional.layer_norm(x, w.shape, w, b),
        "rms_norm": lambda x, w: functional.rms_norm(x, w.shape, w),
        "gelu": lambda x: functional.gelu(x, **s),
        "silu": functional.silu,
        "relu": functional.relu,
        "relu_squared": lambda x: functional.relu(x).square(),
        "swiglu": lambda x: functional.silu(x[:, :F]) * x[:, F:],
        "softmax": lambda x: functional.softmax(x, -1),
        "log_softmax": lambda x: functional.log_softmax(x, -1),
        "dropout": lambda x: functional.dropout(x, s["p"]),
        "rotary": lambda x, positions: turn(x, positions, 10_000.0),
        "packed_rotary": packed_rotary,
        "packed_head_norm": packed_head_norm,
        "embedding": lambda w, ids: functional.embedding(ids, w),
        "cross_entropy": functional.cross_entropy,
        "matmul": torch.matmul,
        "linear": linear,
        "mlp": mlp,
        "linear_cross_entropy": lambda x, w, b, ids: functional.cross_entropy(functional.linear(x, w), ids),
        "attention": lambda q, k, v, mask: attend(q, k, v, is_causal=True),
        "packed_attention": packed_attention,
    }


def torchs_optimizer(subject: Subject) -> Run:
    """PyTorch's fused AdamW, with its clipping."""
    import torch

    weight = torch.nn.Parameter(torch.from_numpy(subject.arrays()[0]))
    optimizer = torch.optim.AdamW([weight], lr=1e-3, fused=True)
    weight.grad = torch.zeros_like(weight)

    def run() -> None:
        weight.grad[:1000] = 1  # type: ignore[index]
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return run
