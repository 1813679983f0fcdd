"""What the tests of all kernel families share: number types, numbers, and how near is near enough."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from nanograd.backend import to_device
from nanograd.kernels.cuda.emulation import Schedule

ml_dtypes = pytest.importorskip("ml_dtypes")
bfloat16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [np.dtype(np.float32), bfloat16, np.dtype(np.float16)]
one_schedule = pytest.mark.parametrize("schedule", [Schedule()], indirect=True, ids=str)  # where no kernel runs
every_float = pytest.mark.parametrize("dtype", FLOATS, ids=str)


def few(max_examples: int) -> settings:
    """A hypothesis test of so few examples, always the same ones; all of them meet the same device."""
    fixture = HealthCheck.function_scoped_fixture
    return settings(max_examples=max_examples, derandomize=True, deadline=None, suppress_health_check=[fixture])


def numbers(shape: Any, dtype: Any, seed: int = 0) -> np.ndarray:
    """Normal numbers around a mean of 0.5: a mean of 0 hides what forgets to take it off."""
    return (np.random.default_rng(seed).standard_normal(shape) + 0.5).astype(dtype)


def on_device(x: Any) -> Any:
    """A NumPy array as a device array."""
    return to_device(np.asarray(x), "cuda")


def bf16(x: Any) -> Any:
    """Numbers as a device array of bfloat16."""
    return on_device(np.asarray(x).astype(bfloat16))


def wide(x: np.ndarray) -> np.ndarray:
    """The same numbers in float64, in which the formulas say what is right."""
    return np.asarray(x).astype(np.float64)


def by_twin(xp: Any, op: Any, arrays: list[Any], dy: Any, needs: Any = None, **options: Any) -> tuple[Any, Any]:
    """y and the gradients by the op's CUDA twin; fails if that leaves the arrays to the formula."""
    y, saved, rule = op.fastest(xp, [x if x is None else on_device(x) for x in arrays], options)
    assert rule in op.twins[xp], f"{op.name}: no twin takes these arrays"
    extra = {"into": (None,) * len(arrays)} if rule.accumulates else {}
    return y, rule.backward(xp, on_device(dy), *saved, needs=needs or (True,) * len(arrays), **extra, **options)


def by_formula(op: Any, arrays: list[Any], dy: Any, needs: Any = None, **options: Any) -> tuple[Any, Any]:
    """y and the gradients by the formula, in float64 where the arrays are floats."""
    arrays = [wide(x) if x is not None and x.dtype.kind not in "iub" else x for x in arrays]
    y, saved = op.formula.forward(np, *arrays, **options)
    return y, op.formula.backward(np, wide(dy), *saved, needs=needs or (True,) * len(arrays), **options)


def assert_close(found: Any, expected: np.ndarray, *, ulps: float = 4, floor: float = 1.0) -> None:
    """found, a device array, is `expected` (float64) but for so many units in the last place of its type.

    floor  the size below which differences count as if the number were that large
    """
    epsilon = float(ml_dtypes.finfo(found.dtype).eps)
    np.testing.assert_allclose(wide(found.held), expected, rtol=ulps * epsilon, atol=ulps * epsilon * floor)
