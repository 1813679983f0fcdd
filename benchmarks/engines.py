"""What `benchmarks.train_step` compares: each engine builds the same GPT and returns a function that takes a step.

The weights are those of nanograd's DecoderLM, seed 0, made in every process; the other libraries' twins copy them.
"""

import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np

from benchmarks.turns import Answer, is_installed
from nanograd import terminal
from nanograd.models import DecoderLM, DecoderLMConfig

Step = Callable[[np.ndarray, np.ndarray], float]  # ids, targets (B, T) → loss
OURS = {"float32": "nanograd", "bf16": "nanograd-bf16"}
PEERS = ("torch", "torch-bf16", "torch-compile", "torch-compile-bf16", "jax", "tinygrad")
LR, BETAS, WEIGHT_DECAY = 3e-4, (0.9, 0.95), 0.1
BATCHES = 4  # that come round again: the losses fall, so a wrong update shows in them


def gpt(vocab_size: int, context_length: int, n_layers: int, d_model: int, n_heads: int) -> DecoderLMConfig:
    """GPT-2's layout: pre-norm, tanh GELU, learned positions, tied head, no dropout."""
    return DecoderLMConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        activation="gelu-tanh",
        positions="learned",
        scale_embeddings=False,
        embedding_std=0.02,
    )


SHAPES: dict[str, tuple[DecoderLMConfig, int]] = {  # and sequences in a batch
    "A50k": (gpt(50_257, 128, n_layers=12, d_model=256, n_heads=8), 16),
    "A8k": (gpt(8192, 128, n_layers=12, d_model=256, n_heads=8), 16),
    "B": (gpt(65, 64, n_layers=4, d_model=128, n_heads=4), 12),
    "C": (gpt(50_257, 64, n_layers=12, d_model=768, n_heads=12), 4),
    "test": (gpt(65, 16, n_layers=2, d_model=32, n_heads=2), 2),
}


def batch(config: DecoderLMConfig, B: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """ids and targets (B, T) of a step, the same in every process."""
    rng = np.random.default_rng(step % BATCHES)
    windows = rng.integers(0, config.vocab_size, (B, config.context_length + 1))
    return windows[:, :-1], windows[:, 1:]


def nanograd_step(config: DecoderLMConfig, *, precision: Any) -> Step:
    """As `python -m nanograd.train` does it."""
    from nanograd import backend, kernels
    from nanograd.optim import AdamW, FlatParameters

    backend.keep_freed_memory()
    kernels.load(precision)
    model = DecoderLM(config, seed=0)
    optimizer = AdamW(FlatParameters(model), betas=BETAS, weight_decay=WEIGHT_DECAY)

    def step(ids: np.ndarray, targets: np.ndarray) -> float:
        loss = model.loss(ids, targets)
        loss.backward()
        optimizer.step(LR, zero_grad=True)
        return float(loss.item())

    return step


def torch_step(config: DecoderLMConfig, *, compiled: bool, bf16: bool, threads: int) -> Step:
    """The twin of the parity tests, with what makes PyTorch fast: causal flash attention, the fused AdamW."""
    import torch

    from tests.torch_twin import TwinDecoderLM, decay_groups

    torch.set_num_threads(threads)  # importing the twin set another number
    twin = TwinDecoderLM(DecoderLM(config, seed=0))
    optimizer = torch.optim.AdamW(decay_groups(twin, WEIGHT_DECAY), lr=LR, betas=BETAS, fused=True)

    def loss_of(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(twin(ids).flatten(0, 1), targets.flatten())

    forward = torch.compile(loss_of, dynamic=False) if compiled else loss_of

    def step(ids: np.ndarray, targets: np.ndarray) -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = forward(torch.from_numpy(ids), torch.from_numpy(targets))
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def make_step(engine: str, config: DecoderLMConfig, threads: int) -> Step:
    """engine: nanograd, torch, jax or tinygrad, then -compile and -bf16 as wanted."""
    name, *options = engine.split("-")
    bf16 = "bf16" in options
    if name == "nanograd":
        return nanograd_step(config, precision="bf16" if bf16 else "float32")
    if name == "torch":
        return torch_step(config, compiled="compile" in options, bf16=bf16, threads=threads)
    weights, settings = DecoderLM(config, seed=0).state_dict(), {"lr": LR, "betas": BETAS, "decay": WEIGHT_DECAY}
    if name == "jax":
        from benchmarks.jax_engine import jax_step

        return jax_step(config, weights, **settings)
    from benchmarks.tinygrad_engine import tinygrad_step

    return tinygrad_step(config, weights, **settings)


def prepare(engine: str, shape: str, threads: int) -> Answer:
    """An engine's process: for a number it takes that many steps and answers (ms, losses, peak MB)."""
    config, B = SHAPES[shape]
    take_step, taken = make_step(engine, config, threads), 0

    def answer(question: Any) -> Any:
        nonlocal taken
        if question == "product peak":
            from nanograd.kernels.cpu.peak import product_peak

            return product_peak()
        batches = [batch(config, B, taken + i) for i in range(question)]
        ms, losses = zip(*(timed(take_step, *arrays) for arrays in batches), strict=True)
        taken += len(batches)
        return list(ms), list(losses), peak_mb()

    return answer


def why_not(engine: str) -> str | None:
    """What an engine needs and this machine lacks; None if it can run."""
    name = engine.split("-")[0]
    if not is_installed(name):
        return "it is not installed (pip install 'nanograd[peers]')"
    if name == "tinygrad" and which("clang") is None:
        return "it compiles with clang, which is not installed"
    return None


def version_of(engine: str) -> str:
    """As its package says."""
    return version(engine.split("-")[0])


def arithmetic(c: DecoderLMConfig, B: int) -> float:
    """GFLOP of a step's products: what a formula must multiply and add, not what an engine computes twice.

    6 for each weight of a matrix and each token: 2 forward, 4 backward. Position and token vectors are looked up, but
    the tied output layer is a matrix. Attention: two products forward and four backward of T² C, half of it masked.
    """
    matrices = c.n_layers * (4 * c.d_model**2 + 2 * c.d_model * c.hidden_width) + c.vocab_size * c.d_model
    attention = c.n_layers * 6 * c.context_length * c.d_model
    return 1e-9 * B * c.context_length * (6 * matrices + attention)


def timed(take_step: Step, ids: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """One step: ms, loss."""
    start = time.perf_counter()
    loss = take_step(ids, targets)
    return 1e3 * (time.perf_counter() - start), loss


def peak_mb() -> float:
    """Most memory that this process has held, in 10⁶ bytes. Linux's getrusage would count the parent's, before exec."""
    status = Path("/proc/self/status")
    if not status.exists():
        return terminal.peak_memory_mb()
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6
