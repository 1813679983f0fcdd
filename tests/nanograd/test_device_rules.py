"""The rules of a GPU, kept by a stand-in where there is none: nothing mixes host and device, nothing waits in an op."""

import sys
from typing import Any

import numpy as np
import pytest

from nanograd import backend, nn, ops
from nanograd.backend import describe, to_device
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.optim import (
    SGD,
    Adafactor,
    AdamW,
    Averaged,
    FlatParameters,
    FusedIntoBackward,
    Lion,
    Muon,
    clip_grad_norm,
    warmup_cosine,
)
from nanograd.precision import float_type
from nanograd.random import random_words
from nanograd.tensor import Tensor
from nanograd.testing import is_floating, random_like, value_and_gradients
from tests.cases import CASES

pytest.importorskip("cupy", reason="the stand-in asks the real CuPy which names it has: pip install cupy-cuda13x")
from tests import fake_cupy


@pytest.fixture
def _stand_in(monkeypatch):
    for name, module in fake_cupy.modules().items():
        monkeypatch.setitem(sys.modules, name, module)


def to_fake(a: Any) -> Any:
    return to_device(a, "cuda") if isinstance(a, np.ndarray) else a


# Every operation of the table


@pytest.mark.usefixtures("_stand_in")
@pytest.mark.parametrize("case", CASES, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, float_type("bf16")], ids=lambda dtype: np.dtype(dtype).name)
def test_every_op_runs_on_the_stand_in_and_agrees_with_the_cpu(case, dtype):
    arrays = case.draw(dtype=dtype)
    expected = value_and_gradients(lambda *inputs: case.call(inputs), arrays)
    dy = to_fake(random_like(expected[0])) if is_floating(expected[0]) else None
    y, gradients = value_and_gradients(lambda *inputs: case.call(inputs, to_fake), list(map(to_fake, arrays)), dy)
    assert isinstance(y, fake_cupy.ndarray)
    for found, wanted in zip([y, *gradients], [expected[0], *expected[1]], strict=True):
        if wanted is None:
            assert found is None
            continue
        assert isinstance(found, fake_cupy.ndarray)
        assert found.dtype == wanted.dtype
        rtol = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 2**-7}[np.dtype(dtype).name]
        np.testing.assert_allclose(found.held.astype(float), wanted.astype(float), rtol=rtol, atol=0.1 * rtol)


@pytest.mark.usefixtures("_stand_in")
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_no_op_makes_the_host_wait(case):
    """Forward and backward run inside what would be a recorded CUDA graph."""
    arrays = list(map(to_fake, case.draw(dtype=np.float32)))
    inputs = [Tensor(a, requires_grad=True) if is_floating(a) else a for a in arrays]
    settings = {name: _moved(value) for name, value in case.settings.items()}
    with fake_cupy.captured():
        y = case.op(*inputs, **settings)
    if y.requires_grad and repr(case) not in SENDS:
        dy = to_fake(random_like(np.empty(y.shape, y.dtype)))
        with fake_cupy.captured():
            y.backward(dy)


SENDS = {"power(2.0, (2, 3))"}  # backward sends the base, one number, to take its logarithm in the right dtype


def _moved(value: Any) -> Any:
    return tuple(map(_moved, value)) if isinstance(value, tuple) else to_fake(value)


# A whole model


def config(**changes: Any) -> DecoderLMConfig:
    sizes = {"vocab_size": 17, "context_length": 8, "n_layers": 2, "n_heads": 2, "d_model": 8}
    return DecoderLMConfig(**{**sizes, **changes})


def train(device: str, settings: DecoderLMConfig, steps: int = 5) -> tuple[list[float], dict[str, Any]]:
    """A few steps of training: the losses, and the parameters at the end."""
    ids = np.random.default_rng(0).integers(0, settings.vocab_size, (3, settings.context_length + 1))
    mask = np.arange(settings.context_length) < np.array([8, 5, 1])[:, None]
    model = DecoderLM(settings, seed=1).to(device)
    flat = FlatParameters(model)
    optimizer, losses = AdamW(flat), []
    for step in range(steps):
        flat.zero_grad()
        logits = model(to_device(ids[:, :-1], device), to_device(mask, device))
        loss = ops.cross_entropy(logits, to_device(np.where(mask, ids[:, 1:], -100), device))
        loss.backward()
        clip_grad_norm(flat, 0.5)
        optimizer.step(warmup_cosine(step, peak=1e-2, warmup_steps=2, total_steps=steps))
        losses.append(loss.item())
    return losses, model.state_dict()


@pytest.mark.usefixtures("_stand_in")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dropout": 0.2, "attention_dropout": 0.1, "embedding_dropout": 0.1},
        {"norm": "rms_norm", "norm_placement": "post", "positions": "learned", "activation": "gelu-tanh"},
        {"tie_embeddings": False, "head_bias": True, "activation": "silu", "qkv_bias": False},
        {"positions": "rotary", "activation": "swiglu", "norm": "rms_norm"},
    ],
    ids=["default", "dropout", "post-norm", "untied", "rotary-swiglu"],
)
def test_a_short_training_is_the_same_on_both_devices(changes):
    expected, weights = train("cpu", config(**changes))
    found, moved = train("cuda", config(**changes))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert expected[-1] < expected[0]
    for name, weight in weights.items():
        np.testing.assert_allclose(moved[name], weight, rtol=1e-3, atol=1e-5, err_msg=name)


