"""When a loss scale halves, when it doubles, and when it is not to blame."""

import math

import numpy as np

from nanograd.loss_scale import LARGEST, LossScale, LossScaleState
from nanograd.tensor import Tensor


def test_it_halves_on_overflow_and_doubles_after_good_steps():
    loss_scale = LossScale("fp16", first=8.0, growth_steps=3)
    assert loss_scale.check(2.0, math.inf) == "gradient overflow at loss scale 8"
    assert loss_scale.overflowed
    assert loss_scale.state == LossScaleState(scale=4.0, good_steps=0, overflows=1)
    for _ in range(2):
        assert not loss_scale.check(2.0, 1.0)
        assert not loss_scale.overflowed
    assert loss_scale.state == LossScaleState(scale=4.0, good_steps=2, overflows=1)
    loss_scale.check(2.0, math.nan)  # the count of good steps begins anew
    assert loss_scale.state == LossScaleState(scale=2.0, good_steps=0, overflows=2)
    for _ in range(3):
        loss_scale.check(2.0, 1.0)
    assert loss_scale.state == LossScaleState(scale=4.0, good_steps=0, overflows=2)


def test_at_one_and_for_a_loss_that_is_no_number_it_is_not_to_blame():
    """Then the step is a bad one: the guard counts those, and ends a run of them."""
    loss_scale = LossScale("fp16", first=1.0)
    for loss, norm in ((1.0, math.inf), (math.nan, math.nan), (math.inf, math.inf)):
        assert not loss_scale.check(loss, norm)
        assert not loss_scale.overflowed
    loss_scale = LossScale("fp16", first=8.0)
    assert not loss_scale.check(math.nan, math.nan)
    assert loss_scale.state == LossScaleState(scale=8.0)


def test_it_does_not_grow_beyond_all_bounds():
    for first, then in ((LARGEST / 2, LARGEST), (LARGEST, LARGEST), (4 * LARGEST, 4 * LARGEST)):
        loss_scale = LossScale("fp16", first=first, growth_steps=1)
        loss_scale.check(1.0, 1.0)
        assert loss_scale.scale == then


def test_other_types_have_none():
    for precision in ("float32", "bf16"):
        loss_scale = LossScale(precision)
        assert loss_scale.scale == 1
        assert not loss_scale.check(1.0, math.inf)
        assert loss_scale.first_gradient(Tensor(np.ones((), np.float32))) is None
        assert loss_scale.state == LossScaleState()


def test_backward_begins_with_it():
    x = Tensor(np.float32(3), requires_grad=True)
    loss = x * x
    loss.backward(LossScale("fp16", first=1024.0).first_gradient(loss))
    assert x.grad == 6 * 1024
