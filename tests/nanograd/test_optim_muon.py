"""Newton–Schulz makes matrices orthogonal, and Muon's step is what its docstring says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanograd import nn
from nanograd.kernels.cpu.cpu_features import has_avx512
from nanograd.optim import FlatParameters, Muon, orthogonalize
from nanograd.optim.newton_schulz import orthogonalize_all


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


def low_rank(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Singular values over four powers of ten, as gradients have them."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.standard_normal((size, min(shape))))[0] for size in shape)
    return (u * np.logspace(0, -4, min(shape)) @ v.T).astype(np.float32)


def compiled(matrices: list[np.ndarray]) -> list[np.ndarray]:
    flat = np.concatenate([x.reshape(-1) for x in matrices])
    orthogonalize_all(flat, [x.shape for x in matrices])
    parts = np.split(flat, np.cumsum([x.size for x in matrices])[:-1])
    return [part.reshape(x.shape) for part, x in zip(parts, matrices, strict=True)]


needs_avx512 = pytest.mark.skipif(not has_avx512(), reason="the compiled iteration is made of AVX-512 tiles")


@needs_avx512
@pytest.mark.usefixtures("twins")
@settings(max_examples=30)
@given(sides=st.lists(st.tuples(st.integers(1, 230), st.integers(1, 230)), min_size=1, max_size=5))
def test_the_compiled_iteration_gives_the_same(sides):
    """On the small matrix X Xᵀ a singular value of 10⁻⁴ is 10⁻⁸, one rounding of the largest: measured over 3,000
    matrices of these shapes, no number is off by more than 10⁻³.
    """
    matrices = [low_rank(shape, sum(shape)) for shape in sides]
    for found, g in zip(compiled(matrices), matrices, strict=True):
        np.testing.assert_allclose(found, orthogonalize(g.astype(np.float64)), atol=5e-3)


@needs_avx512
@pytest.mark.usefixtures("twins")
def test_long_sums_many_bands_and_nothing_at_all():
    """More columns than one block of steps; several bands of rows; zeros; and a matrix too short to be lengthened."""
    wide, tall, nothing = low_rank((300, 1100), 0), low_rank((1100, 300), 1), np.zeros((5, 9), np.float32)
    tiny = low_rank((20, 30), 2) * np.float32(1e-9)
    for found, g in zip(compiled([wide, nothing, tall, tiny]), (wide, nothing, tall, tiny), strict=True):
        np.testing.assert_allclose(found, orthogonalize(g.astype(np.float64)), atol=5e-3)


@needs_avx512
@pytest.mark.usefixtures("twins")
def test_company_and_threads_do_not_matter():
    matrices = [low_rank((40, 3 * n), n) for n in (5, 30, 60)]
    together = compiled(matrices)
    for found, g in zip(together, matrices, strict=True):
        np.testing.assert_array_equal(compiled([g])[0], found)


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
