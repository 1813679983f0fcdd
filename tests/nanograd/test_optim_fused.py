"""The optimizer inside backward: the same weights bit for bit, less memory, and no quiet mistakes."""

import gc
import tracemalloc

import numpy as np
import pytest

from nanograd import nn, ops
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.nn.recompute import recompute
from nanograd.optim import (
    SGD,
    Adafactor,
    Adam,
    AdamW,
    Averaged,
    FlatParameters,
    FusedIntoBackward,
    Lion,
    Muon,
    NonFiniteGradientError,
)
from nanograd.optim import compiled as compiled_module
from nanograd.tensor import Tensor

SHAPE = {"vocab_size": 37, "context_length": 8, "n_layers": 2, "n_heads": 2, "d_model": 24}
every = pytest.mark.parametrize
MAKERS = {
    "adamw": lambda model, flat: AdamW(flat),
    "adam": lambda model, flat: Adam(flat),
    "sgd": lambda model, flat: SGD(flat, nesterov=True),
    "lion": lambda model, flat: Lion(flat),
    "adafactor": lambda model, flat: Adafactor(flat, relative_step=True),
    "muon": lambda model, flat: Muon(flat, hidden=model.hidden_matrices()),
    "averaged": lambda model, flat: Averaged(AdamW(flat), decay=0.9),
}


def losses(model: DecoderLM, steps: int):
    rng = np.random.default_rng(0)
    for _ in range(steps):
        ids = rng.integers(0, 37, (3, 9))
        yield model.loss(ids[:, :-1], ids[:, 1:])


def train(name: str, *, fused: bool, again: bool = False, steps: int = 4, **changes):
    """Weights, state and gradient norms after some steps."""
    model = DecoderLM(DecoderLMConfig(**SHAPE, **changes), seed=1)
    model.recompute_blocks = again
    flat = FlatParameters(model, with_gradients=not fused)
    optimizer = MAKERS[name](model, flat)
    inside = FusedIntoBackward(optimizer) if fused else None
    norms = []
    for i, loss in enumerate(losses(model, steps)):
        if inside is None:
            loss.backward()
            norms.append(float(np.linalg.norm(flat.gradients.astype(np.float64))))
            optimizer.step(1e-2 / (1 + i), zero_grad=True)
        else:
            with inside.step(1e-2 / (1 + i)):
                loss.backward()
            norms.append(inside.norm)
    return model.state_dict(), optimizer.state_dict(), norms


def agree(name: str, **settings) -> None:
    weights, state, norms = train(name, fused=False, **settings)
    fused_weights, fused_state, fused_norms = train(name, fused=True, **settings)
    for ours, theirs in ((weights, fused_weights), (state, fused_state)):
        assert ours.keys() == theirs.keys()
        for key, array in ours.items():
            np.testing.assert_array_equal(theirs[key], array, err_msg=key)
    np.testing.assert_allclose(fused_norms, norms, rtol=1e-5)


@every("name", MAKERS)
def test_weights_and_state_are_those_of_backward_and_step(name):
    """Tied embeddings among them: used by the first and by the last operation."""
    agree(name)


@every(
    "settings",
    [
        {"again": True},
        {"tie_embeddings": False, "head_bias": True, "positions": "learned"},
        {"dropout": 0.2, "norm": "rms_norm", "norm_placement": "post", "activation": "swiglu", "positions": "rotary"},
    ],
    ids=["recompute", "untied", "post-norm"],
)
def test_every_kind_of_model(settings):
    agree("adamw", **settings)
    agree("muon", **settings)


@every("name", ["adamw", "sgd", "lion", "muon", "averaged"])
@pytest.mark.usefixtures("twins")
def test_the_compiled_passes_agree_too(name, monkeypatch):
    monkeypatch.setattr(compiled_module, "SMALLEST", 1)
    agree(name)


