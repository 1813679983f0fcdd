"""What training promises whatever computes it: the same bits for a thread count, the formulas' losses for the kernels.

Each run is a process of its own, because threads and NANOGRAD_KERNELS are settled when Numba is imported. Models have
dropout everywhere, enough parameters for the compiled AdamW, and enough rows for every thread.

All processes read their kernels from disk, where one that is not looked at has put them: code that Numba has compiled
in the same process is optimized once less than what it keeps, and rounds differently in the last bit here and there.
"""

import functools
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanograd import kernels
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.optim import AdamW, FlatParameters, clip_scale, warmup_cosine

STEPS, B, T, V = 30, 8, 48, 512
SHAPE: dict[str, Any] = {"vocab_size": V, "context_length": T, "n_layers": 2, "n_heads": 4, "d_model": 64}
DROPOUT = {"dropout": 0.1, "attention_dropout": 0.1, "embedding_dropout": 0.1}
# No ReLU: where its input rounds to another side of zero, two equal runs part for good.
VARIANTS: dict[str, dict[str, Any]] = {
    "layer norm, gelu, sinusoids": {},
    "layer norm, tanh gelu, learned positions": {"activation": "gelu-tanh", "positions": "learned"},
    "rms norm, swiglu, rotary positions": {"norm": "rms_norm", "activation": "swiglu", "positions": "rotary"},
    "post-norm, silu, free head": {
        "norm_placement": "post",
        "activation": "silu",
        "tie_embeddings": False,
        "head_bias": True,
    },
}
ROOT = Path(__file__).parents[2]
every = pytest.mark.parametrize


def train(variant: dict[str, Any], steps: int) -> dict[str, Any]:
    """As the training command does it; all losses, and a hash of the last weights."""
    model = DecoderLM(DecoderLMConfig(**SHAPE, **DROPOUT, **variant), seed=1)
    flat = FlatParameters(model)
    optimizer, rng, losses = AdamW(flat), np.random.default_rng(0), []
    follows, text = rng.integers(0, V, (V, 3)), [0]
    for choice in rng.integers(0, 3, 20_000):
        text.append(follows[text[-1], choice])
    for step in range(steps):
        starts = rng.integers(0, len(text) - T - 1, B)
        windows = np.array(text)[starts[:, None] + np.arange(T + 1)]
        loss = model.loss(windows[:, :-1], windows[:, 1:])
        loss.backward()
        _, scale = clip_scale(flat, 1.0)
        lr = warmup_cosine(step, peak=3e-3, warmup_steps=5, total_steps=STEPS)
        optimizer.step(lr, scale=scale, zero_grad=True)
        losses.append(loss.item())
    return {"losses": losses, "weights": hashlib.sha256(flat.parameters.tobytes()).hexdigest()}


def print_runs(precision: Any, steps: int) -> None:
    """What a process of its own does."""
    kernels.load(precision)
    print(json.dumps({name: train(variant, steps) for name, variant in VARIANTS.items()}))


@functools.cache
def runs(threads: int, precision: str = "float32", *, formulas: bool = False, again: bool = False) -> dict[str, Any]:
    """All variants in one process; `again` makes another process of the same kind."""
    if not formulas:
        compile_all(precision)
    return process(STEPS, precision, NUMBA_NUM_THREADS=str(threads), NANOGRAD_KERNELS="0" if formulas else "1")


@functools.cache
def compile_all(precision: str) -> None:
    process(1, precision, NANOGRAD_KERNELS="1")


def process(steps: int, precision: str, **environment: str) -> dict[str, Any]:
    settings = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"} | environment
    code = f"from tests.nanograd.test_guarantees import print_runs; print_runs({precision!r}, {steps})"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=settings, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def far(one: list[float], two: list[float]) -> float:
    return float(np.abs(np.array(one) - np.array(two)).max())


@every("name", VARIANTS)
def test_kernels_give_the_formulas_loss_curve(name):
    ours, formulas = runs(2)[name]["losses"], runs(2, formulas=True)[name]["losses"]
    assert ours[-1] < ours[0] - 0.3, "it must have learned something"
    assert ours != formulas, "were the kernels off in both?"
    assert far(ours, formulas) <= 1e-4


@every("threads", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_same_bits_in_another_process(threads):
    assert runs(threads) == runs(threads, again=True)


@pytest.mark.slow
@every("threads", [1, 4])
def test_threads_change_no_more_than_rounding(threads):
    for name in VARIANTS:
        assert far(runs(threads)[name]["losses"], runs(2)[name]["losses"]) <= 1e-4


def can_bf16() -> bool:
    try:
        kernels.check_matmul_precision("bf16", "cpu")
    except ValueError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not can_bf16(), reason="this CPU has no bf16 products")
@every("threads", [1, 4])
def test_the_same_bits_in_bf16(threads):
    assert runs(threads, "bf16") == runs(threads, "bf16", again=True)
    assert runs(threads, "bf16") != runs(threads)
