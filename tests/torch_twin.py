"""A DecoderLM written in PyTorch under the same parameter names: the yardstick of the parity tests."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from nanograd.models import DecoderLM, DecoderLMConfig

torch.set_num_threads(1)  # the models are tiny: a second thread would only wait

ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu-tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
    "silu": functional.silu,
    "swiglu": lambda x: functional.silu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1],
}


def turn(x: torch.Tensor, positions: torch.Tensor, base: float) -> torch.Tensor:
    """Rotary positions as Hugging Face writes them: x cos + rotate_half(x) sin.   x (B, H, T, D), positions (…, T)"""
    D = x.shape[-1]
    angles = positions.double()[..., None, :, None] / base ** (torch.arange(0, D, 2, dtype=torch.float64) / D)
    cos, sin = (torch.cat([f(angles), f(angles)], -1).to(x) for f in (torch.cos, torch.sin))
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def count(padding_mask: torch.Tensor | None, T: int) -> torch.Tensor:
    """Positions: (T,), or (B, T) that count real tokens only."""
    return torch.arange(T) if padding_mask is None else (padding_mask.long().cumsum(1) - 1).clamp_min(0)


class TwinAttention(nn.Module):
    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        qkv_bias: bool = True,
        rotary_base: float | None = None,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.n_heads, self.rotary_base, self.qk_norm = n_heads, rotary_base, qk_norm
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=qkv_bias)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: torch.Tensor, padding_mask: torch.Tensor | None = None) -> torch.Tensor:
        B, T, C = x.shape
        query, key, value = (
            part.view(B, T, self.n_heads, C // self.n_heads).transpose(1, 2) for part in self.qkv(x).split(C, dim=-1)
        )
        if self.qk_norm:
            query, key = (functional.rms_norm(part, part.shape[-1:], eps=1e-5) for part in (query, key))
        if self.rotary_base is not None:
            query, key = (turn(part, count(padding_mask, T), self.rotary_base) for part in (query, key))
        if padding_mask is None:
            y = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            allowed = torch.ones(T, T, dtype=torch.bool).tril() & padding_mask[:, None, None, :]
            y = functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        return self.out(y.transpose(1, 2).reshape(B, T, C))


class TwinMLP(nn.Module):
    def __init__(self, d_model: int, d_hidden: int, activation: str) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, 2 * d_hidden if activation == "swiglu" else d_hidden)
        self.down = nn.Linear(d_hidden, d_model)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.activation(self.up(x)))


class TwinDynamic(nn.Module):
    """DyT, or with a shift Derf"""

    def __init__(self, d_model: int, *, shifted: bool) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1))
        self.shift = nn.Parameter(torch.zeros(1)) if shifted else None
        self.weight, self.bias = nn.Parameter(torch.zeros(d_model)), nn.Parameter(torch.zeros(d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.alpha * x) if self.shift is None else torch.erf(self.alpha * x + self.shift)
        return self.weight * y + self.bias


def twin_norm(config: DecoderLMConfig) -> nn.Module:
    if config.norm in ("dyt", "derf"):
        return TwinDynamic(config.d_model, shifted=config.norm == "derf")
    kind = nn.LayerNorm if config.norm == "layer_norm" else nn.RMSNorm
    return kind(config.d_model, eps=config.norm_eps)


class TwinBlock(nn.Module):
    def __init__(self, config: DecoderLMConfig) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = twin_norm(config), twin_norm(config)
        rotary_base = config.rotary_base if config.positions == "rotary" else None
        self.attention = TwinAttention(
            config.d_model,
            config.n_heads,
            qkv_bias=config.qkv_bias,
            rotary_base=rotary_base,
            qk_norm=config.qk_norm,
        )
        self.mlp = TwinMLP(config.d_model, config.hidden_width, config.activation)
        self.pre_norm = config.norm_placement == "pre"

    def forward(self, x: torch.Tensor, padding_mask: torch.Tensor | None) -> torch.Tensor:
        if self.pre_norm:
            x = x + self.attention(self.norm_1(x), padding_mask)
            return x + self.mlp(self.norm_2(x))
        x = self.norm_1(x + self.attention(x, padding_mask))
        return self.norm_2(x + self.mlp(x))


class TwinDecoderLM(nn.Module):
    """Dropout is left out: the two libraries' masks could not be equal."""

    def __init__(self, model: DecoderLM) -> None:
        super().__init__()
        config = self.config = model.config
        V, C = config.vocab_size, config.d_model
        self.tokens = nn.Embedding(V, C)
        if config.positions != "rotary":
            self.positions = nn.Embedding(config.context_length, C)
        self.blocks = nn.ModuleList(TwinBlock(config) for _ in range(config.n_layers))
        self.norm = twin_norm(config) if config.norm_placement == "pre" else nn.Identity()
        self.head = nn.Linear(C, V, bias=config.head_bias)
        if config.tie_embeddings:
            self.head.weight = self.tokens.weight
        self._copy_from(model)

    def _copy_from(self, model: DecoderLM) -> None:
        state = {name: torch.from_numpy(array.copy()) for name, array in model.state_dict().items()}
        if self.config.positions == "sinusoidal":
            state["positions.weight"] = torch.from_numpy(model.positions.table.numpy().copy())
            self.positions.weight.requires_grad_(False)
        if self.config.tie_embeddings:
            state["head.weight"] = state["tokens.weight"]
        self.load_state_dict(state)

    def forward(self, ids: torch.Tensor, padding_mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.tokens(ids) * (self.config.d_model**0.5 if self.config.scale_embeddings else 1.0)
        if self.config.positions != "rotary":
            x = x + self.positions(count(padding_mask, ids.shape[1]))
        for block in self.blocks:
            x = block(x, padding_mask)
        return self.head(self.norm(x))


def decay_groups(twin: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    learned = [p for p in twin.parameters() if p.requires_grad]
    return [
        {"params": [p for p in learned if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in learned if p.ndim < 2], "weight_decay": 0.0},
    ]


def gradients(twin: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.grad.numpy() for name, p in twin.named_parameters() if p.grad is not None}
