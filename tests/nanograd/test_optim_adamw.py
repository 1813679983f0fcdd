"""AdamW: one step by hand, chunks, saved state, errors."""

import numpy as np
import pytest

from nanograd import nn
from nanograd.optim import AdamW, FlatParameters
from nanograd.optim import optimizer as optimizer_module


class TwoKinds(nn.Module):
    def __init__(self) -> None:
        self.gain = nn.Parameter(np.linspace(1, 2, 7, dtype=np.float32))
        self.matrix = nn.Parameter(np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3))


def packed() -> tuple[TwoKinds, FlatParameters]:
    module = TwoKinds()
    flat = FlatParameters(module)
    flat.gradients[...] = np.random.default_rng(0).standard_normal(22)
    return module, flat


def test_the_first_step_is_the_sign_of_the_gradient_and_only_matrices_decay() -> None:
    """m̂ = g and v̂ = g² at t = 1, so the step is lr · sign g."""
    module, flat = packed()
    gain, matrix = module.gain.data.copy(), module.matrix.data.copy()
    AdamW(flat, weight_decay=0.5).step(0.1)
    np.testing.assert_allclose(module.gain.data, gain - 0.1 * np.sign(module.gain.grad), rtol=1e-5)
    np.testing.assert_allclose(module.matrix.data, matrix * 0.95 - 0.1 * np.sign(module.matrix.grad), atol=1e-6)


def test_the_formula_over_several_steps() -> None:
    """Algorithm 2 of the paper in float64, straight from the page."""
    _, flat = packed()
    w, (b1, b2) = flat.parameters.astype(np.float64), (0.8, 0.99)
    m, v, decay = np.zeros(22), np.zeros(22), np.where(np.arange(22) < 15, 0.3, 0.0)
    optimizer = AdamW(flat, betas=(b1, b2), eps=1e-3, weight_decay=0.3)
    for t in range(1, 6):
        g = flat.gradients[...] = np.random.default_rng(t).standard_normal(22)
        lr = 0.05 / t
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        w = w - lr * decay * w - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-3)
        optimizer.step(lr)
    np.testing.assert_allclose(flat.parameters, w, atol=1e-6)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for chunk in (1, 4, 1000):
        monkeypatch.setattr(optimizer_module, "CPU_CHUNK", chunk)
        _, flat = packed()
        optimizer = AdamW(flat)
        for _ in range(3):
            optimizer.step(0.01)
        results.append(flat.parameters)
    np.testing.assert_array_equal(results[0], results[2])
    np.testing.assert_array_equal(results[1], results[2])


def test_gradients_are_left_as_they_are() -> None:
    _, flat = packed()
    before = flat.gradients.copy()
    AdamW(flat).step(0.1)
    np.testing.assert_array_equal(flat.gradients, before)


def test_a_restored_optimizer_goes_on_as_if_nothing_had_happened() -> None:
    (module, flat), (_, other_flat) = packed(), packed()
    optimizer = AdamW(flat)
    for _ in range(3):
        optimizer.step(0.01)
    saved = {name: array.copy() for name, array in optimizer.state_dict().items()}
    assert set(saved) == {"steps", "m.gain", "m.matrix", "v.gain", "v.matrix"}
    assert saved["v.matrix"].shape == (5, 3)
    other_flat.parameters[...] = flat.parameters
    other = AdamW(other_flat)
    other.load_state_dict(saved)
    optimizer.step(0.01)
    other.step(0.01)
    np.testing.assert_array_equal(flat.parameters, other_flat.parameters)
    assert module.gain.data.base is flat.parameters


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None}, "steps is missing"),
        ({"v.gain": None}, "v.gain is missing"),
        ({"m.matrix": np.zeros((3, 5), np.float32)}, r"m.matrix has shape \(3, 5\), the model's is \(5, 3\)"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change: dict[str, np.ndarray | None], message: str) -> None:
    _, flat = packed()
    optimizer = AdamW(flat)
    optimizer.step(0.1)
    m, v = optimizer.m.copy(), optimizer.v.copy()
    state = {name: np.ones_like(array) for name, array in optimizer.state_dict().items()} | change
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict({name: array for name, array in state.items() if array is not None})
    np.testing.assert_array_equal(optimizer.m, m)
    np.testing.assert_array_equal(optimizer.v, v)
    assert optimizer.steps == 1


@pytest.mark.parametrize("wrong", [{"betas": (1.0, 0.9)}, {"betas": (0.9, -0.1)}, {"eps": 0.0}, {"weight_decay": -1.0}])
def test_settings_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="AdamW: betas"):
        AdamW(packed()[1], **wrong)  # type: ignore[arg-type]


def test_everything_stays_in_the_parameters_dtype() -> None:
    module = TwoKinds().astype(np.float64)
    flat = FlatParameters(module)
    optimizer = AdamW(flat)
    optimizer.step(0.1)
    assert {optimizer.m.dtype, optimizer.v.dtype, flat.parameters.dtype} == {np.dtype(np.float64)}
