"""linear_cross_entropy: the composite's loss and gradients, without the composite's logits."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nanograd.kernels.cpu.loss as compiled
from nanograd import backend, ops
from nanograd.kernels.cpu import gemm, output_layer
from nanograd.kernels.cpu.cpu_features import has_bf16
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.ops import loss as formulas
from nanograd.tensor import Tensor, no_grad
from nanograd.testing import value_and_gradients

pytestmark = pytest.mark.usefixtures("twins")

every = pytest.mark.parametrize
HALF = np.asarray(0.5)  # what arrives from behind: not 1, or a forgotten factor would not show


@pytest.fixture(params=["formula", "twin"])
def dtype(request, monkeypatch):
    """float64 for the formula and float32 for its twin, each with chunks of a few rows."""
    monkeypatch.setattr(formulas, "CHUNK", 40)
    monkeypatch.setattr(compiled, "CHUNK", 40)
    monkeypatch.setattr(compiled, "FEWEST_ROWS", 3)
    return np.float64 if request.param == "formula" else np.float32


def arrays_and_targets(N, C, V, with_bias, dtype, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(N, C), (V, C)] + [(V,)] * with_bias
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes], rng.integers(0, V, N)


def fused(arrays, targets, **options):
    def loss(x, weight, bias=None):
        return ops.linear_cross_entropy(x, weight, bias, targets, **options)

    return value_and_gradients(loss, arrays, HALF.astype(arrays[0].dtype))


def composite(arrays, targets, **options):
    def loss(x, weight, bias=None):
        return ops.cross_entropy(ops.linear(x, weight, bias), targets, **options)

    with backend.formulas_only():
        return value_and_gradients(loss, [a.astype(np.float64) for a in arrays], HALF)


def assert_equal(found, expected, dtype):
    rtol = 1e-12 if dtype == np.float64 else 1e-6
    for a, b in zip([found[0], *found[1]], [expected[0], *expected[1]], strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(1.0, float(np.abs(b).max())))


@settings(max_examples=40, deadline=None)
@given(
    N=st.integers(1, 30),
    C=st.integers(1, 9),
    V=st.integers(1, 50),
    with_bias=st.booleans(),
    label_smoothing=st.sampled_from([0.0, 0.1]),
    z_loss=st.sampled_from([0.0, 0.01]),
    ignored=st.sampled_from([0.0, 0.4, 1.0]),
    precise=st.booleans(),
    seed=st.integers(0, 9),
)
def test_loss_and_gradients_are_those_of_the_composite(
    N, C, V, with_bias, label_smoothing, z_loss, ignored, precise, seed
):
    dtype = np.float64 if precise else np.float32
    arrays, targets = arrays_and_targets(N, C, V, with_bias, dtype, seed)
    targets[np.random.default_rng(seed).random(N) < ignored] = -100
    options = {"label_smoothing": label_smoothing, "z_loss": z_loss}
    with pytest.MonkeyPatch.context() as patch:
        for module in (formulas, compiled):
            patch.setattr(module, "CHUNK", 40)
        patch.setattr(compiled, "FEWEST_ROWS", 3)
        assert_equal(fused(arrays, targets, **options), composite(arrays, targets, **options), dtype)


def test_another_index_may_be_ignored(dtype):
    arrays, targets = arrays_and_targets(21, 4, 6, True, dtype)
    options = {"ignore_index": int(targets[0])}
    assert_equal(fused(arrays, targets, **options), composite(arrays, targets, **options), dtype)


def test_no_real_token_means_no_loss_and_no_gradient(dtype):
    arrays, targets = arrays_and_targets(21, 4, 6, True, dtype)
    loss, gradients = fused(arrays, np.full_like(targets, -100))
    assert loss == 0
    assert not any(g.any() for g in gradients)


def test_gradients_add_up_in_leaves(dtype):
    arrays, targets = arrays_and_targets(21, 4, 6, True, dtype)
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    for _ in range(2):
        ops.linear_cross_entropy(*leaves, targets).backward(HALF.astype(dtype))
    expected = composite(arrays, targets)[1]
    for leaf, gradient in zip(leaves, expected, strict=True):
        np.testing.assert_allclose(leaf.grad, 2 * gradient, rtol=1e-5, atol=1e-6)


def test_a_frozen_input_gets_no_gradient_and_changes_nothing_for_the_others(dtype):
    arrays, targets = arrays_and_targets(21, 4, 6, True, dtype)
    x, weight, bias = Tensor(arrays[0]), Tensor(arrays[1], requires_grad=True), Tensor(arrays[2])
    ops.linear_cross_entropy(x, weight, bias, targets).backward(HALF.astype(dtype))
    assert x.grad is None
    np.testing.assert_allclose(weight.grad, composite(arrays, targets)[1][1], rtol=1e-5, atol=1e-6)


def test_without_recording_no_gradient_is_computed(monkeypatch):
    def refuse(*_):
        raise AssertionError("a gradient was asked for")

    arrays, targets = arrays_and_targets(21, 4, 6, True, np.float32)
    monkeypatch.setattr(compiled, "_gradients", refuse)
    with no_grad():
        loss = ops.linear_cross_entropy(*map(Tensor, arrays), targets)
    assert abs(loss.item() - composite(arrays, targets)[0]) < 1e-6
    with pytest.raises(AssertionError):
        ops.linear_cross_entropy(*map(Tensor, arrays), targets)


def blas_only(monkeypatch):
    monkeypatch.setattr(compiled, "has_avx512", lambda: False)


@every("options", [{}, {"label_smoothing": 0.1, "z_loss": 0.01}])
@every("avx512", [True, False])
def test_with_and_without_avx512(avx512, options, monkeypatch):
    if not avx512:
        blas_only(monkeypatch)
    arrays, targets = arrays_and_targets(70, 33, 1301, True, np.float32)
    targets[::7] = -100
    monkeypatch.setattr(compiled, "CHUNK", 1301 * 30)
    monkeypatch.setattr(compiled, "FEWEST_ROWS", 3)
    assert_equal(fused(arrays, targets, **options), composite(arrays, targets, **options), np.float32)


@every("jump", [60.0, -60.0, 1e4, -1e4])
def test_a_logit_far_from_its_rows_first_ones(jump):
    """The reference of the exponentials is guessed from the first 512 columns: here it is wrong by `jump`."""
    arrays, targets = arrays_and_targets(40, 9, 1100, True, np.float32)
    arrays[2][700:] += jump
    found, expected = fused(arrays, targets), composite(arrays, targets)
    assert abs(found[0] - expected[0]) <= 1e-6 * abs(expected[0])
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3 if abs(jump) > 100 else 1e-5, atol=1e-3 * np.abs(b).max())


def test_logits_of_minus_infinity_are_impossible_tokens():
    arrays, targets = arrays_and_targets(30, 9, 1100, True, np.float32)
    for impossible in (slice(0, 600), slice(600, 1100), slice(5, 7)):
        arrays[2][:], targets = 0, np.full(30, 3 if impossible.start else 700)
        arrays[2][impossible] = -np.inf
        loss, gradients = fused(arrays, targets)
        possible = np.isfinite(arrays[2])
        some = [arrays[0], arrays[1][possible], arrays[2][possible]]
        expected = composite(some, targets - np.count_nonzero(~possible[: targets[0]]))
        assert abs(loss - expected[0]) < 1e-5
        np.testing.assert_allclose(gradients[1][possible], expected[1][1], atol=1e-6)
        assert not gradients[1][~possible].any()


@pytest.mark.skipif(not has_bf16(), reason="no bf16")
def test_a_certain_prediction_is_not_rounded_away():
    """p − 1 is tiny where the model is sure: from a p in bf16 it would be noise of 2⁻⁹."""
    arrays = [np.eye(8, dtype=np.float32), 14 * np.eye(8, dtype=np.float32), None]
    with gemm.precision_of("bf16"):
        _, (_, dweight) = fused(arrays[:2], np.arange(8))
    expected = composite(arrays[:2], np.arange(8))[1][1]
    np.testing.assert_allclose(np.diag(dweight), np.diag(expected), rtol=1e-2)


@every("precision", ["float32", pytest.param("bf16", marks=pytest.mark.skipif(not has_bf16(), reason="no bf16"))])
def test_threads_change_nothing(precision, monkeypatch):
    arrays, targets = arrays_and_targets(310, 40, 1300, True, np.float32)
    found = []
    for threads in (1, 2, 3, 5):
        monkeypatch.setattr(output_layer, "get_num_threads", lambda threads=threads: threads)
        with gemm.precision_of(precision):
            found.append(fused(arrays, targets, label_smoothing=0.1))
    for loss, gradients in found[1:]:
        assert loss == found[0][0]
        for a, b in zip(gradients, found[0][1], strict=True):
            np.testing.assert_array_equal(a, b)


def test_parameters_may_be_views():
    arrays, targets = arrays_and_targets(30, 9, 50, True, np.float32)
    views = [arrays[0][::2], arrays[1][:, ::2], arrays[2][::-1]]
    views[0] = views[0][:, ::2]
    assert_equal(fused(views, targets[::2]), composite(views, targets[::2]), np.float32)


@every("kernels", [True, False])
def test_the_logits_are_never_held_whole(kernels, monkeypatch):
    """Neither forward nor backward takes memory for a quarter of them."""
    N, C, V = 4096, 4, 1024
    arrays, targets = arrays_and_targets(N, C, V, False, np.float32)
    monkeypatch.setattr(formulas, "CHUNK", 64 * V)
    monkeypatch.setattr(compiled, "CHUNK", 64 * V)
    monkeypatch.setattr(backend, "_use_kernels", kernels)
    fused(arrays, targets)  # compiled by now
    tracemalloc.start()
    fused(arrays, targets)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < N * V * 4 / 4


@every(
    ("targets", "message"),
    [(np.zeros(3, int), "integer targets"), (np.full(4, 9), "vocab_size=5"), (np.zeros(4, bool), "integer targets")],
)
def test_wrong_targets_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        ops.linear_cross_entropy(Tensor(np.ones((4, 3))), Tensor(np.ones((5, 3))), None, targets)
    with pytest.raises(ValueError, match=message):
        ops.linear_cross_entropy(
            Tensor(np.ones((4, 3), np.float32)), Tensor(np.ones((5, 3), np.float32)), None, targets
        )


@every("head_bias", [True, False])
def test_a_models_loss_is_the_cross_entropy_of_its_logits(head_bias):
    config = DecoderLMConfig(
        vocab_size=50, context_length=9, n_layers=1, n_heads=2, d_model=8, head_bias=head_bias, tie_embeddings=False
    )
    model, rng = DecoderLM(config), np.random.default_rng(0)
    ids, targets = rng.integers(0, 50, (2, 3, 9))
    mask = np.arange(9) < np.array([[9], [5], [1]])
    targets = np.where(mask, targets, -100)
    expected = ops.cross_entropy(model(ids, mask), targets, label_smoothing=0.1)
    expected.backward()
    gradients = {name: parameter.grad.copy() for name, parameter in model.named_parameters()}
    for _, parameter in model.named_parameters():
        parameter.grad = None
    loss = model.loss(ids, targets, mask, label_smoothing=0.1)
    loss.backward()
    assert abs(loss.item() - expected.item()) < 1e-6
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.grad, gradients[name], atol=1e-6, err_msg=name)


def test_a_left_operand_has_whole_tiles():
    """The micro-kernel reads every row of a tile: of 13 rows alone it would read memory that is somebody else's."""
    assert len(output_layer._room_for_lanes(13, 5, np.float32)) == 24
