"""A whole DecoderLM against PyTorch in float32: logits, loss, and every gradient."""

from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is the yardstick of these tests: pip install 'nanograd[peers]'")
import torch

from nanograd import ops
from nanograd.models import PRESETS, DecoderLM, DecoderLMConfig
from tests.torch_twin import TwinDecoderLM, gradients

B, T, V = 4, 12, 97
SIZES: dict[str, Any] = {
    "vocab_size": V, "context_length": 16, "n_layers": 2, "n_heads": 4, "d_model": 32,
    "dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip
CONFIGS = {name: msgspec.structs.replace(preset, **SIZES) for name, preset in PRESETS.items()} | {
    "post-norm": DecoderLMConfig(**SIZES, norm_placement="post", head_bias=True),
    "rotary-swiglu": DecoderLMConfig(
        **SIZES, norm="rms_norm", activation="swiglu", positions="rotary", rotary_base=50.0
    ),
    "rotary-relu2-post": DecoderLMConfig(**SIZES, norm_placement="post", activation="relu2", positions="rotary"),
    "qk-norm": DecoderLMConfig(**SIZES, qk_norm=True, positions="rotary", zero_residuals=True),
    "dyt": DecoderLMConfig(**SIZES, norm="dyt", norm_alpha=0.8),
    "derf-post": DecoderLMConfig(**SIZES, norm="derf", norm_placement="post"),
    "rms-norm": DecoderLMConfig(**SIZES, norm="rms_norm", activation="silu", positions="learned", d_hidden=50),
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_decoder_lm(name: str, padded: bool) -> None:
    model = DecoderLM(CONFIGS[name], seed=5)
    rng = np.random.default_rng(1)
    for _, parameter in model.named_parameters():  # zeros and ones would hide mistakes
        parameter.data += rng.normal(0, 0.05, parameter.shape).astype(np.float32)
    ids, targets = rng.integers(0, V, (2, B, T))
    mask = np.arange(T) >= np.array([[0], [3], [7], [11]]) if padded else None
    targets = targets if mask is None else np.where(mask, targets, -100)
    twin = TwinDecoderLM(model)

    logits = model(ids, mask)
    expected = twin(torch.from_numpy(ids), None if mask is None else torch.from_numpy(mask))
    real = slice(None) if mask is None else mask
    np.testing.assert_allclose(logits.data[real], expected.detach().numpy()[real], rtol=0, atol=1e-5)

    loss = ops.cross_entropy(logits, targets)
    loss_twin = torch.nn.functional.cross_entropy(expected.reshape(-1, V), torch.from_numpy(targets).reshape(-1))
    assert loss.item() == pytest.approx(loss_twin.item(), abs=2e-6)
    loss.backward()
    loss_twin.backward()
    expected_grads = gradients(twin)
    ours = dict(model.named_parameters())
    assert set(ours) == set(expected_grads) - ({"head.weight"} if model.config.tie_embeddings else set())
    for parameter_name, parameter in ours.items():
        theirs = expected_grads[parameter_name]
        scale = max(1e-2, np.abs(theirs).max())
        np.testing.assert_allclose(parameter.grad, theirs, rtol=0, atol=2e-5 * scale, err_msg=parameter_name)
