"""Positions as settings of the decoder: what they do, what makes no sense, and contexts longer than trained."""

from typing import Any

import numpy as np
import pytest

from nanograd.models import DecoderLM, DecoderLMConfig, stretch
from pre_process.encode_position import Scaling

V, T = 20, 16
SIZES: dict[str, Any] = {"vocab_size": V, "context_length": T, "n_layers": 2, "n_heads": 2, "d_model": 16}
IDS = np.random.default_rng(0).integers(V, size=(2, 4 * T))


def model(**settings: Any) -> DecoderLM:
    return DecoderLM(DecoderLMConfig(**SIZES, init_std=0.3, **settings)).eval()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rotary_layout": "pairs"}, "rotary_layout: for positions rotary, not sinusoidal"),
        (
            {"positions": "alibi", "rotary_scaling": "yarn", "rotary_factor": 2.0},
            "rotary_scaling, rotary_factor: for positions rotary, not alibi",
        ),
        ({"positions": "rotary", "rotary_factor": 2.0}, "rotary_factor and rotary_original_context need a rotary_scal"),
        ({"positions": "rotary", "rotary_original_context": 8}, "need a rotary_scaling, for example yarn"),
        ({"positions": "rotary", "rotary_scaling": "yarn"}, "rotary_scaling yarn needs a rotary_factor above 1"),
        ({"positions": "rotary", "rotary_scaling": "dynamic"}, "dynamic needs a rotary_factor above 1"),
        (
            {"positions": "rotary", "rotary_scaling": "linear", "rotary_factor": 2.0, "rotary_original_context": 8},
            "rotary_original_context means nothing to rotary_scaling linear",
        ),
        (
            {"positions": "rotary", "rotary_scaling": "ntk", "rotary_factor": 2.0, "rotary_base": 1.0},
            "rotary_scaling ntk needs a rotary_base above 1",
        ),
        (
            {"positions": "rotary", "rotary_factor": 0.5},
            r"Expected `float` >= 1.0 - at `\$.rotary_factor`|need a rotary",
        ),
        ({"positions": "rotary", "rotary_scaling": "longrope"}, "Invalid enum value 'longrope'|needs a rotary_factor"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**settings)


def test_the_original_context_follows_from_the_factor() -> None:
    scaled = DecoderLMConfig(**SIZES, positions="rotary", rotary_scaling="yarn", rotary_factor=4.0).scaling
    assert scaled is not None
    assert (scaled.kind, scaled.factor, scaled.original_context) == ("yarn", 4.0, T // 4)
    assert DecoderLMConfig(**SIZES, positions="rotary").scaling is None


def test_without_positions_only_the_set_of_earlier_tokens_counts() -> None:
    """In one block: swapped earlier tokens change nothing for the last. With ALiBi, or rotary, they do."""
    ids = IDS[:1, :8]
    swapped = ids[:, [2, 0, 1, 3, 6, 5, 4, 7]]
    for positions, order_counts in (("none", False), ("alibi", True), ("rotary", True)):
        one_block = DecoderLM(
            DecoderLMConfig(**{**SIZES, "n_layers": 1}, init_std=0.3, positions=positions)  # type: ignore[arg-type]
        )
        change = np.abs(one_block(ids).data[0, -1] - one_block(swapped).data[0, -1]).max()
        assert (change > 1e-4) == order_counts, (positions, change)


@pytest.mark.parametrize("layout", ["halves", "pairs"])
def test_one_layout_is_the_other_with_the_columns_in_another_order(layout: str) -> None:
    halves, pairs = model(positions="rotary"), model(positions="rotary", rotary_layout="pairs")
    D = SIZES["d_model"] // SIZES["n_heads"]
    order = np.arange(D).reshape(2, D // 2).T.ravel()  # 0, D/2, 1, D/2 + 1, …
    weights = halves.state_dict()
    for name in [name for name in weights if "qkv" in name]:
        heads = weights[name].reshape(3, SIZES["n_heads"], D, -1).copy()
        heads[:2] = heads[:2][:, :, order]
        weights[name] = heads.reshape(weights[name].shape)
    pairs.load_state_dict(weights)
    np.testing.assert_allclose(pairs(IDS[:, :T]).data, halves(IDS[:, :T]).data, atol=2e-5)


LONGER: list[tuple[str, dict[str, Any]]] = [
    ("sinusoidal", {}),
    ("alibi", {}),
    ("none", {}),
    ("rotary", {}),
    *(("rotary", {"rotary_scaling": kind}) for kind in ("linear", "ntk", "yarn", "llama3")),
    ("rotary", {"rotary_scaling": "dynamic"}),
]


@pytest.mark.parametrize(("positions", "rotary"), LONGER)
def test_a_model_runs_on_four_times_its_context(positions: str, rotary: dict[str, Any]) -> None:
    trained = model(positions=positions)
    longer = stretch(trained, 4 * T, **rotary)
    assert np.isfinite(longer(IDS).data).all()
    assert longer.loss(IDS, IDS).item() > 0
    short, again = trained(IDS[:, :T]).data, longer(IDS[:, :T]).data
    if rotary.get("rotary_scaling", "dynamic") == "dynamic":  # the others have slowed down the hands of short texts too
        np.testing.assert_allclose(again, short, atol=1e-6)
    else:
        assert np.abs(again - short).max() > 1e-3
    with pytest.raises(ValueError, match="17 tokens, but context_length is 16"):
        trained(IDS[:, : T + 1])


def test_dynamic_scaling_goes_by_the_longest_text_of_the_batch() -> None:
    longer = stretch(model(positions="rotary"), 4 * T, rotary_scaling="dynamic")
    fixed = stretch(model(positions="rotary"), 4 * T, rotary_scaling="ntk", rotary_factor=4.0)
    np.testing.assert_allclose(longer(IDS).data, fixed(IDS).data, atol=1e-6)
    mask = np.arange(4 * T) >= 3 * T  # the real tokens are as many as it was trained on
    padded = longer(IDS[:1], mask[None]).data[:, 3 * T :]
    np.testing.assert_allclose(padded, longer(IDS[:1, 3 * T :]).data, atol=2e-5)


def test_learned_positions_end() -> None:
    with pytest.raises(ValueError, match="learned positions end at 16: for 32 tokens train a model with alibi"):
        stretch(model(positions="learned"), 2 * T)
    assert stretch(model(positions="sinusoidal"), T // 2).config.context_length == T // 2


def test_what_does_not_fit_is_said_when_stretching() -> None:
    with pytest.raises(ValueError, match="for positions rotary, not alibi"):
        stretch(model(positions="alibi"), 2 * T, rotary_scaling="yarn", rotary_factor=2.0)


def test_a_factor_of_its_own_and_one_that_follows() -> None:
    trained = model(positions="rotary")
    assert stretch(trained, 4 * T, rotary_scaling="yarn").config.scaling == Scaling("yarn", 4.0, T)
    assert stretch(trained, 4 * T, rotary_scaling="yarn", rotary_factor=8.0).config.scaling == Scaling("yarn", 8.0, T)
    once = stretch(trained, 2 * T, rotary_scaling="llama3")
    assert stretch(once, 4 * T).config.scaling == once.config.scaling == Scaling("llama3", 2.0, T)