OPTIMIZERS = {
    "sgd": lambda model, flat: SGD(flat, nesterov=True),
    "lion": lambda model, flat: Lion(flat),
    "adafactor": lambda model, flat: Adafactor(flat),
    "relative": lambda model, flat: Adafactor(flat, relative_step=True),
    "muon": lambda model, flat: Muon(flat, hidden=model.hidden_matrices()),
    "averaged": lambda model, flat: Averaged(AdamW(flat), decay=0.9),
}


@pytest.mark.usefixtures("_stand_in")
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("fused", [False, True])
def test_every_optimizer_is_the_same_on_both_devices_and_never_waits(name, fused):
    """Three steps with equal gradients, and the state moved from one device to the other."""
    results = []
    for device in ("cpu", "cuda"):
        model = DecoderLM(config(), seed=1).to(device)
        flat = FlatParameters(model, with_gradients=not fused)
        optimizer = OPTIMIZERS[name](model, flat)
        with optimizer.averaged():
            pass
        for step in range(3):
            g = to_device(np.random.default_rng(step).standard_normal(flat.parameters.size, np.float32), device)
            with fake_cupy.captured():
                if fused:
                    optimizer.begin()
                    for key, gradient in flat.split(g).items():
                        optimizer.update_parameter(key, gradient, 0.1)
                    optimizer.end()
                else:
                    flat.gradients[...] = g
                    optimizer.step(0.1, scale=0.5, zero_grad=True)
        with optimizer.averaged():
            weights = {key: array.copy() for key, array in model.state_dict().items()}
        results.append((weights, optimizer.state_dict(), optimizer))
    (weights, state, ours), (moved, state_there, theirs) = results
    for found, expected in ((moved, weights), (state_there, state)):
        for key, array in expected.items():
            np.testing.assert_allclose(found[key], array, rtol=1e-4, atol=1e-5, err_msg=key)
    ours.load_state_dict(state_there)
    theirs.load_state_dict(state)


