"""AdamW and clipping against PyTorch."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is the yardstick of these tests: pip install 'nanograd[peers]'")
import torch

from nanograd import nn
from nanograd.optim import AdamW, FlatParameters, clip_grad_norm
from tests.torch_twin import decay_groups

SHAPES = [(40, 30), (30,), (7, 11), (1,), (5, 2, 3)]


class Mixed(nn.Module):
    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.weights = [nn.Parameter(rng.standard_normal(shape, dtype=np.float32)) for shape in SHAPES]


@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.9, 0.999), (0.0, 0.5)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_fifty_steps_of_adamw_with_clipping(betas: tuple[float, float], weight_decay: float) -> None:
    module = Mixed()
    twin = torch.nn.ParameterList(torch.from_numpy(p.data.copy()) for p in module.weights)
    flat = FlatParameters(module)
    ours = AdamW(flat, betas=betas, eps=1e-8, weight_decay=weight_decay)
    theirs = torch.optim.AdamW(decay_groups(twin, weight_decay), betas=betas, eps=1e-8)
    rng = np.random.default_rng(1)
    for step in range(50):
        for parameter, p in zip(module.weights, twin, strict=True):
            gradient = rng.standard_normal(parameter.shape, dtype=np.float32) * float(rng.choice([0.01, 1, 3]))
            parameter.grad[...] = gradient
            p.grad = torch.from_numpy(gradient.copy())
        norm = clip_grad_norm(flat, 20.0)
        assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(twin, 20.0)), rel=1e-6)
        np.testing.assert_allclose(module.weights[0].grad, twin[0].grad.numpy(), rtol=2e-6)
        lr = 1e-2 / (1 + step)
        for group in theirs.param_groups:
            group["lr"] = lr
        ours.step(lr)
        theirs.step()
    for parameter, p in zip(module.weights, twin, strict=True):
        np.testing.assert_allclose(parameter.data, p.detach().numpy(), rtol=0, atol=1e-6)
