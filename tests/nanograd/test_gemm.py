"""The matrix product against float64: every orientation and shape, its error, its edges in memory, its threads."""

import ctypes
import mmap

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanograd import Tensor, ops
from nanograd.backend import formulas_only
from nanograd.kernels.cpu import cpu_features, gemm, matrix, peak
from nanograd.kernels.cpu.gemm import prepack, product
from nanograd.tensor import ADDED

pytestmark = pytest.mark.usefixtures("twins")

every = pytest.mark.parametrize
PRECISIONS = ["float32", pytest.param("bf16", marks=pytest.mark.skipif(not cpu_features.has_bf16(), reason="no bf16"))]
MANY = settings(max_examples=60, deadline=None)
sizes = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 120, 121, 385, 768, 1025]))
shapes = st.tuples(sizes, sizes, sizes)
flags = st.booleans()


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def close(found, a, b, *summands, precision="float32"):
    """Within what rounding allows: |error| ≤ (2 · 2⁻⁸ + 2⁻¹⁶ in bf16) |a| |b| + K 2⁻²⁴ (|a| |b| + Σ |summand|)"""
    a, b = a.astype(np.float64), b.astype(np.float64)
    size = np.abs(a) @ np.abs(b)
    bound = (a.shape[1] + 4) * 2.0**-24 * (size + sum(np.abs(x) for x in summands))
    if precision == "bf16":
        bound += (2 * 2.0**-8 + 2.0**-16) * size
    exact = a @ b + sum(x.astype(np.float64) for x in summands)
    assert (np.abs(found - exact) <= bound + 1e-37).all()


@every("precision", PRECISIONS)
@MANY
@given(shape=shapes, transpose_a=flags, transpose_b=flags, accumulate=flags, with_bias=flags, with_residual=flags)
def test_product_is_right_in_every_orientation(
    precision, shape, transpose_a, transpose_b, accumulate, with_bias, with_residual
):
    M, K, N = shape
    a, b = drawn(1, *((K, M) if transpose_a else (M, K))), drawn(2, *((N, K) if transpose_b else (K, N)))
    before, bias, residual = (
        drawn(3, M, N),
        drawn(4, N) if with_bias else None,
        drawn(5, M, N) if with_residual else None,
    )
    out, summands = before.copy(), [x for x in (before if accumulate else None, bias, residual) if x is not None]
    settings = {"accumulate": accumulate, "bias": bias, "residual": residual, "precision": precision}
    answer = product(a, b, out, transpose_a=transpose_a, transpose_b=transpose_b, **settings)
    assert answer is out
    left, right = a.T if transpose_a else a, b.T if transpose_b else b
    close(out, left, right, *summands, precision=precision)


@every("precision", PRECISIONS)
@MANY
@given(shape=shapes, rows=st.sampled_from([1, 2]), columns=st.sampled_from([1, 2]), turned=flags, backwards=flags)
def test_operands_may_be_views(precision, shape, rows, columns, turned, backwards):
    M, K, N = shape
    a = drawn(1, M * rows, K * columns)[::rows, ::columns]
    b = drawn(2, N, K + 3)[:, 3:].T if turned else drawn(2, K, N + 3)[:, 3:]
    a = a[::-1] if backwards else a
    a.flags.writeable = False
    close(product(a, b, np.empty((M, N), np.float32), precision=precision), a, b, precision=precision)


@every("precision", PRECISIONS)
@MANY
@given(shape=shapes, transpose=flags)
def test_prepacked_gives_the_same_bits(precision, shape, transpose):
    M, K, N = shape
    a, b = drawn(1, M, K), drawn(2, *((N, K) if transpose else (K, N)))
    at_once = product(a, b, np.empty((M, N), np.float32), transpose_b=transpose, precision=precision)
    packed = prepack(b, transpose=transpose, precision=precision)
    np.testing.assert_array_equal(product(a, packed, np.empty((M, N), np.float32)), at_once)


