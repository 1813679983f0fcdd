"""Every optimizer against its published formula, written out once more in float64; what all of them promise."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nanograd import nn
from nanograd.optim import SGD, Adafactor, Adam, AdamW, Averaged, FlatParameters, Lion, Muon, Optimizer
from nanograd.optim import optimizer as optimizer_module

SHAPES = {"gain": (7,), "wide": (5, 8), "qkv": (9, 3), "cube": (2, 3, 4)}
HIDDEN = {"wide": (5,), "qkv": (3, 3, 3)}
every = pytest.mark.parametrize


class Mixed(nn.Module):
    def __init__(self, dtype: type = np.float64) -> None:
        rng = np.random.default_rng(0)
        self.weights = {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}
        self.gain, self.wide, self.qkv, self.cube = (nn.Parameter(w) for w in self.weights.values())


def adamw(w, g, state, t, lr, *, betas=(0.9, 0.95), eps=1e-8, decay=0.1, **_):
    """Loshchilov & Hutter 2019, algorithm 2"""
    state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
    state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * g**2
    m_hat, v_hat = state["m"] / (1 - betas[0] ** t), state["v"] / (1 - betas[1] ** t)
    return w - lr * m_hat / (np.sqrt(v_hat) + eps) - lr * (decay if w.ndim > 1 else 0) * w


def sgd(w, g, state, t, lr, *, momentum=0.9, nesterov=False, decay=0.0, **_):
    """Sutskever et al. 2013, in PyTorch's scale"""
    state["m"] = momentum * state.get("m", 0) + g
    step = g + momentum * state["m"] if nesterov else state["m"]
    return w - lr * step - lr * (decay if w.ndim > 1 else 0) * w


def lion(w, g, state, t, lr, *, betas=(0.9, 0.99), decay=0.1, **_):
    """Chen et al. 2023, algorithm 2"""
    m = state.get("m", np.zeros_like(g))
    update = np.sign(betas[0] * m + (1 - betas[0]) * g)
    state["m"] = betas[1] * m + (1 - betas[1]) * g
    return w - lr * (update + (decay if w.ndim > 1 else 0) * w)


def adafactor(w, g, state, t, lr, *, power=0.8, clip=1.0, relative=False, decay=0.0, **_):
    """Shazeer & Stern 2018, algorithms 4 and 5"""
    beta = 1 - t**-power
    alpha = max(1e-3, np.sqrt(np.mean(w**2))) * min(lr, t**-0.5) if relative else lr
    if w.ndim == 1:
        state["v"] = v = beta * state.get("v", 0) + (1 - beta) * g**2
    else:
        state["r"] = beta * state.get("r", 0) + (1 - beta) * (g**2).mean(-1)
        state["c"] = beta * state.get("c", 0) + (1 - beta) * (g**2).mean(-2)
        r, c = state["r"], state["c"]
        v = r[..., :, None] * c[..., None, :] / r.mean(-1)[..., None, None]
    u = g / np.sqrt(v)
    u = u / max(1, np.sqrt(np.mean(u**2)) / clip)
    return w - lr * (decay if w.ndim > 1 else 0) * w - alpha * u


