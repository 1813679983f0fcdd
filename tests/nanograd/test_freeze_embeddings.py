"""Frozen token vectors: neither gradient nor weight decay reaches them, and everything else learns as it did."""

import numpy as np
import pytest

from nanograd import terminal, train
from nanograd.io.checkpoint import load_model
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.optim import AdamW, FlatParameters, clip_scale
from tests.nanograd.small_runs import fails, records

SHAPE = DecoderLMConfig(
    vocab_size=64, context_length=8, n_layers=2, n_heads=2, d_model=16, tie_embeddings=False, positions="learned"
)


def frozen_model(*, recompute: bool = False) -> DecoderLM:
    model = DecoderLM(SHAPE, seed=1)
    model.recompute_blocks = recompute
    model.freeze_embeddings()
    return model


def take_steps(model: DecoderLM, n: int = 5) -> FlatParameters:
    """A few updates in which everything that can change does: a large weight decay, a short gradient."""
    flat, rng = FlatParameters(model), np.random.default_rng(0)
    optimizer = AdamW(flat, weight_decay=0.5)
    for _ in range(n):
        ids = rng.integers(64, size=(2, 9))
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        _, scale = clip_scale(flat, 0.1)
        optimizer.step(0.1, scale=scale, zero_grad=True)
    return flat


@pytest.mark.parametrize("recompute", [False, True])
def test_frozen_vectors_keep_their_bits_and_all_others_learn(recompute: bool) -> None:
    model, before = frozen_model(recompute=recompute), DecoderLM(SHAPE, seed=1).state_dict()
    flat = take_steps(model)
    after = model.state_dict()
    assert "tokens.weight" not in flat.named
    assert len(flat.parameters) == model.n_parameters() - 64 * 16
    assert model.tokens.weight.grad is None
    assert after.keys() == before.keys()
    unchanged = [name for name in before if np.array_equal(before[name], after[name])]
    assert unchanged == ["tokens.weight"]


def test_the_others_learn_as_if_the_vectors_were_a_constant() -> None:
    """Freezing by hand: after each step of a model that learns everything but ignores it, the vectors are put back."""
    model, free = frozen_model(), DecoderLM(SHAPE, seed=1)
    first, rng = free.tokens.weight.data.copy(), np.random.default_rng(3)
    flats = [FlatParameters(model), FlatParameters(free)]
    optimizers = [AdamW(flat, weight_decay=0.5) for flat in flats]
    for _ in range(5):
        ids = rng.integers(64, size=(2, 9))
        for learner, optimizer in zip((model, free), optimizers, strict=True):
            learner.loss(ids[:, :-1], ids[:, 1:]).backward()
            optimizer.step(0.05, zero_grad=True)
        free.tokens.weight.data[...] = first
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, free.state_dict()[name], err_msg=name)


def test_tied_vectors_cannot_be_frozen() -> None:
    model = DecoderLM(DecoderLMConfig(vocab_size=64, d_model=48))
    with pytest.raises(ValueError, match="tie_embeddings=False"):
        model.freeze_embeddings()
    assert model.tokens.weight.requires_grad


@pytest.fixture(scope="module")
def frozen_run(flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("frozen")
    assert (
        terminal.run(train.main, [*flags, "--freeze-embeddings", "--no-tie-embeddings", "--out", str(out / "a")]) == 0
    )
    return out / "a"


def test_a_run_saves_the_vectors_it_began_with(frozen_run, flags, tmp_path):
    """One step and ten steps: the same vectors, bit by bit, and another output layer."""
    argv = [*flags, "--freeze-embeddings", "--no-tie-embeddings", "--steps", "1", "--out", str(tmp_path / "b")]
    assert terminal.run(train.main, argv) == 0
    many, one = (load_model(folder)[0].state_dict() for folder in (frozen_run, tmp_path / "b"))
    np.testing.assert_array_equal(many["tokens.weight"], one["tokens.weight"])
    assert not np.array_equal(many["head.weight"], one["head.weight"])
    losses = [record["loss"] for record in records(frozen_run)]
    assert losses[-1] < losses[0]


def test_a_frozen_run_repeats_itself(frozen_run, tmp_path):
    argv = ["--config", str(frozen_run / "config.toml"), "--out", str(tmp_path / "c")]
    assert terminal.run(train.main, argv) == 0
    assert (tmp_path / "c" / "model.safetensors").read_bytes() == (frozen_run / "model.safetensors").read_bytes()


def test_a_frozen_run_in_two_pieces_ends_as_in_one(frozen_run, flags, tmp_path):
    """The word vectors are not made again: the checkpoint holds them, though no optimizer does."""
    out = tmp_path / "pieces"
    argv = [*flags, "--freeze-embeddings", "--no-tie-embeddings", "--out", str(out), "--pause-at", "5"]
    assert terminal.run(train.main, argv) == 0
    assert terminal.run(train.main, ["--resume", "--out", str(out)]) == 0
    assert (out / "model.safetensors").read_bytes() == (frozen_run / "model.safetensors").read_bytes()


def test_freezing_a_tied_model_is_refused_before_any_work(flags, tmp_path, capsys):
    argv = [*flags, "--freeze-embeddings", "--tie-embeddings", "--out", str(tmp_path / "d")]
    fails(train.main, argv, "--no-tie-embeddings", capsys)
    assert not (tmp_path / "d").exists()


def test_a_flag_mends_what_a_file_asks_for(tmp_path, capsys):
    (tmp_path / "frozen.toml").write_text("freeze_embeddings = true\n[model]\ntie_embeddings = true")
    argv = ["--config", str(tmp_path / "frozen.toml"), "--dry-run"]
    fails(train.main, argv, "--no-tie-embeddings", capsys)
    assert terminal.run(train.main, [*argv, "--no-tie-embeddings"]) == 0


def test_skip_gram_vectors_are_others(flags, tmp_path):
    """The architecture reaches word2vec, and each has its own place in the cache."""
    first = []
    for architecture in ("cbow", "skip-gram", "cbow"):
        out = tmp_path / str(len(first))
        argv = [*flags, "--word2vec-architecture", architecture, "--steps", "1", "--out", str(out)]
        assert terminal.run(train.main, argv) == 0
        first.append(records(out)[0]["loss"])
    assert first[0] == first[2] != first[1]
