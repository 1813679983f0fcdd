"""Newton–Schulz makes matrices orthogonal, and Muon's step is what its docstring says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanograd import backend, nn
from nanograd.optim import FlatParameters, Muon, orthogonalize


def singular_values(x: np.ndarray) -> np.ndarray:
    return np.linalg.svd(x.astype(np.float64), compute_uv=False)


@pytest.mark.parametrize("shape", [(24, 24), (16, 96), (96, 16), (1, 7), (7, 1), (48, 47)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_singular_values_end_near_one_and_vectors_stay(shape, dtype):
    """Gradients are near to low rank: singular values over two powers of ten are made alike."""
    rng, n = np.random.default_rng(0), min(shape)
    u, v = (np.linalg.qr(rng.standard_normal((size, n)))[0] for size in shape)
    g = (u * np.logspace(0, -2, n) @ v.T).astype(dtype)
    y = orthogonalize(g)
    assert (y.shape, y.dtype) == (shape, dtype)
    assert 0.65 < singular_values(y).min() <= singular_values(y).max() < 1.21
    inside = u.T @ y @ v  # the same singular vectors: nothing off the diagonal
    np.testing.assert_allclose(inside, np.diag(np.diag(inside)), atol=2e-4 if dtype is np.float32 else 1e-10)


@settings(max_examples=40)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), size=st.sampled_from([1e-15, 1e-3, 1.0, 1e6]))
def test_any_shape_and_length_gives_at_most_the_largest_fixed_point(rows, columns, size):
    """1.2024 is the most that the iteration makes of any s ≤ 1; the length of g does not matter."""
    g = np.random.default_rng(rows * 41 + columns).standard_normal((rows, columns)) * size
    y = orthogonalize(g)
    assert singular_values(y).max() < 1.2025
    if size > 1e-4:
        np.testing.assert_allclose(y, orthogonalize(g * 8), atol=1e-9)


def test_the_steepest_slope_at_zero():
    """Five steps multiply a tiny singular value by 3.4445⁵ = 485."""
    g = np.diag([1.0, 1e-7])
    assert singular_values(orthogonalize(g))[1] == pytest.approx(1e-7 * 3.4445**5, rel=1e-6)


def test_nothing_stays_nothing():
    assert not orthogonalize(np.zeros((3, 5), np.float32)).any()


@pytest.mark.usefixtures("twins")
@pytest.mark.parametrize("shape", [(64, 64), (64, 200), (200, 64), (19, 33)])
def test_the_projects_own_product_gives_the_same(shape):
    g = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    ours = orthogonalize(g)
    with backend.formulas_only():
        np.testing.assert_allclose(ours, orthogonalize(g), atol=1e-5)


class Packed(nn.Module):
    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.qkv = nn.Parameter(rng.standard_normal((24, 8)).astype(np.float32))
        self.bias = nn.Parameter(np.zeros(24, np.float32))


def test_each_of_the_packed_maps_is_orthogonal_and_as_long_as_adamws_step():
    """Its root mean square is 0.2 · lr · (the singular values' own, between 0.7 and 1.2)."""
    module = Packed()
    flat = FlatParameters(module)
    module.qkv.grad[...] = np.random.default_rng(1).standard_normal((24, 8))
    module.qkv.grad[16:] *= 1000  # one loud third does not silence the others
    before = module.qkv.data.copy()
    Muon(flat, hidden={"qkv": (8, 8, 8)}, weight_decay=0.0).step(0.1)
    for i in range(0, 24, 8):
        step = (before - module.qkv.data)[i : i + 8]
        values = singular_values(step) / (0.1 * 0.2 * 8**0.5)
        assert 0.6 < values.min() <= values.max() < 1.21
        assert 0.1 * 0.2 * 0.7 < np.sqrt(np.mean(step**2)) < 0.1 * 0.2 * 1.2


def test_the_maps_of_one_tall_matrix_would_not_be():
    """What the packing is not: columns of 24 rows that are orthonormal together."""
    g = np.random.default_rng(1).standard_normal((24, 8))
    g[16:] *= 1000
    thirds = [singular_values(orthogonalize(g)[i : i + 8]).max() for i in range(0, 24, 8)]
    assert thirds[0] < 0.1
    assert thirds[2] > 0.7


def test_the_other_half_is_adamw_with_the_same_count_of_steps():
    module = Packed()
    flat = FlatParameters(module)
    optimizer = Muon(flat, hidden={"qkv": (8, 8, 8)})
    flat.gradients[...] = np.random.default_rng(1).standard_normal(len(flat.gradients))
    optimizer.step(0.1)
    np.testing.assert_allclose(module.bias.data, -0.1 * np.sign(module.bias.grad), rtol=1e-5)
    assert optimizer.adamw.steps == 1
    assert set(optimizer.state_dict()) == {"steps", "momentum.qkv", "m.bias", "v.bias"}
