"""Modules that are run again in backward: the same bits, less memory, and nothing half done after an error."""

import sys
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from nanograd import nn
from nanograd.backend import to_device, to_host
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.nn.recompute import recompute
from nanograd.optim import FlatParameters
from nanograd.primitive import primitive
from nanograd.profile import profile
from nanograd.random import DropoutKeys
from nanograd.tensor import PASSED_ON, Tensor, is_recording, no_grad

CONFIG = DecoderLMConfig(
    vocab_size=40, context_length=16, n_layers=3, n_heads=2, d_model=16,
    dropout=0.2, attention_dropout=0.1, embedding_dropout=0.1,
)  # fmt: skip
RNG = np.random.default_rng(1)
IDS, TARGETS = RNG.integers(0, 40, (2, 3, 16))
PADDING = np.arange(16) < np.array([16, 11, 5])[:, None]


def gradients(config: DecoderLMConfig, *, again: bool, mask: Any = None) -> dict[str, Any]:
    """After two micro-batches, whose gradients add up."""
    model = DecoderLM(config, seed=3)
    model.recompute_blocks = again
    found = {}
    for i in range(2):
        loss = model.loss(np.roll(IDS, i), TARGETS, mask)
        loss.backward()
        found[f"loss {i}"] = loss.data
    return found | {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("device", ["cpu", "stand-in"])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_gradients_are_the_same_bits_in_every_precision_on_every_device(precision, device, monkeypatch):
    """float32 gradients of 16-bit activations, dropout masks drawn twice; tied embeddings are outside of the blocks."""
    if device == "stand-in":
        pytest.importorskip("cupy", reason="the stand-in asks the real CuPy which names it has")
        from tests import fake_cupy

        for name, module in fake_cupy.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
    where, found = "cuda" if device == "stand-in" else "cpu", []
    inputs = [to_device(x, where) for x in (IDS, TARGETS, PADDING)]
    for again in (False, True):
        model = DecoderLM(CONFIG, seed=3).to(where)
        model.recompute_blocks = again
        flat = FlatParameters(model, precision=precision, seed=5)
        for _ in range(2):
            model.loss(*inputs).backward()
        found.append(to_host(flat.gradients))
    assert found[0].dtype == np.float32
    assert found[0].any()
    np.testing.assert_array_equal(*found)


@pytest.fixture(params=["formulas", "twins"])
def _kernels(request):
    if request.param == "twins":
        request.getfixturevalue("twins")


@pytest.mark.usefixtures("_kernels")
@pytest.mark.parametrize("mask", [None, PADDING], ids=["whole", "padded"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_placement": "post", "norm": "rms_norm", "activation": "relu"},
        {"dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0, "tie_embeddings": False},
        {"positions": "learned", "head_bias": True, "qkv_bias": False},
    ],
    ids=["pre", "post", "no dropout", "learned"],
)
def test_gradients_are_the_same_to_the_last_bit(changes, mask):
    config = replace(CONFIG, **changes)
    plain, again = (gradients(config, again=on, mask=mask) for on in (False, True))
    assert plain.keys() == again.keys()
    for name in plain:
        np.testing.assert_array_equal(plain[name], again[name], err_msg=name)


def test_less_is_kept():
    peaks = []
    for again in (False, True):
        model = DecoderLM(replace(CONFIG, n_layers=8))
        model.recompute_blocks = again
        with profile() as report:
            model.loss(IDS, TARGETS).backward()
        peaks.append(report.peak["kept"])
    assert peaks[1] < 0.35 * peaks[0]


def test_evaluation_runs_once():
    model = DecoderLM(CONFIG).eval()
    model.recompute_blocks = True
    with profile() as report, no_grad():
        model.loss(IDS, TARGETS)
    assert {span.kind for span in report.spans} == {"step", "forward"}


# Its own rules


class Twice(nn.Module):
    """y = 2 w x, and a list of whether it was recording"""

    def __init__(self) -> None:
        self.weight = nn.Parameter(np.array([1.0, 2.0]))
        self.recorded: list[bool] = []

    def forward(self, x: Tensor, factor: float = 2.0) -> Tensor:
        self.recorded.append(is_recording())
        return x * self.weight * factor


class Through(nn.Module):
    """The very tensor that it is given"""

    def forward(self, x: Tensor) -> Tensor:
        return x


def leaf() -> Tensor:
    return Tensor(np.array([3.0, 5.0]), requires_grad=True)


def test_it_runs_first_without_and_then_with_memory():
    module, x = Twice(), leaf()
    y = recompute(module, x, 3.0)
    assert module.recorded == [False]
    y.backward(np.ones(2))
    assert module.recorded == [False, True]
    assert (x.grad.tolist(), module.weight.grad.tolist()) == ([3.0, 6.0], [9.0, 15.0])
    assert y.data.tolist() == [9.0, 30.0]


def test_an_input_without_gradient_still_lets_parameters_learn():
    module = Twice()
    recompute(module, Tensor(np.array([3.0, 5.0]))).backward(np.ones(2))
    assert module.weight.grad.tolist() == [6.0, 10.0]


def test_where_nothing_learns_there_is_nothing_to_walk():
    module = Twice()
    module.weight.requires_grad = False
    assert not recompute(module, Tensor(np.ones(2))).requires_grad


def test_parameters_frozen_after_forward_get_nothing():
    module, x = Twice(), leaf()
    y = recompute(module, x)
    module.weight.requires_grad = False
    y.backward(np.ones(2))
    assert module.weight.grad is None
    assert x.grad.tolist() == [2.0, 4.0]


def test_everything_frozen_after_forward_is_no_error():
    module = Twice()
    y = recompute(module, Tensor(np.ones(2)), 2.0)
    module.weight.requires_grad = False
    y.backward(np.ones(2))
    assert module.weight.grad is None


def test_the_gradient_of_its_result_can_be_kept():
    module, x = Twice(), leaf()
    y = recompute(module, x)
    y.retain_grad()
    (y * 3.0).backward(np.ones(2))
    assert y.grad.tolist() == [3.0, 3.0]
    assert x.grad.tolist() == [6.0, 12.0]


def test_a_kept_gradient_is_not_written_to():
    """A rule may pass its dy on as the parent's own array, but not if a tensor keeps that array as its gradient."""

    @primitive
    def plus(xp, a, b):
        return a + b, ()

    @plus.backward
    def _(xp, dy, *, needs):
        return PASSED_ON, dy.copy()

    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 1.0
            return plus(y, y * 1.0)

    x = leaf()
    y = recompute(Sum(), x)
    y.retain_grad()
    (y * 2.0 + y * 3.0).backward(np.ones(2))  # a sum: y's node owns its gradient
    assert (y.grad.tolist(), x.grad.tolist()) == ([5.0, 5.0], [10.0, 10.0])


@pytest.mark.parametrize("first", [False, True])
def test_an_input_used_elsewhere_too(first):
    module, x = Twice(), leaf()
    z = x * 1.0
    if first:
        square = z * z
        y = recompute(module, z)
    else:
        y = recompute(module, z)
        square = z * z
    (y + square).backward(np.ones(2))
    assert x.grad.tolist() == [2.0 + 6.0, 4.0 + 10.0]


def test_a_module_that_returns_its_input_does_not_change_it():
    x = leaf()
    y = x * 2.0
    z = recompute(Through(), y)
    assert z is not y
    z.backward(np.ones(2))
    assert x.grad.tolist() == [2.0, 2.0]


def test_one_inside_another():
    class Outer(nn.Module):
        def __init__(self) -> None:
            self.inner, self.keys = Twice(), DropoutKeys(0)
            self.dropout = nn.Dropout(0.5, self.keys)

        def forward(self, x: Tensor) -> Tensor:
            return self.dropout(recompute(self.inner, self.dropout(recompute(self.inner, x))))

    found = []
    for wrap in (recompute, lambda module, x: module(x)):
        outer, x = Outer(), Tensor(np.ones((50, 2)), requires_grad=True)
        wrap(outer, x).backward(np.ones((50, 2)))
        found.append([x.grad, outer.inner.weight.grad])
        assert outer.keys.calls == 2
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_backward_draws_the_masks_of_its_forward_and_disturbs_nobody():
    keys = DropoutKeys(5)
    module = nn.Dropout(0.5, keys)
    x = Tensor(np.ones(100), requires_grad=True)
    y = recompute(module, x)
    later = module(x)  # another call, in between
    module.eval()
    y.backward(np.ones(100))
    np.testing.assert_array_equal(x.grad, y.data)
    assert keys.calls == 2
    assert not module.training
    assert (later.data != y.data).any()


def test_backward_inside_no_grad_still_remembers():
    module, x = Twice(), leaf()
    y = recompute(module, x)
    with no_grad():
        y.backward(np.ones(2))
        assert not is_recording()
    assert x.grad.tolist() == [2.0, 4.0]


def test_an_error_in_the_second_run_leaves_everything_as_it_was():
    class Fragile(nn.Module):
        def __init__(self) -> None:
            self.inner, self.keys, self.runs = Twice(), DropoutKeys(0), 0
            self.dropout = nn.Dropout(0.5, self.keys)

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            y = self.dropout(self.inner(x))
            if self.runs == 2:
                raise MemoryError("as planned")
            return y

    module, x = Fragile(), leaf()
    y = recompute(module, x * 1.0)
    with pytest.raises(MemoryError, match="as planned"):
        y.backward(np.ones(2))
    assert module.keys.calls == 1
    assert is_recording()
    assert x.grad is module.inner.weight.grad is None
    recompute(module, x * 1.0).backward(np.ones(2))
    assert x.grad is not None


def test_an_error_in_the_first_run_ends_the_no_grad():
    with pytest.raises(ValueError, match="mul: "):
        recompute(Twice(), Tensor(np.ones(3)))
    assert is_recording()


def test_a_second_walk_is_refused_as_ever():
    y = recompute(Twice(), leaf())
    y.backward(np.ones(2))
    with pytest.raises(RuntimeError, match="already walked"):
        y.backward(np.ones(2))


def test_a_profile_tells_the_second_run_from_the_first():
    with profile() as report:
        recompute(nn.Linear(2, 2, rng=np.random.default_rng(0)), Tensor(np.ones((3, 2), np.float32))).sum().backward()
    assert [span.kind for span in report.spans if span.name == "linear"] == ["forward", "again", "backward"]


def test_integers_pass_through():
    embedding = nn.Embedding(4, 2, rng=np.random.default_rng(0))
    ids = np.array([0, 3, 3])
    recompute(embedding, ids).backward(np.ones((3, 2), np.float32))
    assert embedding.weight.grad[:, 0].tolist() == [1.0, 0.0, 0.0, 2.0]
