"""A saved model comes back bit by bit; a damaged, foreign or mixed-up folder is refused in one line."""

import contextlib
import json

import numpy as np
import pytest
import safetensors.numpy

from nanograd.io.arrays import write_arrays
from nanograd.io.checkpoint import WEIGHTS, CheckpointError, load_model, publish_weights, save_tokenizer
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.tensor import no_grad
from pre_process.tokenizer import Tokenizer

CONFIG = DecoderLMConfig(vocab_size=300, context_length=8, n_layers=1, n_heads=2, d_model=8)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["the cat sat on the mat, the cat sat on the hat"], vocab_size=280)


@pytest.fixture
def saved(tmp_path, tokenizer):
    save_tokenizer(tmp_path, CONFIG, tokenizer)
    write_arrays(tmp_path / WEIGHTS, DecoderLM(CONFIG, seed=3).state_dict())
    return tmp_path


def test_a_model_comes_back_bit_by_bit(saved, tokenizer):
    model, loaded = load_model(saved)
    ids = np.arange(16).reshape(2, 8)
    with no_grad():
        np.testing.assert_array_equal(model(ids).data, DecoderLM(CONFIG, seed=3)(ids).data)
    assert loaded.sha256 == tokenizer.sha256
    assert not model.training
    assert {p.name for p in saved.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}


def test_other_programs_can_read_the_weights(saved):
    weights = safetensors.numpy.load_file(saved / "model.safetensors")
    assert weights["blocks.0.norm_1.weight"].dtype == np.float32


def refused(folder, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    refused(saved, f"holds no {name}")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("keep", [0, 1, 0.3, 0.9])
def test_a_truncated_file_is_named(saved, name, keep):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    refused(saved, name)


@pytest.mark.parametrize("seed", range(60))
def test_a_flipped_bit_never_changes_a_model_unseen(saved, seed):
    """Anywhere in weights and tokenizer; config.json is text that people may edit, and only has to make sense."""
    rng = np.random.default_rng(seed)
    name = ["config.json", "tokenizer.json", "model.safetensors"][seed % 3]
    content = bytearray((saved / name).read_bytes())
    end = 600 if seed % 2 and name.endswith("tensors") else len(content)
    content[rng.integers(end)] ^= 1 << int(rng.integers(8))
    (saved / name).write_bytes(content)
    with contextlib.suppress(CheckpointError):
        model, _ = load_model(saved)
        for name, numbers in DecoderLM(CONFIG, seed=3).state_dict().items():
            np.testing.assert_array_equal(model.state_dict()[name], numbers)


def test_a_flipped_bit_in_the_numbers_is_told(saved):
    content = bytearray((saved / "model.safetensors").read_bytes())
    content[-100] ^= 1
    (saved / "model.safetensors").write_bytes(content)
    refused(saved, "its numbers are not those that were saved")


def test_weights_that_another_program_wrote_are_read(saved):
    weights = safetensors.numpy.load_file(saved / "model.safetensors")
    safetensors.numpy.save_file(weights, saved / "model.safetensors")
    load_model(saved)


def change(folder, **fields):
    card = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**card, **fields}))


def test_a_foreign_config_is_recognised(saved):
    (saved / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"], "n_embd": 768}))
    refused(saved, "was not written by nanograd")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format_version": 99}, "has format 99, this nanograd reads 1"),
        ({"architecture": "mamba"}, "names the architecture 'mamba'; known: decoder"),
        ({"model": {"d_model": -1}}, "is damaged: Expected `int` >= 1"),
        ({"model": {"d_model": 7}}, "is damaged: d_model 7"),
        ({"extra": 1}, "is damaged: Object contains unknown field `extra`"),
        ({"tokenizer_sha256": "0" * 64}, "not the tokenizer this model was trained with"),
        (
            {"model": {"vocab_size": 300, "n_layers": 2, "n_heads": 2, "d_model": 8, "context_length": 8}},
            "does not fit",
        ),
    ],
)
def test_a_config_that_says_something_else_is_refused(saved, fields, message):
    change(saved, **fields)
    refused(saved, message)


def test_weights_of_another_shape_are_refused_with_both_shapes(saved):
    other = DecoderLMConfig(vocab_size=300, context_length=8, n_layers=1, n_heads=2, d_model=12)
    write_arrays(saved / WEIGHTS, DecoderLM(other, seed=0).state_dict())
    refused(saved, r"does not fit config\.json: .*\(300, 12\).*\(300, 8\)")


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    refused(tmp_path / "nowhere", "is not a folder")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is not a folder")


def test_publishing_into_a_full_place_leaves_the_old_weights(saved, tmp_path_factory, monkeypatch):
    before, newer = (saved / "model.safetensors").read_bytes(), tmp_path_factory.mktemp("newer")
    write_arrays(newer / WEIGHTS, DecoderLM(CONFIG, seed=4).state_dict())

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            publish_weights(newer, saved)
    assert (saved / "model.safetensors").read_bytes() == before
    assert len(list(saved.iterdir())) == 3
    publish_weights(newer, saved)
    assert (saved / "model.safetensors").read_bytes() == (newer / "model.safetensors").read_bytes()
