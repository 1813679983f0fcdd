"""The optimizers and clipping against PyTorch's, fifty steps in float32."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is the yardstick of these tests: pip install 'nanograd[peers]'")
import torch

from nanograd import nn
from nanograd.optim import SGD, Adafactor, Adam, AdamW, FlatParameters, Lion, Muon, clip_grad_norm
from tests.torch_twin import decay_groups

SHAPES = [(40, 30), (30,), (7, 11), (1,), (5, 2, 3)]
every = pytest.mark.parametrize


class Mixed(nn.Module):
    def __init__(self, shapes: Any = SHAPES) -> None:
        rng = np.random.default_rng(0)
        self.weights = [nn.Parameter(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]


def compare(make: Any, make_theirs: Any, *, steps: int = 50, atol: float = 1e-6, shapes: Any = SHAPES) -> None:
    """Gradients of very different sizes, clipped, and a learning rate that falls."""
    module = Mixed(shapes)
    twin = torch.nn.ParameterList(torch.from_numpy(p.data.copy()) for p in module.weights)
    flat = FlatParameters(module)
    ours, theirs, rng = make(flat), make_theirs(twin), np.random.default_rng(1)
    for step in range(steps):
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
        np.testing.assert_allclose(parameter.data, p.detach().numpy(), rtol=0, atol=atol)


@every("betas", [(0.9, 0.95), (0.9, 0.999), (0.0, 0.5)])
@every("weight_decay", [0.0, 0.1])
def test_adamw(betas: tuple[float, float], weight_decay: float) -> None:
    compare(
        lambda flat: AdamW(flat, betas=betas, weight_decay=weight_decay),
        lambda twin: torch.optim.AdamW(decay_groups(twin, weight_decay), betas=betas, eps=1e-8),
    )


def test_adam() -> None:
    compare(Adam, lambda twin: torch.optim.Adam(twin.parameters(), betas=(0.9, 0.999), eps=1e-8))


@every(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd(momentum: float, nesterov: bool) -> None:
    """Without decay: theirs adds it to the gradient, ours is decoupled."""
    compare(
        lambda flat: SGD(flat, momentum=momentum, nesterov=nesterov),
        lambda twin: torch.optim.SGD(twin.parameters(), lr=1.0, momentum=momentum, nesterov=nesterov),
    )


@every("weight_decay", [0.0, 0.1])
def test_adafactor(weight_decay: float) -> None:
    """PyTorch's knows the relative step only."""
    compare(
        lambda flat: Adafactor(flat, relative_step=True, weight_decay=weight_decay),
        lambda twin: torch.optim.Adafactor(decay_groups(twin, weight_decay), lr=1.0),
    )


@every("nesterov", [True, False])
def test_muon(nesterov: bool) -> None:
    """PyTorch's Newton–Schulz runs in bfloat16: its steps are right to some percent. 50 of ours, at 10⁻² / step, move a
    weight by up to 0.05; measured, they end at most 1.4·10⁻³ apart.
    """
    shapes = [(40, 30), (16, 64)]
    hidden = {"weights.0": (40,), "weights.1": (16,)}
    compare(
        lambda flat: Muon(flat, hidden=hidden, nesterov=nesterov),
        lambda twin: torch.optim.Muon(
            twin.parameters(), nesterov=nesterov, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
        ),
        atol=3e-3,
        shapes=shapes,
    )


@pytest.mark.usefixtures("exact_newton_schulz")
def test_muon_with_pytorchs_iteration_in_float32() -> None:
    shapes = [(40, 30), (16, 64)]
    compare(
        lambda flat: Muon(flat, hidden={"weights.0": (40,), "weights.1": (16,)}),
        lambda twin: torch.optim.Muon(twin.parameters(), weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        atol=1e-5,
        shapes=shapes,
    )


@pytest.fixture
def exact_newton_schulz(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their iteration begins with `grad.bfloat16()`; there this leaves float32 as it is."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda x: x.clone())


class TorchLion(torch.optim.Optimizer):
    """Chen et al. 2023, algorithm 2, in PyTorch's words: PyTorch has no Lion."""

    def __init__(self, groups: Any) -> None:
        super().__init__(groups, {"lr": 1.0})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(m.lerp(p.grad, 1 - 0.9).sign_(), alpha=-group["lr"])
                m.lerp_(p.grad, 1 - 0.99)


def test_lion() -> None:
    compare(lambda flat: Lion(flat, weight_decay=0.1), lambda twin: TorchLion(decay_groups(twin, 0.1)))
