"""Five training steps of a small GPT on the emulated device, all kernels together, beside the same steps on the CPU."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from nanograd import backend
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.optim import AdamW, FlatParameters, clip_grad_norm

STEPS, B, T, V = 5, 2, 24, 40
SHAPE: dict[str, Any] = {"vocab_size": V, "context_length": T, "n_layers": 2, "n_heads": 2, "d_model": 32}
VARIANTS: dict[str, dict[str, Any]] = {
    "GPT-2's": {"activation": "gelu", "dropout": 0.1},
    "Llama's": {"norm": "rms_norm", "activation": "swiglu", "positions": "rotary", "tie_embeddings": False},
}


def train(device: str, variant: dict[str, Any]) -> tuple[list[float], list[dict[str, np.ndarray]], Counter[str]]:
    """Losses, the gradients of every step, and what the last step cost on the device."""
    from tests.fake_cupy import counts

    model = DecoderLM(DecoderLMConfig(**SHAPE, **variant), seed=1).to(device)
    flat = FlatParameters(model)
    optimizer, losses, gradients = AdamW(flat), [], []
    for step in range(STEPS):
        ids = np.random.default_rng(step).integers(0, V, (B, T + 1))
        there = backend.to_device(ids, device)
        counts.clear()
        loss = model.loss(there[:, :-1], there[:, 1:])
        loss.backward()
        clip_grad_norm(flat, 1.0)
        cost = counts.copy()
        losses.append(loss.item())
        gradients.append({name: backend.to_host(p.grad).copy() for name, p in model.named_parameters()})
        flat.zero_grad()
        optimizer.step(1e-2)
    return losses, gradients, cost


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_loss_and_all_gradients_are_the_cpus(device, variant):
    with backend.formulas_only():
        losses, gradients, _ = train("cpu", variant)
    found, there, cost = train("cuda", variant)
    print(cost)
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    for step, (right, ours) in enumerate(zip(gradients, there, strict=True)):
        for name, gradient in right.items():
            scale = np.abs(gradient).max()
            np.testing.assert_allclose(ours[name], gradient, rtol=1e-3, atol=1e-4 * scale, err_msg=f"{name}, {step}")
    assert cost["sync"] == 0
