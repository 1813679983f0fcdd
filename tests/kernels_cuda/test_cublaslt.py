"""gemm on the stand-in: every type, layout, batch and epilogue against NumPy in float64, and what is refused."""

import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanograd import backend, kernels, ops
from nanograd.kernels.cuda import cublaslt, launch
from nanograd.kernels.cuda.cublaslt_abi import Compute, Epilogue
from nanograd.kernels.cuda.cublaslt_library import CublasLtError

pytest.importorskip("cupy", reason="the stand-in asks the real CuPy which names it has: pip install cupy-cuda13x")
from tests import fake_cublaslt, fake_cuda, fake_cupy

BF16 = np.dtype(ml_dtypes.bfloat16)
TYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bf16": BF16}
EPS = {"float32": 2.0**-24, "float16": 2.0**-11, "bf16": 2.0**-8}  # half a unit in the last place of 1
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _device(monkeypatch):
    for name, module in fake_cupy.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    use()
    yield
    cublaslt.set_matmul_precision("float32")


def use(**settings: Any) -> fake_cublaslt.FakeCublasLt:
    """A library of this test's own: what it did, it has noted."""
    library = fake_cublaslt.FakeCublasLt(**settings)
    cublaslt.register(fake_cupy, lambda: library)
    return library


def random(*shape: int, dtype: Any = np.float32) -> Any:
    return fake_cupy.asarray((rng.standard_normal(shape) + 0.5).astype(dtype))


def wide(x: Any) -> Any:
    return x.held.astype(np.float64)


def gemm(*arguments: Any, **settings: Any) -> Any:
    return cublaslt.gemm(fake_cupy, *arguments, **settings)


def check(found: Any, expected: Any, name: str = "float32") -> None:
    scale = 1 + np.abs(expected).max(initial=0)
    np.testing.assert_allclose(wide(found), expected, rtol=2 * EPS[name], atol=4 * EPS["float32"] * scale)


# Types, layouts, batches


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("out_name", ["same", "float32"])
def test_every_type_is_added_up_in_float32(name, out_name):
    a, b = random(5, 16, dtype=TYPES[name]), random(16, 8, dtype=TYPES[name])
    out_name = name if out_name == "same" else out_name
    out = fake_cupy.empty((5, 8), TYPES[out_name])
    assert gemm(a, b, out) is out
    check(out, wide(a) @ wide(b), out_name)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.data(), *[st.integers(1, 9)] * 3)
def test_operands_may_lie_in_any_dense_way(data, M, K, N):
    """Row by row or column by column, cut out of something larger, and turned by a flag or by the caller."""
    a, turned_a = operand(data, M, K)
    b, turned_b = operand(data, K, N)
    out = fake_cupy.asarray(np.full((M, N + 3), 7, np.float32))
    gemm(a, b, out[:, :N], transpose_a=turned_a, transpose_b=turned_b)
    left, right = (wide(x).T if turned else wide(x) for x, turned in ((a, turned_a), (b, turned_b)))
    check(out[:, :N], left @ right)
    assert (out.held[:, N:] == 7).all()


def operand(data: Any, rows: int, columns: int) -> tuple[Any, bool]:
    """An array that is (rows, columns), perhaps only after being turned."""
    turned, column_wise, extra = data.draw(st.tuples(st.booleans(), st.booleans(), st.integers(0, 2)))
    shape = (columns, rows) if turned else (rows, columns)
    if column_wise:
        return random(shape[1], shape[0] + extra)[:, : shape[0]].T, turned
    return random(shape[0], shape[1] + extra)[:, : shape[1]], turned


def test_nothing_is_copied_or_allocated():
    a, b, out = random(4, 8).T, random(4, 6), fake_cupy.empty((8, 6), np.float32)
    gemm(a, b, out)
    fake_cupy.counts.clear()
    gemm(a, b, out)
    assert dict(fake_cupy.counts) == {"launch": 1}


HEADS = (2, 3, 5, 4)  # B, H, T, D


@pytest.mark.parametrize(
    ("shape_a", "shape_b", "calls"),
    [
        ((2, 3, 5, 4), (2, 3, 4, 6), 1),
        ((2, 3, 5, 4), (4, 6), 1),
        ((5, 4), (2, 3, 4, 6), 1),
        ((2, 1, 5, 4), (3, 4, 6), 2),
        ((2, 3, 5, 4), (1, 3, 4, 6), 2),
        ((1, 1, 5, 4), (1, 4, 6), 1),
        ((2, 1, 3, 5, 4), (1, 2, 1, 4, 6), 4),
    ],
)
def test_batches_broadcast(shape_a, shape_b, calls):
    library, a, b = use(), random(*shape_a), random(*shape_b)
    expected = wide(a) @ wide(b)
    out = fake_cupy.empty(expected.shape, np.float32)
    gemm(a, b, out)
    check(out, expected)
    assert len(library.products) == calls


