"""DecoderLM: first loss, reproducibility, modes, settings, errors, and whether it can learn at all."""

import itertools
import math
import re
from typing import Any

import msgspec
import numpy as np
import pytest

from nanograd import ops
from nanograd.models import MODELS, PRESETS, DecoderLM, DecoderLMConfig, check_config, count_parameters
from nanograd.optim import AdamW, FlatParameters

B, T, V = 8, 16, 512
SMALL: dict[str, Any] = {"vocab_size": V, "context_length": T, "n_layers": 2, "n_heads": 4, "d_model": 32}


def config(**settings: Any) -> DecoderLMConfig:
    return DecoderLMConfig(**SMALL | settings)


def batch(vocab_size: int = V, B: int = B, T: int = T) -> tuple[np.ndarray, np.ndarray]:
    windows = np.random.default_rng(0).integers(0, vocab_size, (B, T + 1))
    return windows[:, :-1], windows[:, 1:]


def word_vectors(seed: int = 1) -> np.ndarray:
    """As word2vec leaves them: a common direction, a few strong ones, and frequent words longer than rare ones."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((V, 32)) * np.geomspace(3, 0.3, 32) + 2 * rng.standard_normal(32)
    return (vectors * np.geomspace(1, 0.05, V)[:, None]).astype(np.float32)


VARIANTS = [
    {"norm_placement": placement, "tie_embeddings": tied, "positions": positions, "norm": norm}
    for placement, tied, positions, norm in itertools.product(
        ("pre", "post"), (True, False), ("sinusoidal", "learned", "rotary"), ("layer_norm", "rms_norm")
    )
] + [{"activation": "relu2"}, {"activation": "swiglu"}, {"norm": "dyt"}, {"norm": "derf", "norm_placement": "post"}]


@pytest.mark.parametrize("first_vectors", ["random", "word2vec"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_an_untrained_model_knows_nothing(variant: dict[str, Any], first_vectors: str) -> None:
    """Its loss is that of the uniform distribution, ln V, within 5 %."""
    model = DecoderLM(config(**variant), embeddings=word_vectors() if first_vectors == "word2vec" else None)
    ids, targets = batch()
    loss = ops.cross_entropy(model(ids), targets).item()
    assert 0.95 < loss / math.log(V) < 1.05


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_an_untrained_preset_knows_nothing(name: str) -> None:
    ids, targets = batch(PRESETS[name].vocab_size, B=1, T=128)
    loss = ops.cross_entropy(DecoderLM(PRESETS[name])(ids), targets).item()
    assert 0.95 < loss / math.log(PRESETS[name].vocab_size) < 1.05


@pytest.mark.slow
@pytest.mark.parametrize("name", ["psyduck-60m", "llm-small-131m"])
def test_an_untrained_large_preset_has_its_size_and_knows_nothing(name: str) -> None:
    model = DecoderLM(PRESETS[name]).eval()
    assert model.n_parameters() == count_parameters(PRESETS[name])
    ids, targets = batch(PRESETS[name].vocab_size, B=1, T=64)
    loss = ops.cross_entropy(model(ids), targets).item()
    assert 0.95 < loss / math.log(PRESETS[name].vocab_size) < 1.05


def test_preset_sizes() -> None:
    assert count_parameters(PRESETS["psyduck-60m"]) == 60_910_517
    assert count_parameters(PRESETS["llm-small-131m"]) == 131_529_216


@pytest.mark.parametrize("seed", range(12))
def test_counted_parameters_are_the_real_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = config(
        n_layers=int(rng.integers(1, 4)),
        d_hidden=[None, 5, 70][rng.integers(3)],
        positions=["sinusoidal", "learned", "rotary"][rng.integers(3)],
        activation=["gelu", "swiglu"][rng.integers(2)],
        norm=["layer_norm", "rms_norm", "dyt", "derf"][seed % 4],
        norm_placement=["pre", "post"][rng.integers(2)],
        **{
            name: bool(rng.integers(2))
            for name in ("qk_norm", "zero_residuals", "qkv_bias", "head_bias", "tie_embeddings")
        },
    )
    assert DecoderLM(drawn).n_parameters() == count_parameters(drawn)


def test_with_zero_residuals_a_fresh_block_passes_on_what_it_gets() -> None:
    model = DecoderLM(config(zero_residuals=True))
    x = model.embed(batch(model.config.vocab_size)[0])
    np.testing.assert_array_equal(model.blocks[0](x).data, x.data)
    assert model.blocks[0].attention.qkv.weight.data.std() > 0


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_a_wide_tied_model_does_not_echo_its_input(positions: str) -> None:
    """h · W[token] grows with the width; at embedding_std 0.02 the first loss would be 1.3 ln V here."""
    wide = config(d_model=1024, n_heads=8, n_layers=1, d_hidden=64, vocab_size=4096, positions=positions)
    ids, targets = batch(4096, B=2)
    loss = ops.cross_entropy(DecoderLM(wide)(ids), targets).item()
    assert 0.95 < loss / math.log(4096) < 1.05


def test_models_are_registered_with_their_settings() -> None:
    for architecture in MODELS.values():
        assert isinstance(architecture.model(architecture.config(**SMALL)), DecoderLM)


def test_first_weights_have_the_documented_spread() -> None:
    model = DecoderLM(config(init_std=0.03, embedding_std=0.5, n_layers=8, tie_embeddings=False, positions="learned"))
    for block in model.blocks:
        assert block.attention.qkv.weight.data.std() == pytest.approx(0.03, rel=0.1)
        assert block.mlp.up.weight.data.std() == pytest.approx(0.03, rel=0.1)
        assert block.attention.out.weight.data.std() == pytest.approx(0.03 / math.sqrt(16), rel=0.1)
        assert block.mlp.down.weight.data.std() == pytest.approx(0.03 / math.sqrt(16), rel=0.1)
    assert model.tokens.weight.data.std() == pytest.approx(0.5, rel=0.1)
    assert model.positions.weight.data.std() == pytest.approx(0.5 * math.sqrt(32), rel=0.1)
    assert model.head.weight.data.std() == pytest.approx(0.03, rel=0.1)
    biases = [p.data for name, p in model.named_parameters() if name.endswith("bias")]
    assert biases
    assert not any(bias.any() for bias in biases)


def test_residual_scale_keeps_the_stream_level() -> None:
    """What 2 n_layers sub-layers add has the same size for 2 and for 24 layers (GPT-2 §2.3)."""
    added = []
    for n_layers in (2, 24):
        model = DecoderLM(config(n_layers=n_layers, init_std=0.2))
        x = model.tokens(batch()[0]) * 50.0
        y = x
        for block in model.blocks:
            y = block(y)
        added.append(float((y.data - x.data).std()))
    assert added[1] == pytest.approx(added[0], rel=0.3)


def test_word_vectors_give_their_directions_and_nothing_else() -> None:
    vectors = word_vectors()
    vectors[7] = 0  # a token that word2vec never saw
    drawn = DecoderLM(config(embedding_std=0.07)).tokens.weight.data
    weight = DecoderLM(config(embedding_std=0.07), embeddings=vectors).tokens.weight.data
    assert weight.dtype == np.float32
    np.testing.assert_array_equal(weight[7], drawn[7])
    known = np.arange(V) != 7
    np.testing.assert_allclose(np.square(weight[known]).mean(axis=1), 0.07**2, rtol=0.02)
    cosine = (weight * vectors).sum(1) / (np.linalg.norm(weight, axis=1) * np.linalg.norm(vectors, axis=1) + 1e-30)
    np.testing.assert_allclose(cosine[known], 1, rtol=1e-5)


def test_word_vectors_are_where_both_untied_matrices_start() -> None:
    vectors = word_vectors()
    model = DecoderLM(config(tie_embeddings=False, embedding_std=0.07), embeddings=vectors)
    tokens, head = model.tokens.weight.data, model.head.weight.data
    assert not np.shares_memory(tokens, head)
    for weight, length in ((tokens, 0.07), (head, 0.02)):
        np.testing.assert_allclose(np.square(weight).mean(axis=1), length**2, rtol=0.02)
        cosine = (weight * vectors).sum(1) / (np.linalg.norm(weight, axis=1) * np.linalg.norm(vectors, axis=1))
        np.testing.assert_allclose(cosine, 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((V, 31), np.float32), r"shape \(512, 31\), the model wants \(V, C\) = \(512, 32\)"),
        (np.full((V, 32), np.nan, np.float32), "infinities or NaNs"),
    ],
)
def test_word_vectors_that_do_not_fit(vectors: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecoderLM(config(), embeddings=vectors)


def test_the_seed_is_the_model() -> None:
    states = [DecoderLM(config(), seed=seed).state_dict() for seed in (3, 3, 4)]
    for name in states[0]:
        np.testing.assert_array_equal(states[0][name], states[1][name])
    assert (states[0]["tokens.weight"] != states[2]["tokens.weight"]).any()


def test_tied_head_is_the_embedding() -> None:
    model = DecoderLM(config())
    assert model.head.weight is model.tokens.weight
    assert "head.weight" not in model.state_dict()
    assert DecoderLM(config(tie_embeddings=False)).head.weight.shape == (V, 32)


def test_norms_are_where_the_placement_says() -> None:
    ids, _ = batch()
    assert DecoderLM(config(norm_placement="post")).norm is None
    for placement in ("pre", "post"):  # either way, what the head sees has been normalised
        seen = DecoderLM(config(norm_placement=placement)).hidden(ids).data
        np.testing.assert_allclose(seen.std(axis=-1), 1, rtol=1e-2)


def test_scaled_embeddings_enter_times_root_d_model() -> None:
    plain, scaled = (DecoderLM(config(scale_embeddings=flag, positions="learned")) for flag in (False, True))
    for model in (plain, scaled):
        model.positions.weight.data[...] = 0
        model.blocks, model.norm = [], None
    ids, _ = batch()
    np.testing.assert_allclose(scaled.hidden(ids).data, plain.hidden(ids).data * math.sqrt(32), rtol=1e-6)


def test_eval_mode_repeats_itself_and_train_mode_draws() -> None:
    ids, _ = batch()
    model = DecoderLM(config(dropout=0.2, attention_dropout=0.2, embedding_dropout=0.2))
    assert (model(ids).data != model(ids).data).any()
    model.eval()
    np.testing.assert_array_equal(model(ids).data, model(ids).data)
    np.testing.assert_array_equal(model(ids).data, DecoderLM(config())(ids).data)


@pytest.mark.parametrize("which", ["dropout", "attention_dropout", "embedding_dropout"])
def test_each_dropout_acts_and_is_reproducible(which: str) -> None:
    ids, _ = batch()
    one, two = (DecoderLM(config(**{which: 0.2}), seed=7) for _ in range(2))
    first = one(ids).data
    np.testing.assert_array_equal(first, two(ids).data)
    assert (first != one(ids).data).any()
    two.dropout_keys.calls = 0  # all that a resumed run has to restore
    np.testing.assert_array_equal(first, two(ids).data)


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_dropout_acts_after_the_embeddings_and_in_and_after_every_sub_layer(placement: str) -> None:
    """One key for the embeddings; in each block one for the attention weights and one for each of two sub-layers."""
    shares = {"dropout": 0.2, "attention_dropout": 0.2, "embedding_dropout": 0.2}
    model = DecoderLM(config(**shares, norm_placement=placement))
    model(batch()[0])
    assert model.dropout_keys.calls == 1 + 2 * 3


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_a_block_adds_to_its_input_once(placement: str, dropout: float) -> None:
    """In the last product of a sub-layer, or by an addition where dropout stands between them."""
    block = DecoderLM(config(norm_placement=placement, dropout=dropout)).blocks[0]
    for _, parameter in block.named_parameters():
        parameter.data += np.random.default_rng(0).normal(0, 0.2, parameter.shape).astype(np.float32)
    x = ops.mul(DecoderLM(config()).embed(batch()[0]), 3.0)
    found = block.eval()(x)
    mixed = block.attention(block.norm_1(x) if block.pre_norm else x)
    middle = x + mixed if block.pre_norm else block.norm_1(x + mixed)
    expected = middle + block.mlp(block.norm_2(middle)) if block.pre_norm else block.norm_2(middle + block.mlp(middle))
    np.testing.assert_allclose(found.data, expected.data, atol=1e-5)
    x.retain_grad()
    y = block.train()(x)
    y.backward(np.ones_like(y.data))
    assert np.isfinite(x.grad).all()


def test_state_travels_between_models() -> None:
    ids, _ = batch()
    one, two = DecoderLM(config(), seed=1), DecoderLM(config(), seed=2)
    two.load_state_dict(one.state_dict())
    np.testing.assert_array_equal(one(ids).data, two(ids).data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_heads": 5}, "d_model 32 is not divisible by n_heads 5"),
        ({"d_model": 33, "n_heads": 3}, "d_model 33 is odd"),
        ({"d_model": 36, "positions": "rotary"}, "d_model / n_heads = 9 is odd: rotary positions turn pairs"),
        ({"positions": "rotary", "rotary_base": 0.0}, r"Expected `float` > 0.0 - at `\$.rotary_base`"),
        ({"n_heads": 0}, r"Expected `int` >= 1 - at `\$.n_heads`"),
        ({"n_layers": 0}, r"Expected `int` >= 1 - at `\$.n_layers`"),
        ({"dropout": 1.0}, r"Expected `float` < 1.0 - at `\$.dropout`"),
        ({"norm": "dyt", "norm_eps": 1e-6}, "norm_eps: for layer_norm and rms_norm; dyt divides by no variance"),
        ({"norm_alpha": 0.8}, "norm_alpha: for dyt and derf, not layer_norm"),
        ({"norm_eps": 0.0}, r"Expected `float` > 0.0 - at `\$.norm_eps`"),
        ({"activation": "swish"}, r"Invalid enum value 'swish' - at `\$.activation`"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecoderLM(config(**settings))


def test_odd_width_is_fine_with_learned_positions() -> None:
    check_config(config(d_model=33, n_heads=3, positions="learned"))


@pytest.mark.parametrize(("d_model", "expected"), [(32, 96), (192, 512), (256, 704), (768, 2048), (4096, 10_944)])
def test_swiglu_is_as_large_as_the_others(d_model: int, expected: int) -> None:
    """8/3 of d_model, in whole tiles of 32; a width that is given counts as it is."""
    assert config(d_model=d_model, activation="swiglu").hidden_width == expected
    assert config(d_model=d_model, activation="swiglu", d_hidden=7).hidden_width == 7
    sizes = [count_parameters(config(d_model=d_model, activation=kind)) for kind in ("gelu", "swiglu")]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


def test_rotary_positions_are_no_vectors() -> None:
    """A token alone is where it always was; among others the distances count, and not where they begin."""
    model = DecoderLM(config(positions="rotary", init_std=0.3)).eval()
    ids, _ = batch(T=5)
    assert model.positions is None
    pads = np.zeros((B, 3), ids.dtype)
    mask = np.concatenate([pads, ids], axis=1) != 0
    mask[:, 3:] = True
    np.testing.assert_allclose(model(np.concatenate([pads, ids], axis=1), mask).data[:, 3:], model(ids).data, atol=2e-5)
    swapped = ids[:, [1, 0, 2, 3, 4]]
    assert np.abs(model(swapped).data[:, -1] - model(ids).data[:, -1]).max() > 1e-3, "the order doesn't count"


def test_settings_survive_json_and_refuse_unknown_names() -> None:
    settings = config(d_hidden=7, positions="learned", dropout=0.1)
    text = msgspec.json.encode(settings)
    assert msgspec.json.decode(text, type=DecoderLMConfig) == settings
    with pytest.raises(msgspec.ValidationError, match="unknown field `d_modell`"):
        msgspec.convert({"d_modell": 3}, DecoderLMConfig)


def test_every_setting_has_a_line_of_help(capsys: pytest.CaptureFixture[str]) -> None:
    import tyro

    with pytest.raises(SystemExit):
        tyro.cli(DecoderLMConfig, args=["--help"])
    text = capsys.readouterr().out
    for field in msgspec.structs.fields(DecoderLMConfig):
        flag = field.name.replace("_", "-")
        described = re.split(f"--{flag}[ ,]", text, maxsplit=1)[1].split("(default", 1)[0]
        assert len(re.findall(r" [a-z]+", described)) >= 2, flag


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (np.zeros(5, np.int64), None, r"integers of shape \(B, T\), not int64 \(5,\)"),
        (np.zeros((1, 5), np.float32), None, r"integers of shape \(B, T\), not float32 \(1, 5\)"),
        (np.zeros((1, T + 1), np.int64), None, "17 tokens, but context_length is 16"),
        (np.zeros((1, 0), np.int64), None, "0 tokens"),
        (np.zeros((2, 5), np.int64), np.ones((2, 4), bool), r"bool \(2, 5\), not bool \(2, 4\)"),
        (np.zeros((2, 5), np.int64), np.ones((2, 5), np.int64), r"bool \(2, 5\), not int64 \(2, 5\)"),
    ],
)
def test_inputs_that_do_not_fit(ids: np.ndarray, mask: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecoderLM(config())(ids, mask)


@pytest.mark.parametrize("token", [-1, V])
def test_ids_outside_the_vocabulary(token: int) -> None:
    with pytest.raises(IndexError, match=f"token id {token} is outside the vocabulary"):
        DecoderLM(config())(np.array([[1, token]]))


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_a_model_overfits_one_batch(placement: str) -> None:
    model = DecoderLM(config(vocab_size=40, norm_placement=placement))
    ids, targets = batch(40)
    flat = FlatParameters(model)
    optimizer = AdamW(flat, weight_decay=0.0)
    for step in range(120):
        flat.zero_grad()
        loss = ops.cross_entropy(model(ids), targets)
        loss.backward()
        optimizer.step(1e-2 * min(1, (step + 1) / 10))
    assert loss.item() < 0.05


def test_micro_batches_add_up_to_the_large_batch() -> None:
    ids, targets = batch()
    grads = []
    for n_micro in (1, 4):
        model = DecoderLM(config())
        flat = FlatParameters(model)
        for part in range(n_micro):
            rows = slice(part * B // n_micro, (part + 1) * B // n_micro)
            loss = ops.cross_entropy(model(ids[rows]), targets[rows])
            (loss / n_micro).backward()
        grads.append(flat.gradients)
    np.testing.assert_allclose(grads[0], grads[1], atol=1e-6)
    assert np.abs(grads[0]).max() > 1e-3
