"""A logit depends on the tokens before it and on nothing else: not on later ones, not on padding."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanograd import ops
from nanograd.models import DecoderLM, DecoderLMConfig

V, T = 20, 9
VARIANTS: list[dict[str, Any]] = [
    {},
    {"norm_placement": "post", "positions": "learned"},
    {"positions": "rotary", "qk_norm": True},
    {"positions": "rotary", "rotary_base": 20.0, "activation": "swiglu", "tie_embeddings": False},
    {"norm": "rms_norm", "tie_embeddings": False, "activation": "relu"},
    {"positions": "alibi", "n_layers": 1},
    {"positions": "none", "n_layers": 1},
    {"positions": "rotary", "n_layers": 1, "rotary_layout": "pairs", "rotary_scaling": "yarn", "rotary_factor": 3.0},
    {"positions": "rotary", "n_layers": 1, "rotary_scaling": "dynamic", "rotary_original_context": T},
]
MODELS = [
    DecoderLM(
        DecoderLMConfig(
            **{"vocab_size": V, "context_length": T, "n_layers": 2, "n_heads": 2, "d_model": 8, "init_std": 0.5}
            | variant
        )
    ).eval()
    for variant in VARIANTS
]
IDS = st.lists(st.integers(0, V - 1), min_size=1, max_size=T)


@pytest.mark.parametrize("model", MODELS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_no_logit_depends_on_a_later_token(model: DecoderLM, data: st.DataObject) -> None:
    ids = data.draw(IDS)
    t = data.draw(st.integers(0, len(ids) - 1))
    later = data.draw(st.lists(st.integers(0, V - 1), min_size=len(ids) - t - 1, max_size=len(ids) - t - 1))
    before = model(np.array([ids])).data
    after = model(np.array([ids[: t + 1] + later])).data
    np.testing.assert_array_equal(before[:, : t + 1], after[:, : t + 1])


@pytest.mark.parametrize("model", MODELS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_no_logit_depends_on_padding(model: DecoderLM, data: st.DataObject) -> None:
    """Pads on the left and on the right, of any id, beside another sequence."""
    ids = data.draw(IDS)
    left = data.draw(st.integers(0, T - len(ids)))
    row = data.draw(st.lists(st.integers(0, V - 1), min_size=T, max_size=T))
    mask = np.ones((2, T), bool)
    mask[0] = False
    mask[0, left : left + len(ids)] = True
    padded = np.array([row, data.draw(st.lists(st.integers(0, V - 1), min_size=T, max_size=T))])
    padded[0, left : left + len(ids)] = ids
    alone, beside = model(np.array([ids])).data[0], model(padded, mask).data[0, left : left + len(ids)]
    np.testing.assert_allclose(alone, beside, atol=2e-5)


@pytest.mark.parametrize("model", MODELS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_padding_gets_no_gradient_and_changes_no_bit(model: DecoderLM, data: st.DataObject) -> None:
    """The pad token occurs only as padding, so its vector must learn nothing: from left pads, right pads, or gaps."""
    mask = np.array(data.draw(st.lists(st.lists(st.booleans(), min_size=T, max_size=T), min_size=2, max_size=2)))
    ids = np.array(data.draw(st.lists(st.lists(st.integers(1, V - 2), min_size=T, max_size=T), min_size=2, max_size=2)))
    ids = np.where(mask, ids, 0)
    model.zero_grad()
    logits = model(ids, mask)
    real = np.where(mask, (ids + 1) % V, -100)
    ops.cross_entropy(logits, real).backward()
    if not model.config.tie_embeddings:  # a tied vector is an output too: every token pushes it down
        assert not model.tokens.weight.grad[0].any()
    other_pad = model(np.where(mask, ids, V - 1), mask)
    np.testing.assert_array_equal(logits.data[mask], other_pad.data[mask])
