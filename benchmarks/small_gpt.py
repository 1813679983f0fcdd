"""The field's small GPT for a laptop's CPU, in PyTorch: the yardstick of `benchmarks.speedrun`.

nanoGPT's README (Karpathy 2022) trains it on the characters of tinyshakespeare: 4 layers, 4 heads, width 128, context
64, batch 12, 2,000 steps of AdamW, learning rate 1e-3 and by a cosine to 1e-4 after 100 steps of warm-up, betas 0.9 and
0.99, weight decay 0.1 on matrices, clipped at 1, no dropout, no biases, one matrix for tokens and output.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

LAYERS, HEADS, WIDTH, CONTEXT, BATCH, STEPS = 4, 4, 128, 64, 12, 2000
LR, WARMUP, BETAS, DECAY, CLIP = 1e-3, 100, (0.9, 0.99), 0.1, 1.0


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).   (B, T, C) → (B, T, C)"""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, C = x.shape
        heads = self.qkv(self.norm_1(x)).view(B, T, 3, HEADS, C // HEADS).transpose(1, 3)  # (B, H, 3, T, D)
        mixed = functional.scaled_dot_product_attention(heads[:, :, 0], heads[:, :, 1], heads[:, :, 2], is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(B, T, C))
        hidden: torch.Tensor = self.down(functional.gelu(self.up(self.norm_2(x))))
        return x + hidden


class SmallGPT(nn.Module):
    """ids (B, T) → logits (B, T, V), with learned positions."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                into_residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * LAYERS) if into_residual else 0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        return functional.linear(self.norm(self.blocks(x)), self.tokens.weight)


class Training:
    """One run on ids (n,), which are below vocab_size; `step` takes the next step.

    compiled  by torch.compile, at the first step
    """

    def __init__(
        self, ids: np.ndarray, vocab_size: int, *, steps: int, seed: int, threads: int, compiled: bool
    ) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        self.ids, self.steps, self.done = torch.from_numpy(ids), steps, 0
        self.model = SmallGPT(vocab_size)
        matrices = [p for p in self.model.parameters() if p.ndim == 2]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, fused=True)
        self.loss: Callable[..., torch.Tensor] = torch.compile(self._loss, dynamic=False) if compiled else self._loss

    def _loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten())

    def step(self) -> None:
        """Twelve random windows, backward, clip, AdamW."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.done, self.steps)
        first = torch.randint(len(self.ids) - CONTEXT, (BATCH, 1))
        rows = self.ids[first + torch.arange(CONTEXT + 1)]
        self.loss(rows[:, :-1], rows[:, 1:]).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1

    @torch.no_grad()
    def validate(self, batches: Sequence[Any]) -> float:
        """Mean loss, nats per character, over (inputs, targets, …) of any number of rows."""
        total = count = 0.0
        for inputs, targets, *_ in batches:
            total += float(self._loss(torch.from_numpy(inputs), torch.from_numpy(targets))) * targets.size
            count += targets.size
        return total / count


def learning_rate(step: int, steps: int) -> float:
    """Of step 0 … steps − 1: a line up, then half a cosine down to a tenth."""
    if step < WARMUP:
        return LR * (step + 1) / (WARMUP + 1)
    share = (step - WARMUP) / max(1, steps - WARMUP)
    return LR * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))
