"""The whole loop: the same 200 steps in PyTorch, and the same bits twice."""

from typing import Any

import msgspec
import numpy as np
import pytest

from nanograd import ops
from nanograd.models import PRESETS, DecoderLM, DecoderLMConfig
from nanograd.optim import AdamW, FlatParameters, clip_grad_norm, warmup_cosine

STEPS, B, T, V = 200, 8, 16, 64
SHAPE: dict[str, Any] = {"vocab_size": V, "context_length": T, "n_layers": 2, "n_heads": 2, "d_model": 32}
# Where a ReLU's input rounds to different sides of zero in two libraries, two equal runs part for good: 9 of 18 did.
COMPARABLE = {"dropout": 0.0, "attention_dropout": 0.0, "activation": "gelu"}
PEAK, WEIGHT_DECAY, BETAS, MAX_NORM = 3e-3, 0.1, (0.9, 0.95), 1.0


def batches(steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Windows of a text that can be learned: each letter follows one of three others."""
    rng = np.random.default_rng(0)
    follows, text = rng.integers(0, V, (V, 3)), [0]
    for choice in rng.integers(0, 3, 20_000):
        text.append(follows[text[-1], choice])
    starts = rng.integers(0, len(text) - T - 1, (steps, B))
    windows = np.array(text)[starts[..., None] + np.arange(T + 1)]
    return [(window[:, :-1], window[:, 1:]) for window in windows]


def learning_rate(step: int) -> float:
    return warmup_cosine(step, peak=PEAK, warmup_steps=20, total_steps=STEPS)


def train(config: DecoderLMConfig, steps: int = STEPS) -> tuple[DecoderLM, list[float]]:
    model = DecoderLM(config, seed=3)
    flat = FlatParameters(model)
    optimizer = AdamW(flat, betas=BETAS, weight_decay=WEIGHT_DECAY)
    losses = []
    for step, (ids, targets) in enumerate(batches(steps)):
        flat.zero_grad()
        loss = ops.cross_entropy(model(ids), targets)
        loss.backward()
        clip_grad_norm(flat, MAX_NORM)
        optimizer.step(learning_rate(step))
        losses.append(loss.item())
    return model, losses


def train_in_torch(config: DecoderLMConfig) -> list[float]:
    import torch

    from tests.torch_twin import TwinDecoderLM, decay_groups

    twin = TwinDecoderLM(DecoderLM(config, seed=3))
    optimizer = torch.optim.AdamW(decay_groups(twin, WEIGHT_DECAY), betas=BETAS)
    losses = []
    for step, (ids, targets) in enumerate(batches(STEPS)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.zero_grad()
        logits = twin(torch.from_numpy(ids))
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, V), torch.from_numpy(targets).reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), MAX_NORM)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", ["tiny", "psyduck-60m", "llm-small-131m"])
def test_two_hundred_steps_as_in_torch(name: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is the yardstick of this test: pip install 'nanograd[peers]'")
    config = msgspec.structs.replace(PRESETS[name], **SHAPE, **COMPARABLE)
    ours, theirs = train(config)[1], train_in_torch(config)
    assert ours[-1] < 0.7 * ours[0], "it must have learned something"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_a_seed_is_a_run_bit_for_bit() -> None:
    config = DecoderLMConfig(**SHAPE, dropout=0.1, attention_dropout=0.1)
    (one, losses_one), (two, losses_two) = train(config, 10), train(config, 10)
    assert losses_one == losses_two
    for name, array in one.state_dict().items():
        np.testing.assert_array_equal(array, two.state_dict()[name])