@pytest.mark.usefixtures("_stand_in")
def test_the_optimizer_inside_backward_is_the_same_on_both_devices():
    weights = []
    for device in ("cpu", "cuda"):
        model = DecoderLM(config(), seed=1).to(device)
        fused = FusedIntoBackward(SGD(FlatParameters(model, with_gradients=False)))
        ids = to_device(np.random.default_rng(0).integers(0, 17, (2, 9)), device)
        with fused.step(0.1):
            model.loss(ids[:, :-1], ids[:, 1:]).backward()
        weights.append(model.state_dict())
    for name, weight in weights[0].items():
        np.testing.assert_allclose(weights[1][name], weight, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.usefixtures("_stand_in")
def test_forward_and_backward_of_a_model_need_no_round_trip():
    model = DecoderLM(config(dropout=0.1, attention_dropout=0.1), seed=1).to("cuda")
    ids, targets = (to_fake(np.random.default_rng(i).integers(0, 17, (2, 8))) for i in range(2))
    mask = to_fake(np.arange(8) < np.array([[8], [5]]))
    for padding_mask in (mask, None):
        with fake_cupy.captured():
            ops.cross_entropy(model(ids, padding_mask), targets).backward()


def attend(device: str) -> list[Any]:
    """What no training uses: one head alone, and the weights of all heads, with and without padding."""
    x, rng = np.random.default_rng(0).standard_normal((2, 5, 8), np.float32), np.random.default_rng(1)
    head, heads = nn.AttentionHead(8, 4, rng=rng).to(device), nn.MultiHeadAttention(8, 2, rng=rng).to(device)
    inputs = Tensor(to_device(x, device))
    masks = to_device(np.arange(5) < np.array([[5], [3]]), device), None
    return [f for mask in masks for f in (head(inputs, mask).data, heads.attention_weights(inputs, mask))]


@pytest.mark.usefixtures("_stand_in")
def test_attention_heads_and_maps_are_the_same_on_both_devices():
    for found, expected in zip(attend("cuda"), attend("cpu"), strict=True):
        np.testing.assert_allclose(found.held, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("_stand_in")
def test_dropout_draws_the_same_words_on_both_devices():
    for shape in ((), (3,), (2, 5), (0,)):
        words = random_words(sys.modules["cupy"], shape, (7, 9))
        np.testing.assert_array_equal(words.held, random_words(np, shape, (7, 9)))
        assert words.dtype == np.uint32


# Host and device do not meet


@pytest.mark.usefixtures("_stand_in")
@pytest.mark.parametrize("swap", [False, True], ids=["cpu + cuda", "cuda + cpu"])
def test_operands_on_two_devices_are_refused_by_name(swap):
    """And so are integer operands, such as ids, which have no dtype in common with the rest anyway."""
    pair = [np.ones((2, 3), np.float32), to_fake(np.ones((3, 2), np.float32))]
    pair = pair[::-1] if swap else pair
    message = r"add: (cuda )?float32 \(\d, \d\) and (cuda )?float32 \(\d, \d\) live on different devices"
    with pytest.raises(TypeError, match=message) as caught:
        ops.add(*pair)
    assert "cuda float32 (3, 2)" in str(caught.value)
    with pytest.raises(TypeError, match=r"embedding: .* live on different devices"):
        ops.embedding(pair[0], np.array([0]) if swap else to_fake(np.array([0])))


@pytest.mark.usefixtures("_stand_in")
def test_a_gradient_on_another_device_is_refused():
    y = Tensor(to_fake(np.ones(2, np.float32)), requires_grad=True) * 2.0
    with pytest.raises(TypeError, match="the gradient must be an array on cuda:0, not float32"):
        y.backward(np.ones(2, np.float32))


@pytest.mark.usefixtures("_stand_in")
def test_a_tensor_knows_where_it_lives():
    x = Tensor(to_fake(np.ones((2, 3), np.float32)))
    assert x.device == "cuda:0"
    assert describe(x.data) == "cuda float32 (2, 3)"
    assert type(x.numpy()) is np.ndarray
    assert to_device(x.data, "cuda") is x.data
    assert type(to_device(x.data, "cpu")) is np.ndarray
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(x)


@pytest.mark.usefixtures("_stand_in")
def test_the_second_gpu_is_the_second(monkeypatch):
    monkeypatch.setattr(fake_cupy.cuda.runtime, "getDeviceCount", lambda: 2)
    assert backend.device_of(to_device(np.ones(2), "cuda:1")) == "cuda:1"
    assert backend.device_of(to_device(np.ones(2), "cuda")) == "cuda:0"


# The stand-in itself: it would prove nothing if it let everything pass


def device_array(*shape: int) -> Any:
    return fake_cupy.ndarray(np.ones(shape, np.float32))


FORBIDDEN = {
    "device + host": lambda: device_array(3) + np.ones(3),
    "host + device": lambda: np.ones(3) + device_array(3),
    "host into device": lambda: device_array(3).__setitem__(0, np.ones(())),
    "host in a list": lambda: fake_cupy.concatenate([device_array(3), np.ones(3)]),
    "a function of cupy on a host array": lambda: fake_cupy.exp(np.ones(3)),
    "a silent copy": lambda: np.asarray(device_array(3)),
    "a silent copy for a function": lambda: np.ones(3).dot(device_array(3)),
    "an argument that cupy.sum lacks": lambda: fake_cupy.sum(device_array(3), where=True),
    "an argument that cupy.ndarray.max lacks": lambda: device_array(3).max(initial=0),
    "a ufunc argument that cupy lacks": lambda: fake_cupy.add(device_array(3), 1, order="F"),
}


@pytest.mark.usefixtures("_stand_in")
@pytest.mark.parametrize("attempt", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_the_stand_in_refuses_what_cupy_refuses(attempt):
    with pytest.raises(TypeError):
        attempt()


def test_the_stand_in_lacks_what_cupy_lacks():
    for name in ("nditer", "errstate", "vectorize_everything"):
        with pytest.raises(AttributeError, match=name):
            getattr(fake_cupy, name)
    with pytest.raises(AttributeError, match="newbyteorder"):
        _ = device_array(3).newbyteorder
    for ufunc in (fake_cupy.matmul, fake_cupy.maximum):
        with pytest.raises(AttributeError, match=r"has no \.reduce"):
            _ = ufunc.reduce
    fake_cupy.add.reduce(device_array(3))


ROUND_TRIPS = {
    "float": lambda x: float(x[0]),
    "if": lambda x: bool(x[0] > 0),
    "item": lambda x: x[0].item(),
    "get": lambda x: x.get(),
    "boolean mask": lambda x: x[x > 0],
    "nonzero": lambda x: fake_cupy.nonzero(x),
    "where with one argument": lambda x: fake_cupy.where(x > 0),
    "host index": lambda x: x[np.array([0, 1])],
    "host array": lambda x: x + fake_cupy.asarray([1.0, 2.0, 3.0]),
    "range over a device number": lambda x: list(range(fake_cupy.arange(3)[2])),
}


@pytest.mark.parametrize("trip", ROUND_TRIPS.values(), ids=ROUND_TRIPS.keys())
def test_the_stand_in_sees_every_round_trip(trip):
    x = device_array(3)
    with pytest.raises(RuntimeError, match="host round trips"), fake_cupy.captured():
        trip(x)


def test_the_stand_in_counts_launches_and_not_views():
    x = device_array(3, 4)
    fake_cupy.counts.clear()
    x.reshape(4, 3).T[1:].swapaxes(0, 1)
    fake_cupy.broadcast_to(x, (2, 3, 4))
    assert fake_cupy.counts["launch"] == 0
    fake_cupy.exp(x, out=x)
    x += 1
    (x * 2).sum()
    x[0] = 3
    assert fake_cupy.counts["launch"] == 5
    assert isinstance(x.sum(), fake_cupy.ndarray)
