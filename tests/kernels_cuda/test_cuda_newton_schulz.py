"""Muon's matrices made orthogonal on the stand-in: the numbers of the formula, and three launches a step."""

import numpy as np
import pytest

from nanograd.kernels.cuda import cublaslt, newton_schulz
from nanograd.optim.newton_schulz import STEPS, orthogonalize, orthogonalize_all
from tests.kernels_cuda.emulated import on_device, one_schedule

PATTERN = [(8, 8), (8, 8), (8, 8), (6, 8), (16, 8), (8, 16)]


def matrices(shapes: list[tuple[int, int]]) -> np.ndarray:
    """One behind the other, each of another length."""
    rng = np.random.default_rng(0)
    return np.concatenate(
        [i * rng.standard_normal(rows * columns, np.float32) for i, (rows, columns) in enumerate(shapes, 1)]
    )


def by_formula(flat: np.ndarray, shapes: list[tuple[int, int]]) -> np.ndarray:
    parts, start = [], 0
    for rows, columns in shapes:
        part = flat[start : start + rows * columns].astype(np.float64)
        parts.append(orthogonalize(part.reshape(rows, columns)).reshape(-1))
        start += rows * columns
    return np.concatenate(parts)


@pytest.mark.parametrize(
    "shapes",
    [PATTERN, PATTERN * 3, [(4, 4)], [(4, 4), (4, 4)], [(4, 6), (4, 4), (4, 6)]],
    ids=["one block", "three blocks", "one", "two alike", "no pattern"],
)
@one_schedule
def test_every_matrix_is_the_formula_s(device, shapes):
    flat = matrices(shapes)
    there = on_device(flat)
    orthogonalize_all(there, shapes)
    np.testing.assert_allclose(there.held, by_formula(flat, shapes), rtol=1e-4, atol=1e-5)


@one_schedule
def test_matrices_of_one_shape_are_multiplied_together(device):
    there = on_device(matrices(PATTERN * 3))
    groups = list(newton_schulz.stacks(there, PATTERN * 3))
    assert [x.shape for x in groups] == [(3, 3, 8, 8), (3, 1, 6, 8), (3, 1, 16, 8), (3, 1, 8, 16)]
    assert all(np.may_share_memory(x.held, there.held) for x in groups)
    orthogonalize_all(there, PATTERN * 3)
    device.counts.clear()
    orthogonalize_all(there, PATTERN * 3)
    before_and_after = 7  # x x, its sum, the root, the maximum, the quotient; the copy of a view; the result
    assert device.counts["launch"] <= len(groups) * (3 * STEPS + before_and_after)
    assert device.counts["sync"] == 0


@one_schedule
def test_rounding_factors_to_11_bits_changes_little(device):
    """Singular values end between 0.7 and 1.2 in any case: a rounding of 2⁻¹¹ is nothing beside that."""
    flat = matrices(PATTERN)
    there = on_device(flat)
    orthogonalize_all(there, PATTERN, may_round=True)
    assert cublaslt.matmul_precision() == "float32"
    change = np.abs(there.held - by_formula(flat, PATTERN)).max()
    assert 1e-6 < change < 0.02
