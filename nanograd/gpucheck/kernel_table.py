"""Floor 6. Each hot operation at the shapes of a model: time, the least time it could take, and their ratio."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from nanograd import ops
from nanograd.backend import Array, ArrayModule
from nanograd.flops import forward_flops
from nanograd.gpucheck.figures import floor_seconds
from nanograd.gpucheck.measure import seconds_of
from nanograd.models import DecoderLMConfig
from nanograd.tensor import Tensor, no_grad


class Subject(NamedTuple):
    """An operation on inputs that are on the device.

    n_bytes   read and written at least: (forward, backward). Backward adds float32 gradients of what is learned
    """

    name: str
    op: Any
    inputs: tuple[Any, ...]
    settings: dict[str, Any]
    n_bytes: tuple[float, float]


def subjects(xp: ArrayModule, config: DecoderLMConfig, batch_size: int, dtype: Any) -> Iterator[Subject]:
    """One by one: each may need as much memory as a part of the model."""
    B, T, C, F, V, H = (
        batch_size, config.context_length, config.d_model, config.hidden_width, config.vocab_size, config.n_heads,
    )  # fmt: skip
    e, rows, rng = np.dtype(dtype).itemsize, batch_size * config.context_length, np.random.default_rng(0)

    def floats(*shape: int) -> Tensor:
        values = xp.asarray(rng.standard_normal(shape[-1], np.float32) * 0.02)
        return Tensor(xp.ascontiguousarray(xp.broadcast_to(values, shape)).astype(dtype), requires_grad=True)

    ids = xp.asarray(rng.integers(0, V, (B, T)))
    x, x_bytes = (B, T, C), rows * C * e
    yield Subject("layer_norm", ops.layer_norm, (floats(*x), floats(C), floats(C)), {}, (2 * x_bytes, 3 * x_bytes))
    yield Subject("rms_norm", ops.rms_norm, (floats(*x), floats(C)), {}, (2 * x_bytes, 3 * x_bytes))
    yield Subject("gelu", ops.gelu, (floats(B, T, F),), {}, (2 * rows * F * e, 3 * rows * F * e))
    weights = 3 * C * C
    yield Subject(
        "linear qkv", ops.linear, (floats(*x), floats(3 * C, C), floats(3 * C)), {},
        (4 * x_bytes + weights * e, 5 * x_bytes + weights * (e + 8)),
    )  # fmt: skip
    yield Subject(
        "mlp", ops.mlp, (floats(*x), floats(F, C), floats(F), floats(C, F), floats(C), None), {"activation": "gelu"},
        (2 * x_bytes + 2 * rows * F * e, 3 * x_bytes + 4 * rows * F * e),
    )  # fmt: skip
    yield Subject(
        "attention", ops.packed_attention, (floats(B, T, 3 * C),), {"n_heads": H, "causal": True},
        (4 * x_bytes, 8 * x_bytes),
    )  # fmt: skip
    yield Subject("embedding", ops.embedding, (floats(V, C), ids), {}, (2 * x_bytes, x_bytes + V * C * 8))
    yield Subject(
        "output layer and loss", ops.linear_cross_entropy, (floats(*x), floats(V, C), None, ids), {},
        (x_bytes + V * C * e, 2 * x_bytes + V * C * (e + 8)),
    )  # fmt: skip


def table(
    xp: ArrayModule, config: DecoderLMConfig, batch_size: int, dtype: Any, *, bandwidth: float, rate: float
) -> list[dict[str, Any]]:
    """A row for each forward and each backward: kernel, µs, floor in µs, floor / time."""
    rows = []
    for subject in subjects(xp, config, batch_size, dtype):
        forward, both = _times(xp, subject)
        flops = _flops(subject)
        for direction, seconds, n_bytes, factor in (
            ("forward", forward, subject.n_bytes[0], 1),
            ("backward", both - forward, subject.n_bytes[1], 2),
        ):
            floor = floor_seconds(n_bytes=n_bytes, flops=factor * flops, bandwidth=bandwidth, rate=rate)
            share = floor / seconds if seconds > 0 else None
            rows.append(
                {"kernel": f"{subject.name}, {direction}", "us": seconds * 1e6, "floor_us": floor * 1e6, "share": share}
            )
    return rows


def _flops(subject: Subject) -> float:
    arrays = [x.data if isinstance(x, Tensor) else x for x in subject.inputs]
    name = getattr(subject.op, "name", "")
    return forward_flops(name, arrays, subject.settings, twin=False, recording=False)


def _times(xp: ArrayModule, subject: Subject) -> tuple[float, float]:
    """Seconds of forward alone, and of forward with backward."""

    def forward() -> Tensor:
        y: Tensor = subject.op(*subject.inputs, **subject.settings)
        return y

    def both() -> None:
        forward().backward(dy)

    with no_grad():
        alone = seconds_of(xp, forward)
    dy: Array = xp.ones_like(forward().data)
    return alone, seconds_of(xp, both)
