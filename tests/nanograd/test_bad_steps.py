"""A NaN, an infinity or 1e30 in a layer, weight, gradient or loss: it reaches nothing, and its place is named."""

import math
import re

import msgspec
import numpy as np
import pytest

from nanograd import bad_step, diagnosis, nn, ops
from nanograd.config import from_command_line, to_toml
from nanograd.diagnosis import HARDWARE
from nanograd.guard import DivergedError
from nanograd.mixing import prepare_all
from nanograd.models import DecoderLM
from nanograd.optim import clip, fused
from nanograd.primitive import primitive
from nanograd.settings import PRESETS
from nanograd.terminal import progress_bar
from nanograd.trainer import Trainer

OPTIMIZERS = ["adamw", "adam", "sgd", "lion", "adafactor", "muon"]
VALUES = [math.nan, math.inf, -math.inf, 1e30]
every = pytest.mark.parametrize


@pytest.fixture(scope="module")
def make(flags):
    """A trainer that has taken two steps."""

    def trained(*extra):
        config = from_command_line(PRESETS, [*flags, "--init", "random", "--n-layers", "2", *extra], prog="", about="")
        config = msgspec.structs.replace(config, optim=config.optim.resolved(accumulate=config.accumulate))
        made = Trainer(config, prepare_all(config, progress_bar))
        for step in (1, 2):
            assert "skipped" not in made.step(step)
        return made

    return trained


@pytest.fixture(autouse=True)
def quiet():
    with np.errstate(over="ignore", invalid="ignore"):
        yield


@primitive
def spoiled_backward(xp, x, *, by):
    """y = x"""
    return x.copy(), ()


@spoiled_backward.backward
def _(xp, dy, *, by, needs):
    """Not its gradient."""
    return dy * by


def spoil(where, by, monkeypatch, made):
    """From now on, numbers of the second block's MLP are spoiled."""
    forward, loss = nn.MLP.forward, DecoderLM.loss
    mlp = made.model.blocks[1].mlp

    def output(self, x, **settings):
        y = forward(self, x, **settings)
        return y * by if self is mlp else y

    def gradient(self, x, **settings):
        y = forward(self, x, **settings)
        return spoiled_backward(y, by=by) if self is mlp else y

    if where == "embedding":
        made.model.tokens.weight.data[:40] = by
    elif where == "weight":
        mlp.up.weight.data[3, 2] = by
    elif where == "loss":
        monkeypatch.setattr(DecoderLM, "loss", lambda self, *batch, **s: loss(self, *batch, **s) * by)
    else:
        monkeypatch.setattr(nn.MLP, "forward", {"output": output, "gradient": gradient}[where])


def all_that_learns(made):
    return {name: x.copy() for name, x in (made.model.state_dict() | made.optimizer.state_dict()).items()}


def same(before, after):
    return all(np.array_equal(before[name], after[name], equal_nan=True) for name in before)


@every("name", OPTIMIZERS)
@every("where", ["embedding", "weight", "output", "gradient", "loss"])
def test_what_is_no_number_reaches_neither_weights_nor_means(make, monkeypatch, name, where):
    made = make("--optimizer", name, "--ema-decay", "0.9", "--accumulate", "2", "--clip-norm", "0")
    start = all_that_learns(made)
    for by in VALUES:
        with monkeypatch.context() as patch:
            spoil(where, by, patch, made)
            before, place, learned = all_that_learns(made), made.next_batch, made.tokens
            record = made.step(3)
            after = all_that_learns(made)
        assert made.next_batch == place + 2, "the loader goes on"
        if math.isfinite(by) and "skipped" not in record:
            assert all(np.isfinite(x).all() for x in after.values())
        else:
            assert re.match("loss|gradient norm", record["skipped"])
            assert made.bad_step.why == record["skipped"]
            assert same(before, after)
            assert record["tokens"] == learned, "nothing was learned from it"
            assert not made.parameters.gradients.any()
        made.model.load_state_dict({k: x for k, x in start.items() if k in made.model.state_dict()})
        made.optimizer.load_state_dict({k: x for k, x in start.items() if k in made.optimizer.state_dict()})
    taken = made.step(4)
    assert "skipped" not in taken
    assert not same(start, all_that_learns(made))