def test_heads_are_multiplied_where_they_lie():
    """Queries and keys in one packed array, head by head: one call for each sequence, all heads at once."""
    B, H, T, D = HEADS
    library, packed = use(), random(B, T, 2, H, D)
    query, key = packed.transpose(2, 0, 3, 1, 4)
    scores = fake_cupy.empty((B, H, T, T), np.float32)
    gemm(query, key, scores, transpose_b=True)
    check(scores, wide(query) @ wide(key).swapaxes(-1, -2))
    assert len(library.products) == B


def test_results_are_added_to_what_is_there_or_elsewhere():
    a, b, c = random(3, 8, dtype=BF16), random(8, 4, dtype=BF16), random(3, 4)
    before, product = wide(c), wide(a) @ wide(b)
    out = gemm(a, b, fake_cupy.empty((3, 4), np.float32), alpha=0.5, beta=2.0, addend=c)
    check(out, 0.5 * product + 2 * before)
    np.testing.assert_array_equal(wide(c), before)
    check(gemm(a, b, c, beta=1.0), product + before)


def test_with_beta_zero_what_was_there_does_not_matter():
    out = fake_cupy.asarray(np.full((2, 2), np.nan, np.float32))
    check(gemm(random(2, 4), fake_cupy.zeros((4, 2), np.float32), out), np.zeros((2, 2)))


@pytest.mark.parametrize(("name", "bits"), [("float32", 24), ("tf32", 11), ("bf16", 8)])
def test_factors_in_float32_are_rounded_as_the_precision_says(name, bits):
    cublaslt.set_matmul_precision(name)
    below_one = 1 - 2.0**-bits
    lost = 1 - 2.0 ** -(bits + 1)  # needs a bit more: it is rounded, but in float32, whose type can't hold it anyway
    x = fake_cupy.asarray(np.array([[below_one, lost]], np.float32))
    one = fake_cupy.asarray(np.eye(2, dtype=np.float32))
    assert gemm(x, one, fake_cupy.empty((1, 2), np.float32)).held.tolist() == [[below_one, 1.0]]


def test_the_precision_does_not_touch_16_bit_factors_and_its_name_is_checked():
    cublaslt.set_matmul_precision("bf16")
    library, x = use(), random(8, 8, dtype=np.float16)
    gemm(x, x, fake_cupy.empty((8, 8), np.float16))
    assert library.products[0].compute == Compute.COMPUTE_32F
    with pytest.raises(ValueError, match="'fp8' is unknown; use one of float32, tf32, bf16"):
        cublaslt.set_matmul_precision("fp8")
    assert cublaslt.matmul_precision() == "bf16"


# Epilogues


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def slope(x: Any, h: float = 1e-6) -> Any:
    return (gelu(x + h) - gelu(x - h)) / (2 * h)


M, K, N = 6, 16, 8


@pytest.mark.parametrize("name", TYPES)
def test_a_bias_is_added_to_each_row(name):
    a, b, bias = (random(*shape, dtype=TYPES[name]) for shape in ((M, K), (K, N), (N,)))
    residual = random(M, N, dtype=TYPES[name])
    settings = {"epilogue": "bias", "bias": bias, "addend": residual, "beta": 1.0}
    out = gemm(a, b, fake_cupy.empty((M, N), TYPES[name]), **settings)
    check(out, wide(a) @ wide(b) + wide(bias) + wide(residual), name)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_gelu_keeps_what_it_bent(name, with_bias):
    dtype = TYPES[name]
    a, b, bias, aux = random(M, K, dtype=dtype), random(N, K, dtype=dtype), random(N, dtype=dtype), random(M, N)
    aux = aux.astype(dtype)
    settings: dict[str, Any] = {"epilogue": "gelu_aux_bias", "bias": bias} if with_bias else {"epilogue": "gelu_aux"}
    out = gemm(a, b, fake_cupy.empty((M, N), dtype), transpose_b=True, aux=aux, **settings)
    z = wide(a) @ wide(b).T + (wide(bias) if with_bias else 0)
    check(aux, z, name)
    check(out, gelu(z), name)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_slope_of_gelu_and_the_gradient_of_its_bias(name, with_bias):
    dtype = TYPES[name]
    dy, weight, u = random(M, K, dtype=dtype), random(K, N, dtype=dtype), random(M, N, dtype=dtype)
    dbias = fake_cupy.zeros(N, dtype)
    settings: dict[str, Any] = {"epilogue": "dgelu_bgrad", "bias": dbias} if with_bias else {"epilogue": "dgelu"}
    out = gemm(dy, weight, fake_cupy.empty((M, N), dtype), aux=u, **settings)
    expected = wide(dy) @ wide(weight) * slope(wide(u))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(wide(out), expected, rtol=2 * EPS[name], atol=1e-6 * scale)
    if with_bias:
        np.testing.assert_allclose(wide(dbias), expected.sum(axis=0), rtol=2 * EPS[name], atol=1e-5 * scale)


