"""The benchmark's GPT in tinygrad, as its own examples write one: Tensor methods, its AdamW, and TinyJit around a step.

tinygrad compiles for the CPU with clang, which must be installed beside it.
"""

from collections.abc import Callable

import numpy as np
from tinygrad import Context, Tensor, TinyJit
from tinygrad.nn.optim import AdamW, OptimizerGroup

from nanograd.models import DecoderLMConfig


def tinygrad_step(
    config: DecoderLMConfig, weights: dict[str, np.ndarray], *, lr: float, betas: tuple[float, float], decay: float
) -> Callable[[np.ndarray, np.ndarray], float]:
    """ids, targets (B, T) → loss, after one step of AdamW. The second call is recorded, later ones replay it."""
    w = {name: Tensor(array.copy()).realize() for name, array in weights.items()}
    settings = {"lr": lr, "b1": betas[0], "b2": betas[1]}
    matrices, vectors = [x for x in w.values() if x.ndim >= 2], [x for x in w.values() if x.ndim < 2]
    optimizer = OptimizerGroup(
        AdamW(matrices, weight_decay=decay, **settings), AdamW(vectors, weight_decay=0.0, **settings)
    )

    @TinyJit
    def step(ids: Tensor, targets: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = logits(w, ids, config).sparse_categorical_crossentropy(targets).backward()
        return loss.realize(*optimizer.schedule_step())

    def take(ids: np.ndarray, targets: np.ndarray) -> float:
        with Context(TRAINING=1):
            arrays = (Tensor(x.astype(np.int32)).realize() for x in (ids, targets))
            return float(step(*arrays).item())

    return take


def logits(w: dict[str, Tensor], ids: Tensor, config: DecoderLMConfig) -> Tensor:
    """(B, T) → (B, T, V)"""

    def linear(x: Tensor, layer: str) -> Tensor:
        return x.linear(w[f"{layer}.weight"].T, w[f"{layer}.bias"])

    def norm(x: Tensor, layer: str) -> Tensor:
        return x.layernorm(eps=config.norm_eps) * w[f"{layer}.weight"] + w[f"{layer}.bias"]

    x = w["tokens.weight"][ids] + w["positions.weight"]
    for i in range(config.n_layers):
        block, (B, T, C) = f"blocks.{i}", x.shape
        qkv = linear(norm(x, f"{block}.norm_1"), f"{block}.attention.qkv").reshape(B, T, 3, config.n_heads, -1)
        query, key, value = (qkv[:, :, j].transpose(1, 2) for j in range(3))
        mixed = query.scaled_dot_product_attention(key, value, is_causal=True).transpose(1, 2).reshape(B, T, C)
        x = x + linear(mixed, f"{block}.attention.out")
        x = x + linear(linear(norm(x, f"{block}.norm_2"), f"{block}.mlp.up").gelu(), f"{block}.mlp.down")
    return norm(x, "norm") @ w["tokens.weight"].T
