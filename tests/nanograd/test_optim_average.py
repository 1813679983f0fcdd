"""The running mean of weights: its closed form, and who sees it."""

import numpy as np
import pytest

from nanograd import nn
from nanograd.optim import SGD, AdamW, Averaged, FlatParameters, FusedIntoBackward


class One(nn.Module):
    def __init__(self) -> None:
        self.w = nn.Parameter(np.linspace(-1, 1, 12).reshape(3, 4))


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_the_closed_form(decay):
    """Σ dᵗ⁻ⁱ wᵢ (1 − d) / (1 − dᵗ), over the weights after each step; those before the first have no share."""
    flat, seen = FlatParameters(One()), []
    optimizer = Averaged(AdamW(flat), decay=decay)
    for t in range(1, 21):
        flat.gradients[...] = np.random.default_rng(t).standard_normal(12)
        optimizer.step(0.1)
        seen.append(flat.parameters.copy())
        shares = decay ** np.arange(t - 1, -1, -1)
        expected = shares @ np.array(seen) / shares.sum()
        np.testing.assert_allclose(optimizer.average, expected, rtol=1e-12)


def test_inside_the_block_the_model_holds_the_mean_and_then_its_weights_again():
    module = One()
    flat = FlatParameters(module)
    optimizer = Averaged(SGD(flat), decay=0.9)
    with optimizer.averaged():  # before the first step there is no mean
        np.testing.assert_array_equal(module.w.data.reshape(-1), np.linspace(-1, 1, 12))
    flat.gradients[...] = 1
    for _ in range(3):
        optimizer.step(0.1)
    weights = module.w.data.copy()
    with optimizer.averaged():
        np.testing.assert_array_equal(module.w.data.reshape(-1), optimizer.average)
        assert not np.array_equal(module.w.data, weights)
    np.testing.assert_array_equal(module.w.data, weights)
    flat.check_views()


def test_it_changes_nothing_of_the_training():
    results = []
    for wrap in (lambda optimizer: optimizer, lambda optimizer: Averaged(optimizer, decay=0.9)):
        flat = FlatParameters(One())
        optimizer = wrap(AdamW(flat))
        for t in range(5):
            flat.gradients[...] = np.random.default_rng(t).standard_normal(12)
            optimizer.step(0.1, scale=0.5, zero_grad=True)
            assert not flat.gradients.any()
            with optimizer.averaged():
                pass
        results.append(flat.parameters)
    np.testing.assert_array_equal(*results)


def test_it_counts_fused_steps():
    module = One()
    optimizer = Averaged(SGD(FlatParameters(module, with_gradients=False)), decay=0.9)
    fused = FusedIntoBackward(optimizer)
    for _ in range(2):
        with fused.step(0.1):
            (module.w * module.w).sum().backward()
    assert optimizer.steps == optimizer.optimizer.steps == 2
    assert int(optimizer.state_dict()["steps"]) == 2
