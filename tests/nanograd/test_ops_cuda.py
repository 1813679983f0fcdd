"""Every operation on a real GPU, with its kernels: what the CPU's formulas give, and the same bits each time.

Run by `pytest --device cuda` (and nanograd.gpucheck). Without a GPU the stand-in takes a few cases, so that these tests
are not met for the first time by the GPU.
"""

import numpy as np
import pytest

from nanograd import backend, kernels, ops
from nanograd.backend import to_device, to_host
from nanograd.precision import float_type
from nanograd.testing import Case, is_floating, random_like, value_and_gradients
from tests.cases import CASES

TOLERANCES = {"float32": (2e-5, 2e-6), "bf16": (2**-6, 2**-6), "fp16": (2**-8, 2**-8)}  # rtol, atol per largest number

FEW = ("layer_norm", "softmax", "linear", "packed_attention")
IDS = np.random.default_rng(0).integers(0, 4096, (2, 200))
AS_IN_MODELS = [  # many blocks, long rows, several tiles
    Case(ops.layer_norm, (2, 200, 768), (768,), (768,), eps=1e-5),
    Case(ops.rms_norm, (2, 200, 768), (768,), eps=1e-5),
    Case(ops.gelu, (2, 200, 3072)),
    Case(ops.linear, (2, 200, 768), (768, 768), (768,), within=(-0.2, 0.2)),
    Case(ops.packed_attention, (2, 200, 3 * 256), n_heads=4, causal=True),
    Case(ops.embedding, (4096, 768), IDS),
    Case(ops.linear_cross_entropy, (2, 200, 256), (4096, 256), None, IDS, within=(-0.2, 0.2)),
    Case(ops.dropout, (2, 200, 768), p=0.1, key=(1, 2)),
]


@pytest.fixture
def gpu(device):
    """A device with its kernels switched on."""
    before = backend.kernels_enabled()
    kernels.load(device=device)
    yield device
    backend.use_kernels(before)


@pytest.mark.cuda
@pytest.mark.parametrize("case", [*CASES, *AS_IN_MODELS], ids=repr)
def test_every_op_agrees_with_the_cpu(case, gpu):
    for precision in TOLERANCES:
        agrees(case, precision, gpu)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("case", [case for case in [*CASES, *AS_IN_MODELS] if case.name in FEW], ids=repr)
def test_the_stand_in_agrees_too(case, precision):
    agrees(case, precision, "cuda")


def agrees(case, precision, device):
    """Value and gradients, twice."""
    dtype = float_type(precision)
    narrow = [x.astype(dtype) if is_floating(x) else x for x in case.draw(dtype=np.float32)]
    wide = [x.astype(np.float64) if is_floating(x) else x for x in narrow]
    with backend.formulas_only():
        y, gradients = value_and_gradients(lambda *inputs: case.call(inputs), wide)
        dy = random_like(y).astype(dtype) if is_floating(y) else None
        if dy is not None:
            y, gradients = value_and_gradients(lambda *inputs: case.call(inputs), wide, dy.astype(y.dtype))
    runs = [on_device(case, narrow, dy, device) for _ in range(2)]
    for first, second, wanted in zip(*runs, [y, *gradients], strict=True):
        if wanted is None:
            assert first is None
            continue
        np.testing.assert_array_equal(first.view(np.uint8), second.view(np.uint8), err_msg="another time, other bits")
        if is_floating(wanted):
            rtol, atol = TOLERANCES[precision]
            largest = max(1.0, float(np.abs(wanted).max(initial=0)))
            np.testing.assert_allclose(
                first.astype(np.float64), wanted.reshape(-1), rtol=rtol, atol=atol * largest, err_msg=precision
            )
        else:
            np.testing.assert_array_equal(first, np.reshape(wanted, -1))


def on_device(case, arrays, dy, device):
    """Value and gradients on the host."""

    def there(x):
        return to_device(x, device) if isinstance(x, np.ndarray) else x

    y, gradients = value_and_gradients(
        lambda *inputs: case.call(inputs, there), list(map(there, arrays)), None if dy is None else there(dy)
    )
    return [None if x is None else np.ascontiguousarray(to_host(x)).reshape(-1) for x in (y, *gradients)]
