"""Training steps of a small GPT on the emulated device, all kernels together, beside the same steps on the CPU."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from nanograd import backend
from nanograd.data import Batch
from nanograd.device_step import DeviceStep
from nanograd.kernels.cuda.emulation import SCHEDULES
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.optim import AdamW, FlatParameters
from nanograd.settings import TrainConfig

STEPS, B, T, V = 5, 2, 24, 40
SHAPE: dict[str, Any] = {"vocab_size": V, "context_length": T, "n_layers": 2, "n_heads": 2, "d_model": 32}
VARIANTS: dict[str, dict[str, Any]] = {
    "GPT-2's": {"activation": "gelu", "dropout": 0.1},
    "Llama's": {"norm": "rms_norm", "activation": "swiglu", "positions": "rotary", "tie_embeddings": False},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
quick = [SCHEDULES[0], SCHEDULES[-1]]
rest = [pytest.param(schedule, marks=pytest.mark.slow) for schedule in SCHEDULES[1:-1]]
most_in_the_slow_run = pytest.mark.parametrize("schedule", [*quick, *rest], ids=str, indirect=True)


def train(device: str, variant: dict[str, Any]) -> tuple[list[float], list[dict[str, np.ndarray]]]:
    """Losses, and the gradients of every step."""
    model = DecoderLM(DecoderLMConfig(**SHAPE, **variant), seed=1).to(device)
    flat = FlatParameters(model)
    optimizer, losses, gradients = AdamW(flat), [], []
    for step in range(STEPS):
        ids = backend.to_device(np.random.default_rng(step).integers(0, V, (B, T + 1)), device)
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: backend.to_host(p.grad).copy() for name, p in model.named_parameters()})
        optimizer.step(1e-2, zero_grad=True)
    return losses, gradients


@most_in_the_slow_run
@every_variant
def test_loss_and_all_gradients_are_the_cpus(device, variant):
    """Five steps with large strides: a gradient that is a little off moves all that follows."""
    with backend.formulas_only():
        losses, gradients = train("cpu", variant)
    found, there = train("cuda", variant)
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    for step, (right, ours) in enumerate(zip(gradients, there, strict=True)):
        for name, gradient in right.items():
            scale = np.abs(gradient).max()
            np.testing.assert_allclose(ours[name], gradient, rtol=1e-3, atol=1e-4 * scale, err_msg=f"{name}, {step}")


def cost_of_a_step(device: Any, variant: dict[str, Any]) -> Counter[str]:
    """What the third step costs: nothing is new then."""
    model = DecoderLM(DecoderLMConfig(**SHAPE, **variant), seed=1).to("cuda")
    config = TrainConfig(device="cuda", model=model.config, batch_size=B)
    with backend.own_stream("cuda"):
        steps = DeviceStep(config, model, AdamW(FlatParameters(model)), record=False)
        for step in range(3):
            ids = np.random.default_rng(step).integers(0, V, (B, T + 1))
            device.counts.clear()
            answer = steps.enqueue([Batch(ids[:, :-1], ids[:, 1:])], 1e-2)
            cost = device.counts.copy()
            answer.wait()
    return cost


KERNELS = {  # how often each may be launched in a step, without the f32 at the end of its name
    "GPT-2's": {"drop": 8, "layer_norm": 5, "layer_norm_backward": 5, "gelu_forward": 4, "gelu_backward": 2},
    "Llama's": {"rms_norm": 5, "rms_norm_backward": 5, "rotary_rows": 4, "swiglu_forward": 4, "swiglu_backward": 2},
}
IN_BOTH = {"embedding_forward": 2, "embedding_chunk_sums": 1, "cross_entropy_in_place": 1, "squares": 1, "adamw": 2}
AT_MOST = {"GPT-2's": {"launch": 174, "allocation": 147}, "Llama's": {"launch": 162, "allocation": 132}}


@pytest.mark.parametrize("schedule", SCHEDULES[:1], ids=str, indirect=True)
@pytest.mark.parametrize("name", VARIANTS)
def test_what_a_step_costs(device, name):
    """Nobody waits. Whoever makes a step cheaper lowers the numbers here; nobody makes it dearer unnoticed."""
    cost = cost_of_a_step(device, VARIANTS[name])
    assert cost["sync"] == cost["h2d"] == 0
    for kernel, most in (KERNELS[name] | IN_BOTH).items():
        assert 0 < cost[f"{kernel}_f32"] <= most, kernel
    assert {kind: cost[kind] for kind in AT_MOST[name] if cost[kind] > AT_MOST[name][kind]} == {}