def test_the_sums_of_the_operands_are_a_bias_s_gradient():
    """dW += dyᵀ x in float32 from bf16, and db = Σ dy on the way."""
    dy, x, dweight = random(K, M, dtype=BF16), random(K, N, dtype=BF16), random(M, N)
    before, sums = wide(dweight), fake_cupy.empty(M, np.float32)
    gemm(dy, x, dweight, transpose_a=True, beta=1.0, epilogue="bgrad_a", bias=sums)
    check(dweight, before + wide(dy).T @ wide(x))
    check(sums, wide(dy).sum(axis=0))
    other = fake_cupy.empty(N, np.float32)
    gemm(dy, x, dweight, transpose_a=True, epilogue="bgrad_b", bias=other)
    check(other, wide(x).sum(axis=0))


# What is refused


def cut(x: Any, start: int) -> Any:
    """The same length, but beginning `start` numbers further on."""
    return fake_cupy.asarray(np.zeros(x.size + start, x.dtype))[start:].reshape(x.shape)


a, b, out = random(M, K), random(K, N), random(M, N)
REFUSED = {
    "another length": lambda: gemm(a, random(K + 1, N), out),
    "a result of another shape": lambda: gemm(a, b, random(N, M)),
    "a vector": lambda: gemm(random(K), b, random(N)),
    "nothing": lambda: gemm(random(M, 0), random(0, N), out),
    "float64": lambda: gemm(random(M, K, dtype=np.float64), random(K, N, dtype=np.float64), out),
    "two types": lambda: gemm(random(M, K, dtype=BF16), random(K, N, dtype=np.float16), out),
    "bf16 from float32": lambda: gemm(a, b, random(M, N, dtype=BF16)),
    "leading axes": lambda: gemm(random(2, M, K), random(3, K, N), random(2, M, N)),
    "gaps both ways": lambda: gemm(random(M, 2 * K)[:, ::2], b, out),
    "one row for all": lambda: gemm(fake_cupy.broadcast_to(random(1, K), (M, K)), b, out),
    "a result column by column": lambda: gemm(a, b, random(N, M).T),
    "an addend column by column": lambda: gemm(a, b, out, addend=random(N, M).T, beta=1.0),
    "an unknown epilogue": lambda: gemm(a, b, out, epilogue="relu"),
    "a bias for nothing": lambda: gemm(a, b, out, bias=random(N)),
    "no bias": lambda: gemm(a, b, out, epilogue="bias"),
    "a bias of another length": lambda: gemm(a, b, out, epilogue="bias", bias=random(M)),
    "a bias of another type": lambda: gemm(a, b, out, epilogue="bias", bias=random(N, dtype=BF16)),
    "a bias between 16 bytes": lambda: gemm(a, b, out, epilogue="bias", bias=cut(random(N), 1)),
    "an aux of 8n + 1 columns": lambda: gemm(a, random(K, 9), random(M, 9), epilogue="gelu_aux", aux=random(M, 9)),
    "an aux with gaps": lambda: gemm(a, b, out, epilogue="gelu_aux", aux=random(M, 2 * N)[:, :N]),
    "an epilogue for a batch": lambda: gemm(random(2, M, K), b, random(2, M, N), epilogue="bias", bias=random(N)),
}


@pytest.mark.parametrize("attempt", REFUSED.values(), ids=REFUSED.keys())
def test_what_cublaslt_cannot_take_is_refused_in_a_line(attempt):
    with pytest.raises(ValueError, match=r"^gemm: .+$"):
        attempt()


def test_a_product_without_a_kernel_is_known_before_it_is_tried():
    use(without=frozenset([Epilogue.BIAS]))
    settings = {"epilogue": "bias", "bias": random(N)}
    assert cublaslt.attempt(fake_cupy, a, b, out)
    assert cublaslt.offers(fake_cupy, a, random(N, K), out, transpose_b=True)
    assert not cublaslt.offers(fake_cupy, a, b, out, **settings)
    assert not cublaslt.attempt(fake_cupy, a, b, out, **settings)
    assert not cublaslt.attempt(fake_cupy, a, random(K + 1, N), out)
    with pytest.raises(ValueError, match=r"no kernel for cuda float32 \(6, 16\) times .* with epilogue bias"):
        gemm(a, b, out, **settings)


