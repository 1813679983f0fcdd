"""The decoder and its optimizer on a GPU: the same steps as on the CPU, and nothing that only a CPU could do."""

import sys
from typing import Any

import numpy as np
import pytest

from nanograd import backend, ops
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.optim import AdamW, FlatParameters, clip_grad_norm

B, T, V = 4, 12, 50
SHAPE: dict[str, Any] = {"vocab_size": V, "context_length": T, "n_layers": 2, "n_heads": 2, "d_model": 16}
VARIANTS: list[dict[str, Any]] = [
    {"dropout": 0.1, "attention_dropout": 0.1, "embedding_dropout": 0.1},
    {"norm_placement": "post", "positions": "learned", "norm": "rms_norm", "tie_embeddings": False, "head_bias": True},
]


def train(device: str, variant: dict[str, Any], steps: int) -> tuple[list[float], dict[str, np.ndarray]]:
    """A few steps with padding on the left; returns losses and final weights."""
    model = DecoderLM(DecoderLMConfig(**SHAPE, **variant), seed=2).to(device)
    flat = FlatParameters(model)
    optimizer = AdamW(flat)
    rng, losses = np.random.default_rng(0), []
    mask = np.arange(T) >= np.array([[0], [3], [5], [11]])
    for _ in range(steps):
        ids, targets = rng.integers(0, V, (2, B, T))
        targets = np.where(mask, targets, -100)
        ids_there, targets_there, mask_there = (backend.to_device(x, device) for x in (ids, targets, mask))
        flat.zero_grad()
        loss = ops.cross_entropy(model(ids_there, mask_there), targets_there)
        loss.backward()
        clip_grad_norm(flat, 1.0)
        optimizer.step(1e-2)
        losses.append(loss.item())
    other = AdamW(flat)
    other.load_state_dict(optimizer.state_dict())  # through the host and back
    weights = model.state_dict()
    for name, array in weights.items():
        if name.endswith("qkv.bias"):  # a key's bias changes no softmax: its gradient is rounding, blown up by AdamW
            array[len(array) // 3 : -len(array) // 3] = 0
    return losses, weights


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cupy", reason="the stand-in asks CuPy which names exist: pip install 'nanograd[cuda13]'")
    from tests import fake_cupy

    for name, module in fake_cupy.modules().items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.usefixtures("fake_cuda")
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_keeps_to_what_a_gpu_can_do(variant: dict[str, Any]) -> None:
    (losses, weights), (losses_there, weights_there) = (train(device, variant, steps=3) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(losses, losses_there, rtol=0, atol=1e-6)
    for name, array in weights.items():
        np.testing.assert_allclose(array, weights_there[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.usefixtures("fake_cuda")
def test_a_host_batch_on_a_device_model_is_refused() -> None:
    model = DecoderLM(DecoderLMConfig(**SHAPE)).to("cuda")
    with pytest.raises(TypeError, match=r"embedding: .* live on different devices"):
        model(np.zeros((1, T), np.int64))


@pytest.mark.usefixtures("fake_cuda")
def test_an_optimizer_notices_a_model_that_moved_away() -> None:
    model = DecoderLM(DecoderLMConfig(**SHAPE))
    optimizer = AdamW(FlatParameters(model))
    model.to("cuda")
    with pytest.raises(RuntimeError, match="left its flat buffer"):
        optimizer.step(1e-3)


@pytest.mark.cuda
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_is_the_same_on_a_gpu(variant: dict[str, Any], device: str) -> None:
    """The same weights, the same dropout masks, sums in another order.

    Losses alone are compared: AdamW turns the gradient of a key bias, which is rounding noise around 0, into steps.
    """
    np.testing.assert_allclose(train("cpu", variant, steps=20)[0], train(device, variant, steps=20)[0], atol=1e-3)
