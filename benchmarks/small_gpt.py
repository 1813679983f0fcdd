"""nanoGPT's small GPT in PyTorch: the yardstick of `benchmarks.speedrun` and of `benchmarks.default_preset`.

GPT-2's layout without biases, one matrix for tokens and output, no dropout; AdamW with weight decay on matrices,
clipped at 1, a line up and half a cosine down to a tenth. `CHARACTERS` is the setting of nanoGPT's README (Karpathy
2022) for a laptop's CPU and the characters of tinyshakespeare.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

CLIP, INIT_STD = 1.0, 0.02


@dataclass(frozen=True)
class Recipe:
    """Shape and training; `steps` and `warmup` may be nominal where a run ends by the clock: see Training.step."""

    layers: int = 4
    heads: int = 4
    width: int = 128
    context: int = 64
    batch: int = 12
    steps: int = 2000
    warmup: int = 100
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    decay: float = 0.1

    def learning_rate(self, done: float) -> float:
        """After so many steps, or parts of one: a line up, then half a cosine down to a tenth."""
        if done < self.warmup:
            return self.lr * (done + 1) / (self.warmup + 1)
        share = min(1.0, (done - self.warmup) / max(1, self.steps - self.warmup))
        return self.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))


CHARACTERS = Recipe()


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).   (B, T, C) → (B, T, C)"""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        C, self.heads = recipe.width, recipe.heads
        self.norm_1, self.norm_2 = nn.LayerNorm(C, bias=False), nn.LayerNorm(C, bias=False)
        self.qkv, self.out = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C, bias=False)
        self.up, self.down = nn.Linear(C, 4 * C, bias=False), nn.Linear(4 * C, C, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, C = x.shape
        heads = self.qkv(self.norm_1(x)).view(B, T, 3, self.heads, C // self.heads).transpose(1, 3)  # (B, H, 3, T, D)
        mixed = functional.scaled_dot_product_attention(heads[:, :, 0], heads[:, :, 1], heads[:, :, 2], is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(B, T, C))
        hidden: torch.Tensor = self.down(functional.gelu(self.up(self.norm_2(x))))
        return x + hidden


class SmallGPT(nn.Module):
    """ids (B, T) → logits (B, T, V), with learned positions."""

    def __init__(self, vocab_size: int, recipe: Recipe = CHARACTERS) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, recipe.width)
        self.positions = nn.Embedding(recipe.context, recipe.width)
        self.blocks = nn.Sequential(*(Block(recipe) for _ in range(recipe.layers)))
        self.norm = nn.LayerNorm(recipe.width, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                into_residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=INIT_STD / math.sqrt(2 * recipe.layers) if into_residual else INIT_STD)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        return functional.linear(self.norm(self.blocks(x)), self.tokens.weight)


class Training:
    """One run on ids (n,), which are below vocab_size; `step` takes the next step.

    compiled  by torch.compile, at the first step
    bf16      products in bfloat16, by autocast
    """

    def __init__(
        self,
        ids: np.ndarray,
        vocab_size: int,
        recipe: Recipe,
        *,
        seed: int,
        threads: int,
        compiled: bool,
        bf16: bool = False,
    ) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        self.ids, self.recipe, self.bf16 = torch.from_numpy(ids), recipe, bf16
        self.model = SmallGPT(vocab_size, recipe)
        self.optimizer = self._optimizer()
        self.loss: Callable[..., torch.Tensor] = torch.compile(self._loss, dynamic=False) if compiled else self._loss

    def _optimizer(self) -> torch.optim.Optimizer:
        matrices = [p for p in self.model.parameters() if p.ndim == 2]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": self.recipe.decay}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.recipe.lr, betas=self.recipe.betas, fused=True)

    def _loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        precision = torch.autocast("cpu", torch.bfloat16) if self.bf16 else contextlib.nullcontext()
        with precision:
            return functional.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten())

    def step(self, done: float) -> None:
        """Random windows, backward, clip, AdamW; `done` steps of recipe.steps decide on the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate(done)
        T = self.recipe.context
        first = torch.randint(len(self.ids) - T, (self.recipe.batch, 1))
        rows = self.ids[first + torch.arange(T + 1)]
        self.loss(rows[:, :-1], rows[:, 1:]).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def warm_up(self, steps: int = 3) -> None:
        """Compile whatever is compiled at the first steps, and forget them: weights, optimizer and chance as before."""
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        chance = torch.get_rng_state()
        for _ in range(steps):
            self.step(0)
        self.model.load_state_dict(weights)
        self.optimizer = self._optimizer()
        torch.set_rng_state(chance)

    @torch.no_grad()
    def validate(self, batches: Sequence[Any]) -> float:
        """Mean loss, nats per token, over (inputs, targets, …) of any number of rows."""
        total = count = 0.0
        for inputs, targets, *_ in batches:
            total += float(self._loss(torch.from_numpy(inputs), torch.from_numpy(targets))) * targets.size
            count += targets.size
        return total / count