def newton_schulz(g):
    """Jordan et al. 2024, by its effect: singular vectors stay, five times each singular value s → a s + b s³ + c s⁵"""
    u, s, vt = np.linalg.svd(g, full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u * s @ vt


def muon(w, g, state, t, lr, *, momentum=0.95, nesterov=True, decay=0.1, name, ratio=1.0, **_):
    """Jordan et al. 2024, scaled as in Liu et al. 2025, §2.2; AdamW for what is not hidden"""
    if name not in HIDDEN:
        return adamw(w, g, state, t, lr)
    state["m"] = momentum * state.get("m", 0) + (1 - momentum) * g
    n = (1 - momentum) * g + momentum * state["m"] if nesterov else state["m"]
    parts = np.split(n, len(HIDDEN[name]))
    o = np.concatenate([0.2 * np.sqrt(max(part.shape)) * newton_schulz(part) for part in parts])
    return w - lr * ratio * (o + decay * w)


CASES: dict[str, tuple[Callable[[FlatParameters], Optimizer], Callable[..., Any], dict[str, Any]]] = {
    "adamw": (lambda f: AdamW(f, betas=(0.8, 0.99), eps=1e-3, weight_decay=0.3), adamw,
              {"betas": (0.8, 0.99), "eps": 1e-3, "decay": 0.3}),
    "adam": (Adam, adamw, {"betas": (0.9, 0.999), "decay": 0.0}),
    "sgd": (lambda f: SGD(f, momentum=0.8, weight_decay=0.1), sgd, {"momentum": 0.8, "decay": 0.1}),
    "nesterov": (lambda f: SGD(f, momentum=0.8, nesterov=True), sgd, {"momentum": 0.8, "nesterov": True}),
    "no momentum": (lambda f: SGD(f, momentum=0.0, weight_decay=0.1), sgd, {"momentum": 0.0, "decay": 0.1}),
    "lion": (lambda f: Lion(f, weight_decay=0.5), lion, {"decay": 0.5}),
    "adafactor": (lambda f: Adafactor(f, update_clip=0.5, weight_decay=0.2), adafactor, {"clip": 0.5, "decay": 0.2}),
    "relative": (lambda f: Adafactor(f, decay_power=0.5, relative_step=True), adafactor,
                 {"power": 0.5, "relative": True}),
    "muon": (lambda f: Muon(f, hidden=HIDDEN, lr_ratio=3.0), muon, {"ratio": 3.0}),
    "muon, heavy ball": (lambda f: Muon(f, hidden=HIDDEN, momentum=0.8, nesterov=False, weight_decay=0.0), muon,
                         {"momentum": 0.8, "nesterov": False, "decay": 0.0}),
}  # fmt: skip
OPTIMIZERS = {name: make for name, (make, _, _) in CASES.items()} | {
    "averaged": lambda f: Averaged(AdamW(f), decay=0.7),
    "averaged muon": lambda f: Averaged(Muon(f, hidden=HIDDEN), decay=0.9),
}


def gradients(flat: FlatParameters, t: int) -> dict[str, np.ndarray]:
    """The same for every optimizer, of very different sizes; and now and then none for a row."""
    rng = np.random.default_rng(t)
    flat.gradients[...] = rng.standard_normal(len(flat.gradients)) * rng.choice([0.01, 1, 3], len(flat.gradients))
    grads = flat.split(flat.gradients)
    return {name: grad.copy() for name, grad in grads.items()}


@every("name", CASES)
@every("scale", [1.0, 0.25])
def test_eight_steps_of_the_published_formula(name: str, scale: float) -> None:
    """muon's decay reaches matrices of the other half through its own AdamW, with the default weight decay."""
    make, formula, settings = CASES[name]
    flat = FlatParameters(Mixed())
    optimizer, states = make(flat), {key: {} for key in SHAPES}
    weights = {key: w.copy() for key, w in flat.split(flat.parameters).items()}
    if settings.get("decay") == 0.0 and name.startswith("muon"):
        optimizer.adamw.weight_decay = 0.1  # the formula's default
    for t in range(1, 9):
        lr = 0.05 / t
        for key, g in gradients(flat, t).items():
            weights[key] = formula(weights[key], scale * g, states[key], t, lr, name=key, **settings)
        optimizer.step(lr, scale=scale)
    for key, w in flat.split(flat.parameters).items():
        np.testing.assert_allclose(w, weights[key], rtol=1e-9, atol=1e-9, err_msg=key)


@every("name", OPTIMIZERS)
def test_a_restored_optimizer_goes_on_as_if_nothing_had_happened(name: str) -> None:
    """Everything that changes is in the state: steps, moments, averages; nothing of it is shared with the live one."""
    flat, other_flat = FlatParameters(Mixed(np.float32)), FlatParameters(Mixed(np.float32))
    optimizer, other = OPTIMIZERS[name](flat), OPTIMIZERS[name](other_flat)
    for t in range(1, 4):
        gradients(flat, t)
        optimizer.step(0.01)
    saved = {key: array.copy() for key, array in optimizer.state_dict().items()}
    other_flat.parameters[...] = flat.parameters
    other.load_state_dict(saved)
    for t in range(4, 7):
        for each, buffers in ((optimizer, flat), (other, other_flat)):
            gradients(buffers, t)
            each.step(0.01)
    np.testing.assert_array_equal(flat.parameters, other_flat.parameters)
    for key, array in optimizer.state_dict().items():
        np.testing.assert_array_equal(array, other.state_dict()[key], err_msg=key)
    with optimizer.averaged(), other.averaged():
        np.testing.assert_array_equal(flat.parameters, other_flat.parameters)


@every("name", OPTIMIZERS)
def test_a_state_that_does_not_fit_changes_nothing(name: str) -> None:
    flat = FlatParameters(Mixed(np.float32))
    optimizer = OPTIMIZERS[name](flat)
    gradients(flat, 1)
    optimizer.step(0.1)
    before = {key: array.copy() for key, array in optimizer.state_dict().items()}
    for key in before:
        other = {k: np.ones_like(a) for k, a in before.items()}
        with pytest.raises(ValueError, match=f"optimizer state: {key} is missing"):
            optimizer.load_state_dict({k: a for k, a in other.items() if k != key})
        with pytest.raises(ValueError, match=rf"optimizer state: {key} has shape \(9, 9\), the model's is"):
            optimizer.load_state_dict(other | {key: np.ones((9, 9), np.float32)})
    with pytest.raises(ValueError, match=r"optimizer state: x\.gain is not a part of"):
        optimizer.load_state_dict({k: np.ones_like(a) for k, a in before.items()} | {"x.gain": np.ones(7)})
    for key, array in optimizer.state_dict().items():
        np.testing.assert_array_equal(array, before[key], err_msg=key)


@every("name", OPTIMIZERS)
def test_parameters_and_state_stay_in_float32_and_gradients_as_they_are(name: str) -> None:
    flat = FlatParameters(Mixed(np.float32))
    optimizer = OPTIMIZERS[name](flat)
    gradients(flat, 1)
    before = flat.gradients.copy()
    optimizer.step(0.1, scale=0.5)
    np.testing.assert_array_equal(flat.gradients, before)
    assert flat.parameters.dtype == np.float32
    assert {array.dtype for key, array in optimizer.state_dict().items() if key != "steps"} <= {np.dtype(np.float32)}
    optimizer.step(0.1, zero_grad=True)
    assert not flat.gradients.any()


@every("name", OPTIMIZERS)
def test_no_gradient_at_all_is_no_accident(name: str) -> None:
    """0 / √0 and the direction of nothing: weights stay finite, and where nothing decays they stay."""
    flat = FlatParameters(Mixed(np.float32))
    optimizer, gain = OPTIMIZERS[name](flat), flat.split(flat.parameters)["gain"].copy()
    for _ in range(2):
        optimizer.step(0.1)
    assert np.isfinite(flat.parameters).all()
    np.testing.assert_array_equal(flat.split(flat.parameters)["gain"], gain)


@every("name", ["adamw", "sgd", "nesterov", "lion"])
def test_chunks_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for chunk in (1, 4, 1000):
        monkeypatch.setattr(optimizer_module, "CPU_CHUNK", chunk)
        flat = FlatParameters(Mixed(np.float32))
        optimizer = OPTIMIZERS[name](flat)
        for t in range(3):
            gradients(flat, t)
            optimizer.step(0.01)
        results.append(flat.parameters)
    np.testing.assert_array_equal(results[0], results[2])
    np.testing.assert_array_equal(results[1], results[2])


@every(
    ("make", "message"),
    [
        (lambda f: SGD(f, momentum=1.0), r"momentum 1.0 in \[0, 1\)"),
        (lambda f: SGD(f, momentum=0.0, nesterov=True), "momentum must be above 0"),
        (lambda f: SGD(f, weight_decay=-1.0), "weight_decay -1.0 ≥ 0"),
        (lambda f: Lion(f, betas=(0.9, 1.0)), r"betas \(0.9, 1.0\) in \[0, 1\)"),
        (lambda f: Lion(f, weight_decay=-1.0), "weight_decay -1.0 ≥ 0"),
        (lambda f: Adafactor(f, decay_power=0.0), "decay_power 0.0"),
        (lambda f: Adafactor(f, update_clip=0.0), "update_clip 0.0"),
        (lambda f: Adafactor(f, eps=0.0), "eps 0.0"),
        (lambda f: Muon(f, hidden={}), "no hidden matrix was named"),
        (lambda f: Muon(f, hidden={"gain": (7,)}), "gain is no matrix of this model"),
        (lambda f: Muon(f, hidden={"nowhere": (7,)}), "nowhere is no matrix of this model"),
        (lambda f: Muon(f, hidden={"qkv": (3, 3)}), r"qkv has 9 rows, but its parts have \(3, 3\)"),
        (lambda f: Muon(f, hidden=HIDDEN, momentum=1.0), "momentum 1.0"),
        (lambda f: Muon(f, hidden=HIDDEN, lr_ratio=0.0), "lr_ratio 0.0"),
        (lambda f: Averaged(AdamW(f), decay=1.0), "decay 1.0 must be above 0 and below 1"),
    ],
)
def test_settings_that_cannot_be(make: Callable[[FlatParameters], Optimizer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(FlatParameters(Mixed()))