@every("extra", ["", "--clip-norm 0 --dropout 0.1", "--recompute-blocks --accumulate 3 --dropout 0.1"])
@every(
    ("where", "by", "found"),
    [
        ("embedding", math.nan, "first not finite: the numbers of tokens.weight themselves"),
        ("weight", math.inf, "first not finite: the numbers of blocks.1.mlp.up.weight themselves"),
        ("output", math.nan, "first not finite: the output of blocks.1"),
        ("gradient", math.nan, "first not finite: the gradient of blocks.1.mlp.down."),
        ("gradient", math.inf, "first not finite: the gradient of blocks.1.mlp.down."),
    ],
)
def test_the_layer_that_went_bad_first_is_named_and_nothing_else_changes(make, monkeypatch, where, by, found, extra):
    made = make(*extra.split())
    spoil(where, by, monkeypatch, made)
    made.step(3)
    before, calls = all_that_learns(made), made.model.dropout_keys.calls
    assert bad_step.explain(made.bad_step, made).startswith(found)
    assert same(before, all_that_learns(made))
    assert made.model.dropout_keys.calls == calls
    assert not made.parameters.gradients.any()
    assert "forward" not in vars(made.model.blocks[0])
    assert all(p.node.complete is None for _, p in made.model.named_parameters())


def test_a_long_gradient_is_named_and_a_fault_that_does_not_come_again_is_the_machine_s(make, monkeypatch):
    for module in (clip, diagnosis):  # as the kernels do
        monkeypatch.setattr(module, "sum_of_squares", lambda g: float((g.astype(np.float64) ** 2).sum()))
    made = make("--clip-norm", "0")
    spoil("loss", 1e30, monkeypatch, made)
    assert made.step(3)["skipped"].endswith("whose square is infinite")
    assert bad_step.explain(made.bad_step, made).startswith("the longest gradient is that of ")
    monkeypatch.undo()
    assert bad_step.explain(made.bad_step, made) == HARDWARE


@every("name", OPTIMIZERS)
@every("by", VALUES[:3])
def test_a_fused_step_is_skipped_for_its_loss_and_ends_the_run_for_its_gradient(make, monkeypatch, name, by):
    made = make("--optimizer", name, "--fuse-optimizer", "--clip-norm", "0", "--ema-decay", "0.9")
    before = all_that_learns(made)
    with monkeypatch.context() as patch:
        spoil("loss", by, patch, made)
        assert made.step(3)["skipped"].startswith("loss ")
        assert bad_step.explain(made.bad_step, made).startswith("first not finite: the output of DecoderLM (")
    assert same(before, all_that_learns(made))
    assert all(p.grad is None for _, p in made.model.named_parameters())
    assert "skipped" not in made.step(4)
    spoil("gradient", by, monkeypatch, made)
    with pytest.raises(DivergedError, match=r"step 5, the gradient of blocks.1.mlp.down.(weight|bias) has the norm"):
        made.step(5)
    assert all(np.isfinite(x).all() for x in all_that_learns(made).values())


def test_a_fused_gradient_whose_square_is_infinite_reaches_no_mean(make, monkeypatch):
    monkeypatch.setattr(fused, "sum_of_squares", lambda g: float((g.astype(np.float64) ** 2).sum()))
    made = make("--fuse-optimizer", "--clip-norm", "0")
    spoil("gradient", 1e28, monkeypatch, made)
    with pytest.raises(DivergedError, match="has the norm"):
        made.step(3)
    assert all(np.isfinite(x).all() for x in all_that_learns(made).values())


@every("extra", ["--dropout 0.2 --accumulate 2", "--layout packed --no-tie-embeddings --freeze-embeddings"])
def test_a_kept_step_goes_bad_again_in_the_same_place(make, tmp_path, extra):
    made = make(*extra.split())
    made.model.blocks[1].mlp.up.weight.data[...] = 1e38
    assert "skipped" in made.step(3)
    found = bad_step.explain(made.bad_step, made)
    bad_step.save(tmp_path / "b", made.bad_step, made, found=found, settings=to_toml(made.config).encode())
    assert bad_step.replay(tmp_path / "b") == found
    assert found.startswith("first not finite: the output of blocks.1.mlp")


def test_scores_that_are_hidden_are_not_suspected(make):
    model, x = make().model, np.ones((2, 2), np.float32)
    with diagnosis._Outputs(model) as outputs:
        ops.where(x > 2, x, -math.inf)
        assert outputs.first == ""
        ops.mul(x, -math.inf)
    assert outputs.first == "the output of DecoderLM (mul)"