@every("shape", [(0, 3, 4), (5, 0, 4), (5, 3, 0), (0, 0, 0)])
def test_empty_sums_are_zero(shape):
    M, K, N = shape
    a, b, bias, before = drawn(1, M, K), drawn(2, K, N), drawn(3, N), drawn(4, M, N)
    np.testing.assert_array_equal(product(a, b, before.copy(), accumulate=True, bias=bias), before + bias)
    np.testing.assert_array_equal(product(a, prepack(b), before.copy()), np.zeros((M, N)))


@every("precision", PRECISIONS)
@every("shape", [(1, 300, 50), (257, 1000, 129), (48, 64, 2000), (30, 2500, 40)])
def test_threads_change_nothing(precision, shape):
    M, K, N = shape
    a, b, before = drawn(1, K, M), drawn(2, N, K), drawn(3, M, N)
    found = []
    for grid in ((1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (1, 70)):
        out = before.copy()
        gemm._multiply(a.T, b.T, None, out, [out], gemm.LANE_TYPES[precision], grid)
        found.append(out)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    close(found[0], a.T, b.T, before, precision=precision)


@every("threads", [1, 2, 4])
def test_any_number_of_threads(threads):
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip(f"Numba was started with {numba.config.NUMBA_NUM_THREADS} threads: set NUMBA_NUM_THREADS")
    a, b = drawn(1, 300, 200), drawn(2, 200, 300)
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        found = product(a, b, np.empty((300, 300), np.float32))
    finally:
        numba.set_num_threads(before)
    gemm._multiply(a, b, None, alone := np.empty_like(found), [], np.float32, (1, 1))
    np.testing.assert_array_equal(found, alone)


@every("precision", PRECISIONS)
def test_special_values_reach_their_row_and_no_other(precision):
    a, b = drawn(1, 30, 37), drawn(2, 37, 40)
    a[7, 3], a[9, 5] = np.nan, np.inf
    found = product(a, b, np.empty((30, 40), np.float32), precision=precision)
    assert np.isnan(found[7]).all()
    assert (np.isinf(found[9]) & (np.sign(found[9]) == np.sign(b[5]))).all()
    assert np.isfinite(np.delete(found, [7, 9], axis=0)).all()


@every("precision", PRECISIONS)
@every("transpose", [False, True])
def test_what_an_earlier_product_left_behind_is_not_seen(precision, transpose):
    """An odd k shares its lane with a neighbour that doesn't exist: 0 × the NaN that lay there would be NaN."""
    nan, out = np.full((64, 64), np.nan, np.float32), np.empty((64, 64), np.float32)
    product(nan, nan, out, transpose_a=transpose, transpose_b=transpose, precision=precision)
    a, b = drawn(1, *((41, 35) if transpose else (35, 41))), drawn(2, 41, 50)
    found = product(a, b, np.empty((35, 50), np.float32), transpose_a=transpose, precision=precision)
    close(found, a.T if transpose else a, b, precision=precision)


class Fenced:
    """Arrays that end at a page nobody may touch, or begin behind one: to read one number too many is a crash."""

    def __init__(self):
        self.maps = []

    def like(self, x, at_end):
        page = mmap.PAGESIZE
        room = -(-x.nbytes // page) * page
        memory = mmap.mmap(-1, room + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        libc = ctypes.CDLL(None, use_errno=True)
        for fence in (start, start + page + room):
            assert libc.mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(page), 0) == 0
        self.maps.append((memory, start, room + 2 * page))
        found = np.frombuffer(memory, x.dtype, x.size, page + (room - x.nbytes if at_end else 0)).reshape(x.shape)
        found[...] = x
        return found

    def open(self):
        for _, start, size in self.maps:
            ctypes.CDLL(None).mprotect(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.PROT_READ | mmap.PROT_WRITE)


@pytest.fixture
def fenced():
    fence = Fenced()
    yield fence
    fence.open()


@every("precision", PRECISIONS)
@every("at_end", [False, True])
@every("shape", [(17, 1, 1), (18, 17, 33), (23, 385, 47), (121, 31, 65), (17, 2049, 32)])
def test_nothing_outside_of_the_arrays_is_touched(fenced, precision, at_end, shape):
    M, K, N = shape
    bias, residual = drawn(3, N), drawn(4, M, N)
    for transpose_a in (False, True):
        for transpose_b in (False, True):
            a, b = drawn(1, *((K, M) if transpose_a else (M, K))), drawn(2, *((N, K) if transpose_b else (K, N)))
            orientation = {"transpose_a": transpose_a, "transpose_b": transpose_b, "precision": precision}
            inside = [fenced.like(x, at_end) for x in (a, b, residual, bias, residual)]
            product(*inside[:3], bias=inside[3], residual=inside[4], **orientation)
            wanted = product(a, b, np.empty_like(residual), bias=bias, residual=residual, **orientation)
            np.testing.assert_array_equal(inside[2], wanted)


@every("precision", PRECISIONS)
def test_poison_around_the_operands_stays_there(precision):
    """Views inside of larger arrays of NaN: a number too many would be seen in the result."""
    M, K, N = 29, 41, 35
    a, b = np.full((M + 2, K + 64), np.nan, np.float32), np.full((K + 2, N + 64), np.nan, np.float32)
    a[1:-1, 32:-32], b[1:-1, 32:-32] = drawn(1, M, K), drawn(2, K, N)
    around = np.full((M + 2, N), 7, np.float32)
    product(a[1:-1, 32:-32], b[1:-1, 32:-32], around[1:-1], precision=precision)
    assert (around[0] == 7).all()
    assert (around[-1] == 7).all()
    close(around[1:-1], a[1:-1, 32:-32], b[1:-1, 32:-32], precision=precision)


def test_summands_may_overlap_out():
    a, b, before = drawn(1, 20, 30), drawn(2, 30, 40), drawn(3, 21, 40)
    wanted = product(a, b, np.empty((20, 40), np.float32), residual=before[:20].copy())
    same, shifted = before.copy(), before.copy()
    np.testing.assert_array_equal(product(a, b, same[:20], residual=same[:20]), wanted)
    np.testing.assert_array_equal(product(a, b, shifted[1:], residual=shifted[:20]), wanted)
    row = before.copy()
    wanted = product(a, b, np.empty((20, 40), np.float32), bias=before[3])
    np.testing.assert_array_equal(product(a, b, row[:20], bias=row[3]), wanted)


@every(
    ("a", "b", "out", "message"),
    [
        (np.ones((3, 4), "f4"), np.ones((5, 6), "f4"), np.ones((3, 6), "f4"), "do not fit"),
        (np.ones((3, 4), "f4"), np.ones((4, 6), "f4"), np.ones((3, 5), "f4"), "do not fit"),
        (np.ones((3, 4), "f8"), np.ones((4, 6), "f8"), np.ones((3, 6), "f8"), "float64"),
        (np.ones(4, "f4"), np.ones((4, 6), "f4"), np.ones((1, 6), "f4"), "do not fit"),
        (np.ones((3, 4), "f4"), np.ones((4, 6), "f4"), np.ones((6, 3), "f4").T, "C-contiguous"),
    ],
)
def test_what_does_not_fit_is_refused(a, b, out, message):
    with pytest.raises(ValueError, match=message):
        product(a, b, out)


def test_out_must_not_be_an_operand():
    x = np.ones((8, 8), np.float32)
    with pytest.raises(ValueError, match="apart from the operands"):
        product(x, x, x)


def test_a_cpu_without_bf16_refuses_it_in_one_line(monkeypatch):
    monkeypatch.setattr(cpu_features, "features", lambda: frozenset({"avx2"}))
    with pytest.raises(ValueError, match="bf16 needs a CPU with") as error:
        gemm.set_matmul_precision("bf16")
    assert "\n" not in str(error.value)
    assert gemm.matmul_precision() == "float32"
    with pytest.raises(ValueError, match="'fp8' is unknown"):
        gemm.check_precision("fp8")


def test_a_cpu_without_avx512_uses_blas(monkeypatch):
    monkeypatch.setattr(cpu_features, "features", lambda: frozenset({"avx2"}))
    a, b, bias, before = drawn(1, 20, 30), drawn(2, 40, 30), drawn(3, 40), drawn(4, 20, 40)
    out = product(a, b, before.copy(), transpose_b=True, accumulate=True, bias=bias)
    close(out, a, b.T, before, bias)
    close(product(a, prepack(b, transpose=True), out), a, b.T)


@pytest.mark.skipif(not cpu_features.has_bf16(), reason="this CPU has no bf16")
def test_the_precision_of_a_block_ends_with_it():
    a, b = drawn(1, 20, 30), drawn(2, 30, 40)
    exact = product(a, b, np.empty((20, 40), np.float32))
    with gemm.precision_of("bf16"):
        rounded = product(a, b, np.empty((20, 40), np.float32))
    assert gemm.matmul_precision() == "float32"
    assert 1e-4 < np.abs(rounded - exact).max() < 0.5


def gradients(op, arrays, dy, repeats):
    tensors = [Tensor(x.copy(), requires_grad=True) for x in arrays]
    for _ in range(repeats):
        y = op(*tensors)
        y.backward(dy)
    return [y.numpy(), *(t.grad for t in tensors)]


@every(
    ("op", "arrays"),
    [
        (ops.linear, [drawn(1, 4, 9, 30), drawn(2, 50, 30), drawn(3, 50)]),
        (ops.linear, [drawn(1, 4, 9, 30), drawn(2, 50, 30)]),
        (ops.linear, [drawn(1, 30), drawn(2, 50, 30), drawn(3, 50)]),
        (ops.matmul, [drawn(1, 4, 9, 30), drawn(2, 30, 50)]),
        (ops.matmul, [drawn(1, 36, 30), drawn(2, 30, 50)]),
    ],
)
@every("repeats", [1, 2])
def test_twins_and_formulas_agree(op, arrays, repeats):
    """The second walk finds gradients in the leaves and adds to them inside the product."""
    with formulas_only():
        y = op(*map(Tensor, arrays))
        dy = drawn(9, *y.shape)
        wanted = gradients(op, arrays, dy, repeats)
    for ours, theirs in zip(gradients(op, arrays, dy, repeats), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=2e-5)


def test_a_gradient_that_exists_is_added_to_in_place():
    dy, x, weight, held = drawn(1, 6, 5), drawn(2, 6, 7), drawn(3, 5, 7), [np.ones((5, 7), "f4"), np.ones(5, "f4")]
    answer = matrix._linear_backward(np, dy, x, weight, needs=(False, True, True), into=(None, *held))
    assert answer == (None, ADDED, ADDED)
    np.testing.assert_allclose(held[0], 1 + dy.T @ x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(held[1], 1 + dy.sum(axis=0), rtol=1e-5, atol=1e-5)


def test_twins_leave_other_types_to_the_formula():
    a, b = np.ones((3, 4)), np.ones((4, 5))
    assert matrix._matmul_forward(np, a, b) is NotImplemented
    assert matrix._linear_forward(np, a, b.T) is NotImplemented
    assert ops.matmul(Tensor(a), Tensor(b)).dtype == np.float64


@every("precision", PRECISIONS)
def test_the_peak_is_that_of_the_product_asked_for(monkeypatch, precision):
    asked = []
    monkeypatch.setattr(peak, "SECONDS", 1e-3)
    monkeypatch.setattr(peak, "product", lambda a, b, out, **settings: asked.append((a.shape, b.shape, settings)))
    assert 0 < peak.product_peak(precision) < np.inf
    assert set(map(str, asked)) == {str(((1024, 1024), (1024, 1024), {"precision": precision}))}


def test_the_peak_of_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="'fp8' is unknown"):
        peak.product_peak("fp8")
