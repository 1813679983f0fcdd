"""PyTorch on a GPU as a yardstick: python -m benchmarks.gpu_peer gpt2 | small, for nanograd.gpucheck.

Prints one line of JSON: tokens per second and peak memory of the same model, eager with SDPA and by torch.compile, in
bf16 autocast with fused AdamW, on random tokens.
"""

import json
import sys
import time
from typing import Any

from nanograd.gpucheck.training import GPT2, SMALL
from nanograd.models import DecoderLMConfig

SHAPES = {"gpt2": (GPT2, 64, 20), "small": (SMALL, 16, 100)}


def model_of(config: DecoderLMConfig) -> Any:
    """GPT-2 as nanoGPT writes it: tied output layer, biases, tanh-free GELU, attention by SDPA."""
    import torch
    from torch import nn
    from torch.nn import functional

    C, H = config.d_model, config.n_heads

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm_1, self.norm_2 = nn.LayerNorm(C), nn.LayerNorm(C)
            self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
            self.up, self.down = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

        def forward(self, x: Any) -> Any:
            B, T, _ = x.shape
            q, k, v = self.qkv(self.norm_1(x)).view(B, T, 3, H, C // H).permute(2, 0, 3, 1, 4)
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(B, T, C))
            return x + self.down(functional.gelu(self.up(self.norm_2(x))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(config.vocab_size, C), nn.Embedding(config.context_length, C)
            self.blocks, self.norm = nn.ModuleList(Block() for _ in range(config.n_layers)), nn.LayerNorm(C)

        def forward(self, ids: Any, targets: Any) -> Any:
            x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
            for block in self.blocks:
                x = block(x)
            logits = functional.linear(self.norm(x), self.tokens.weight)
            return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return Model()


def measure(config: DecoderLMConfig, batch_size: int, steps: int, *, compiled: bool, device: str) -> dict[str, float]:
    """Steps of forward, backward, clipping and AdamW."""
    import torch

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    model = model_of(config).to(device)
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    ids = torch.randint(config.vocab_size, (batch_size, config.context_length + 1), device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            loss = run(ids[:, :-1], ids[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        step()
    wait()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    seconds = (time.perf_counter() - began) / steps
    memory = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0
    return {"tokens_per_second": batch_size * config.context_length / seconds, "memory_gb": memory}


def main(argv: list[str], *, device: str = "cuda") -> None:
    """Measure one shape, both ways."""
    config, batch_size, steps = SHAPES[argv[0]]
    ways = {"eager": False, "compiled": True}
    found = {}
    for name, compiled in ways.items():
        found[name] = measure(config, batch_size, steps, compiled=compiled, device=device)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