# Plans


def test_a_plan_is_made_once_for_each_kind_of_product():
    library = use()
    for _ in range(3):
        gemm(a, b, out)
    plans = lambda: sum(thing.__dict__.get("kind") == "plan" for thing in library.things)  # noqa: E731
    assert plans() == 1
    cublaslt.set_matmul_precision("tf32")
    gemm(a, b, out)
    gemm(cut(a, 1), b, out)  # an address that is a multiple of 4 bytes only
    gemm(a, b, out, addend=random(M, 2 * N)[:, :N], beta=1.0)
    assert plans() == 4
    assert len(library.products) == 6


def test_less_aligned_operands_are_multiplied_too():
    odd = cut(a, 3)
    odd[...] = a
    check(gemm(odd, b, out), wide(a) @ wide(b))
    half = fake_cupy.asarray(np.zeros(2 * M * K + 8, BF16))
    views = half[1 : 1 + M * K].reshape(M, K), half[7 + M * K : 7 + M * K + K * M].reshape(K, M)
    for view in views:
        view[...] = random(*view.shape, dtype=BF16)
    check(gemm(*views, fake_cupy.empty((M, M), np.float32)), wide(views[0]) @ wide(views[1]))


def test_an_unknown_product_is_refused_while_a_graph_is_recorded_and_a_known_one_is_recorded():
    x, stream = random(M, K), fake_cuda.Stream(non_blocking=True)
    with stream:
        cublaslt.warm(fake_cupy, x, b, out)
        out[...] = 0
        stream.begin_capture()
        gemm(x, b, out)
        with pytest.raises(
            CublasLtError, match=r"a CUDA graph is recorded, so no plan can be made .* run the step once"
        ):
            gemm(random_view(x), b, random_view(out))
        graph = stream.end_capture()
        assert not out.held.any()
        graph.launch()
        check(out, wide(x) @ wide(b))
        x[...] = 2 * x
        graph.launch()
        check(out, wide(x) @ wide(b))


def random_view(x: Any) -> Any:
    return x[: len(x) - 1]


def test_the_name_of_the_status_is_in_the_error(monkeypatch):
    library = use()
    monkeypatch.setattr(library, "cublasLtMatmul", lambda *_: 13)
    with pytest.raises(CublasLtError, match=r"^cublasLtMatmul: CUBLAS_STATUS_EXECUTION_FAILED$"):
        gemm(a, b, out)
    monkeypatch.setattr(library, "cublasLtMatmulAlgoGetHeuristic", lambda *_: 14)
    with pytest.raises(CublasLtError, match="cublasLtMatmulAlgoGetHeuristic: CUBLAS_STATUS_INTERNAL_ERROR"):
        gemm(a, random(K, N + 1), random(M, N + 1))


def test_each_stream_has_memory_of_its_own():
    sizes = []
    use()
    for stream in (fake_cuda.Stream(), fake_cuda.Stream()):
        with stream:
            fake_cupy.counts.clear()
            gemm(a, b, out)
            gemm(a, b, out)
            sizes.append(fake_cupy.counts["allocation"])
    assert sizes == [1, 1]


def test_loading_for_a_device_gives_operations_their_twins_and_chooses_the_precision():
    assert not backend.kernels_enabled()
    kernels.load("tf32", device="cuda")
    assert backend.kernels_enabled()
    assert cublaslt.matmul_precision() == "tf32"
    assert launch.has_twins(fake_cupy)
    y, _, rule = ops.linear.fastest(fake_cupy, [a, random(N, K)], {})
    assert rule is not ops.linear.formula
    assert y.shape == (M, N)


def test_loading_is_refused_where_products_cannot_be_made(monkeypatch):
    def missing() -> None:
        raise backend.DeviceError("no libcublasLt was found")

    monkeypatch.setattr(fake_cupy.cuda.Device, "compute_capability", "75")
    with pytest.raises(
        ValueError, match=r"tf32 needs a GPU of compute capability 8\.0 .* this one has 7\.5: use float32"
    ):
        kernels.load("tf32", device="cuda")
    cublaslt.register(fake_cupy, missing)
    with pytest.raises(backend.DeviceError, match="no libcublasLt was found"):
        kernels.load("float32", device="cuda")
    assert not backend.kernels_enabled()


def test_without_kernels_only_float32_can_be_had(monkeypatch):
    monkeypatch.setenv("NANOGRAD_KERNELS", "0")
    with pytest.raises(ValueError, match="tf32 needs the kernels, which the environment keeps off: use float32"):
        kernels.check_matmul_precision("tf32", "cuda")
    kernels.load("float32", device="cuda")
    assert not backend.kernels_enabled()
