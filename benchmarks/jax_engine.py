"""The benchmark's GPT in JAX: pure functions of arrays under nanograd's parameter names, compiled as one.

JAX brings no optimizer, so AdamW is written out, with the decay of tests/torch_twin.py: matrices decay, vectors don't.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nanograd.models import DecoderLMConfig

Arrays = dict[str, jax.Array]
EPS = 1e-8


def jax_step(
    config: DecoderLMConfig, weights: dict[str, np.ndarray], *, lr: float, betas: tuple[float, float], decay: float
) -> Callable[[np.ndarray, np.ndarray], float]:
    """ids, targets (B, T) → loss, after one step of AdamW."""

    def step(w: Arrays, m: Arrays, v: Arrays, t: jax.Array, ids: jax.Array, targets: jax.Array) -> tuple[Any, ...]:
        loss, gradients = jax.value_and_grad(loss_of)(w, ids, targets, config)
        for name, g in gradients.items():
            m[name] = betas[0] * m[name] + (1 - betas[0]) * g
            v[name] = betas[1] * v[name] + (1 - betas[1]) * g * g
            root = jnp.sqrt(v[name] / (1 - betas[1] ** t)) + EPS
            shrunk = w[name] * (1 - lr * decay) if w[name].ndim >= 2 else w[name]
            w[name] = shrunk - lr * m[name] / (1 - betas[0] ** t) / root
        return w, m, v, t + 1, loss

    compiled = jax.jit(step, donate_argnums=(0, 1, 2))  # the old arrays' memory may hold the new ones
    w = {name: jnp.array(array) for name, array in weights.items()}
    state: list[Any] = [w, *({name: jnp.zeros_like(x) for name, x in w.items()} for _ in range(2)), jnp.float32(1)]

    def take(ids: np.ndarray, targets: np.ndarray) -> float:
        *state[:], loss = compiled(*state, ids, targets)
        return float(jax.block_until_ready((state, loss))[1])

    return take


def loss_of(w: Arrays, ids: jax.Array, targets: jax.Array, config: DecoderLMConfig) -> jax.Array:
    """Mean cross-entropy of the model's logits."""
    x = w["tokens.weight"][ids] + w["positions.weight"]
    for i in range(config.n_layers):
        x = block({name: w[f"blocks.{i}.{name}"] for name in BLOCK}, x, config)
    logits = norm(x, w["norm.weight"], w["norm.bias"], config.norm_eps) @ w["tokens.weight"].T
    right = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - right)


LAYERS = ("norm_1", "norm_2", "attention.qkv", "attention.out", "mlp.up", "mlp.down")
BLOCK = [f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")]


def block(w: Arrays, x: jax.Array, config: DecoderLMConfig) -> jax.Array:
    """(B, T, C) → (B, T, C)"""
    B, T, C = x.shape
    h = norm(x, w["norm_1.weight"], w["norm_1.bias"], config.norm_eps)
    qkv = (h @ w["attention.qkv.weight"].T + w["attention.qkv.bias"]).reshape(B, T, 3, config.n_heads, -1)
    mixed = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=True)
    x = x + mixed.reshape(B, T, C) @ w["attention.out.weight"].T + w["attention.out.bias"]
    h = norm(x, w["norm_2.weight"], w["norm_2.bias"], config.norm_eps)
    h = jax.nn.gelu(h @ w["mlp.up.weight"].T + w["mlp.up.bias"], approximate=True)
    return x + h @ w["mlp.down.weight"].T + w["mlp.down.bias"]


def norm(x: jax.Array, gain: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """Layer norm over the last axis."""
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + eps) * gain + bias