class Twice(nn.Module):
    """One matrix used by two operations, a parameter that nothing uses, and a frozen one."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.shared = nn.Parameter(rng.standard_normal((5, 5)).astype(np.float32))
        self.idle = nn.Parameter(np.ones((3, 3), np.float32))
        self.frozen = nn.Parameter(np.ones(5, np.float32))
        self.frozen.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        x = ops.linear(x, self.shared) + self.frozen
        return ops.linear(ops.gelu(x), self.shared)


def test_a_parameter_waits_for_its_last_use_and_an_idle_one_decays():
    x, results = Tensor(np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)), []
    for fused in (False, True):
        module = Twice()
        flat = FlatParameters(module, with_gradients=not fused)
        optimizer = AdamW(flat, weight_decay=0.5)
        if fused:
            inside = FusedIntoBackward(optimizer)
            with inside.step(0.1):
                module(x).sum().backward()
        else:
            module(x).sum().backward()
            optimizer.step(0.1)
        results.append(flat.parameters)
        np.testing.assert_allclose(module.idle.data, 0.95)
        assert (module.frozen.data == 1).all()
    np.testing.assert_array_equal(*results)


def peak(*, fused: bool) -> tuple[int, int]:
    """Bytes at the peak of the second step beyond what was there before it, and those of all parameters."""
    model = nn.Module()
    model.layers = [nn.Linear(256, 256, rng=np.random.default_rng(i)) for i in range(8)]
    flat = FlatParameters(model, with_gradients=not fused)
    optimizer = AdamW(flat)
    inside = FusedIntoBackward(optimizer) if fused else None
    x = Tensor(np.ones((2, 256), np.float32))
    tracemalloc.start()
    try:
        for _ in range(2):
            y = x
            for layer in model.layers:
                y = layer(y)
            loss = y.sum()
            gc.collect()
            tracemalloc.reset_peak()
            if inside is None:
                loss.backward()
                optimizer.step(0.1, zero_grad=True)
            else:
                with inside.step(0.1):
                    loss.backward()
            del loss, y
        return tracemalloc.get_traced_memory()[1], flat.parameters.nbytes + (0 if fused else flat.gradients.nbytes)
    finally:
        tracemalloc.stop()


def test_gradients_never_exist_together():
    """Eight layers, but the gradients of hardly more than one at any time: without views, backward makes the rest anew.

    Unfused, the gradients' buffer was there before the measurement began, so it is counted apart.
    """
    (fused, parameters), (plain, with_gradients) = peak(fused=True), peak(fused=False)
    gradients = with_gradients - parameters
    assert gradients == parameters
    saved = plain + gradients - fused
    assert saved > 0.6 * gradients, (fused, plain, gradients)


def test_backward_outside_of_a_step_is_refused():
    model = DecoderLM(DecoderLMConfig(**SHAPE))
    fused = FusedIntoBackward(AdamW(FlatParameters(model, with_gradients=False)))
    with pytest.raises(RuntimeError, match=r"inside `with fused\.step"):
        next(losses(model, 1)).backward()
    with fused.step(0.1):  # what the refusal left behind does not count
        next(losses(model, 1)).backward()


def test_two_backwards_in_one_step_are_refused():
    model = DecoderLM(DecoderLMConfig(**SHAPE))
    fused = FusedIntoBackward(AdamW(FlatParameters(model, with_gradients=False)))
    first, second = losses(model, 2)
    with fused.step(0.1):
        first.backward()
        with pytest.raises(RuntimeError, match="had its step already: one backward a step"):
            second.backward()


def test_a_parameter_also_used_outside_of_recompute_is_refused():
    module, x = Twice(), Tensor(np.ones((4, 5), np.float32))
    fused = FusedIntoBackward(AdamW(FlatParameters(module, with_gradients=False)))
    with pytest.raises(RuntimeError, match="shared had its step already"), fused.step(0.1):
        ops.linear(recompute(module, ops.linear(x, module.shared)), module.shared).sum().backward()


def test_a_gradient_that_is_no_number_reaches_no_weight_of_its_parameter():
    module = Twice()
    before = module.shared.data.copy()
    fused = FusedIntoBackward(AdamW(FlatParameters(module, with_gradients=False)))
    x = Tensor(np.full((4, 5), np.inf, np.float32))
    with np.errstate(invalid="ignore"), pytest.raises(NonFiniteGradientError), fused.step(0.1):
        module(x).sum().backward()
    np.testing.assert_array_equal(module.shared.data, before)
    assert not np.isfinite(fused.norm)
    assert module.shared.grad is None


def test_gradients_must_have_no_buffer():
    with pytest.raises(ValueError, match="with_gradients=False"):
        FusedIntoBackward(AdamW(FlatParameters(Twice())))


def test_only_leaves_can_be_complete():
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    for wrong in (x * 2.0, Tensor(np.ones(3, np.float32))):
        with pytest.raises(RuntimeError, match="only a leaf that requires a gradient"):
            wrong.when_complete(lambda: None)


def test_completion_is_told_once_after_the_last_use_and_before_older_operations():
    """w is used late only, x early and late: w is complete before x."""
    x, w = (Tensor(np.full(3, value, np.float32), requires_grad=True) for value in (2.0, 3.0))
    told = []
    x.when_complete(lambda: told.append(("x", x.grad.copy())))
    w.when_complete(lambda: told.append(("w", w.grad.copy())))
    y = ops.exp(x * 0.5)
    (y * w * x).sum().backward()
    assert [name for name, _ in told] == ["w", "x"]
    np.testing.assert_allclose(told[0][1], np.exp(1.0) * 2.0, rtol=1e-6)
    np.testing.assert_allclose(told[1][1], 3 * np.exp(1.0) * (1 + 0.5 * 2), rtol=1e-6)
    x.when_complete(None)
    (x * w).sum().backward()
    assert [name for name, _ in told] == ["w", "x", "w"]
