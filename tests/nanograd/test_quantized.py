"""Weights in 8 and 16 bits: each format against its definition, then layers, whole models, and the commands."""

import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nanograd import backend, evaluate, nn, ops, sample, terminal, train
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.models.quantized import hold_weights
from nanograd.ops.quantized import decoded, encoded, to_e4m3
from nanograd.tensor import Tensor, no_grad
from tests.nanograd.small_runs import SENTENCES, SMALL, fails

FORMS = ("int8", "fp8", "bf16")
every_form = pytest.mark.parametrize("form", FORMS)
EVERY_CODE = np.arange(256, dtype=np.uint8)
matrices = arrays(
    np.float32,
    st.tuples(st.integers(0, 5), st.integers(0, 9)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def e4m3(code: int) -> float:
    """Table 1 of the paper, one number at a time."""
    sign, e, m = (-1) ** (code >> 7), code >> 3 & 15, code & 7
    if e == 15 and m == 7:
        return float("nan")
    return sign * (2.0**-6 * m / 8 if e == 0 else 2.0 ** (e - 7) * (1 + m / 8))


def half_step(x: np.ndarray) -> np.ndarray:
    """Half of the distance between the E4M3 numbers around x."""
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log2(np.abs(x).astype(np.float64)))
    return 2.0 ** (np.maximum(exponent, -6) - 3) / 2


# Codes


def test_every_e4m3_code_is_the_number_of_the_definition_and_goes_back_to_itself():
    numbers = decoded(EVERY_CODE)
    np.testing.assert_array_equal(numbers, np.array([e4m3(code) for code in range(256)], np.float32))
    np.testing.assert_array_equal(numbers, EVERY_CODE.view(ml_dtypes.float8_e4m3fn).astype(np.float32))
    assert list(np.signbit(numbers[[0, 128]])) == [False, True]
    np.testing.assert_array_equal(to_e4m3(numbers), EVERY_CODE)  # NaN's two codes keep their sign


@given(arrays(np.float32, st.integers(1, 50), elements=st.floats(-448, 448, width=32)))
def test_e4m3_rounds_to_the_nearest(x):
    assert (np.abs(decoded(to_e4m3(x)).astype(np.float64) - x) <= half_step(x)).all()


def test_e4m3_rounds_halves_to_even():
    numbers = np.sort(decoded(EVERY_CODE[:127]))  # 0 to 448
    between = (numbers[:-1] + numbers[1:]) / 2
    assert (to_e4m3(between) % 2 == 0).all()


def test_e4m3_saturates_and_keeps_nan():
    x = np.array([448, 464, 465, 480, 1e30, np.inf, -500, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(decoded(to_e4m3(x)), [448] * 6 + [-448] * 2 + [np.nan])


@given(matrices)
def test_int8_is_half_a_step_off_at_most_whatever_the_size_of_a_row(weight):
    codes, scale = encoded(weight, "int8")
    assert codes.dtype == np.int8
    assert codes.min(initial=0) >= -127
    error = np.abs(codes.astype(np.float64) * scale[:, None].astype(np.float64) - weight)
    assert (error <= scale[:, None] * (0.5 + 1e-4)).all()  # the quotient and the scale are rounded as well
    largest = np.abs(weight).max(axis=1, initial=0)
    normal = largest > 127 * np.finfo(np.float32).tiny
    assert (np.abs(codes).max(axis=1, initial=0)[normal] == 127).all()  # each row has its own scale, and uses it up


@given(matrices)
def test_fp8_rows_are_half_a_step_off_at_most(weight):
    codes, scale = encoded(weight, "fp8")
    exact = weight.astype(np.float64) / scale[:, None]
    assert (np.abs(decoded(codes) - exact) <= half_step(exact) * (1 + 1e-4)).all()


@given(matrices)
def test_bf16_is_what_ml_dtypes_rounds_to(weight):
    if (np.abs(weight) > 3.38e38).any():
        return  # half a step further bfloat16 ends
    codes, scale = encoded(weight, "bf16")
    assert scale is None
    np.testing.assert_array_equal(decoded(codes), weight.astype(ml_dtypes.bfloat16).astype(np.float32))


@every_form
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(form, wrong):
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        encoded(np.array([[1, wrong]], np.float32), form)


# The operation


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((3, 5), (2, 4), (2,)), "needs weight"),
        (((3, 4), (2, 4), (3,)), r"scale must be \(out,\)"),
        (((3, 4), (2, 4), (2,), (1,)), r"bias must be \(out,\)"),
        (((3, 4), (2, 4), (2,), (2,), (1, 2)), r"residual must be \(3, 2\)"),
    ],
)
@pytest.mark.parametrize("kernels", [False, True])
def test_shapes_that_do_not_fit_are_named(arguments, message, kernels, request):
    if kernels:
        request.getfixturevalue("twins")
    x, codes, *others = arguments
    with pytest.raises(ValueError, match=message):
        ops.quantized_linear(
            np.ones(x, np.float32), np.ones(codes, np.int8), *(np.ones(shape, np.float32) for shape in others)
        )


def test_codes_of_another_type_are_refused():
    with pytest.raises(ValueError, match="codes must be int8, uint8"):
        ops.quantized_linear(np.ones((1, 2), np.float32), np.ones((3, 2), np.int32))


@pytest.mark.usefixtures("twins")
@given(
    n=st.integers(0, 3), out=st.integers(0, 300), width=st.integers(0, 70), terms=st.booleans(), seed=st.integers(0, 99)
)
def test_the_twin_agrees_with_the_formula(n, out, width, terms, seed):
    rng = np.random.default_rng(seed)
    x, scale, bias, residual = (
        rng.standard_normal(shape, np.float32) for shape in ((n, width), (out,), (out,), (n, out))
    )
    codes = rng.integers(-127, 128, (out, width)).astype(np.int8)
    given_terms = (bias, residual) if terms else ()
    y = ops.quantized_linear(x, codes, scale, *given_terms).data
    with backend.formulas_only():
        expected = ops.quantized_linear(x, codes, scale, *given_terms).data
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=2e-2)  # of sums as large as 3,000


# Layers and models


def config(**changes):
    sizes = {"vocab_size": 61, "context_length": 16, "n_layers": 2, "n_heads": 2, "d_model": 32}
    return DecoderLMConfig(**{**sizes, **changes})


CHANGES = [
    {},
    {"positions": "rotary", "activation": "swiglu", "norm": "rms_norm", "tie_embeddings": True},
    {"norm_placement": "post", "qkv_bias": False, "activation": "relu2"},
]


def logits(model):
    ids = np.random.default_rng(0).integers(0, 61, (3, 16))
    with no_grad():
        return model.eval()(backend.to_device(ids, model.tokens.weight.device)).data


def cosine(a, b):
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


@every_form
@pytest.mark.parametrize("changes", CHANGES, ids=["default", "rotary-swiglu", "post-norm"])
def test_logits_of_random_models_hardly_change(form, changes):
    model = DecoderLM(config(init_std=0.3, **changes), seed=3)
    expected = logits(model).copy()
    hold_weights(model, form)
    found = logits(model)
    assert np.abs(found - expected).max() > 0
    assert cosine(found, expected) > (0.98 if form == "fp8" else 0.999)  # fp8: .989 to .997


@every_form
def test_a_quantized_layer_is_the_layer_of_the_rounded_matrix(form):
    rng = np.random.default_rng(0)
    layer = nn.Linear(7, 5, rng=rng, std=1.0)
    layer.bias.data[...] = rng.standard_normal(5)
    codes, scale = encoded(layer.weight.data, form)
    x, residual = rng.standard_normal((2, 3, 7), np.float32), rng.standard_normal((2, 3, 5), np.float32)
    with no_grad():
        found = nn.QuantizedLinear(layer, form)(Tensor(x), Tensor(residual)).data
        layer.weight.data[...] = decoded(codes) * (1 if scale is None else scale[:, None])
        np.testing.assert_allclose(found, layer(Tensor(x), Tensor(residual)).data, rtol=1e-5, atol=1e-5)


def test_matrices_of_blocks_become_codes_and_nothing_else_does():
    model = DecoderLM(config(), seed=0)
    before, matrices = model.nbytes(), model.hidden_matrices()
    expected = {name for name, _ in model.named_parameters() if name not in matrices}
    rows = sum(model.state_dict()[name].shape[0] for name in matrices)
    numbers = sum(model.state_dict()[name].size for name in matrices)
    said = hold_weights(model, "int8")
    assert {name for name, _ in model.named_parameters()} == expected
    assert model.nbytes() == before - 4 * numbers + numbers + 4 * rows
    assert f"{model.nbytes():,} bytes instead of {before:,}" in said


@every_form
def test_training_is_refused_in_one_line(form):
    model = DecoderLM(config(), seed=0)
    hold_weights(model, form)
    ids = np.zeros((1, 4), np.int64)
    with pytest.raises(ValueError, match=f"no gradient passes through {form} weights: train the float32 model"):
        model.train().loss(ids, ids)


def test_float32_changes_nothing_and_another_precision_is_refused():
    model = DecoderLM(config(), seed=0)
    names = set(model.state_dict())
    assert hold_weights(model, "float32", precision="bf16") is None
    with pytest.raises(ValueError, match="leave out --precision bf16"):
        hold_weights(model, "int8", precision="bf16")
    assert set(model.state_dict()) == names


@every_form
def test_the_stand_in_for_a_gpu_agrees(form, monkeypatch):
    pytest.importorskip("cupy", reason="the stand-in asks the real CuPy which names it has: pip install cupy-cuda13x")
    from tests import fake_cupy

    for name, module in fake_cupy.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    ours, theirs = (DecoderLM(config(init_std=0.3), seed=1).to(device) for device in ("cpu", "cuda"))
    for model in (ours, theirs):
        hold_weights(model, form)
    found = logits(theirs)
    assert isinstance(found, fake_cupy.ndarray)
    np.testing.assert_allclose(found.held, logits(ours), rtol=1e-4, atol=1e-5)


# The commands


@pytest.fixture(scope="module")
def run_and_text(tmp_path_factory):
    """A trained model, and a text of its language."""
    folder = tmp_path_factory.mktemp("quantized")
    (folder / "text.txt").write_text(SENTENCES * 60)
    run = folder / "run"
    argv = ["--data", str(folder / "text.txt"), "--out", str(run), *SMALL, "--steps", "60"]
    assert terminal.run(train.main, argv) == 0
    return run, folder / "text.txt"


@every_form
def test_evaluate_reads_with_narrow_weights(form, run_and_text, capsys):
    run, text = run_and_text
    losses = []
    for weights in ("float32", form):
        arguments = [str(run), "--data", str(text), "--device", "cpu", "--weights", weights, "--json"]
        assert terminal.run(evaluate.main, arguments) == 0
        out = capsys.readouterr()
        losses.append(evaluate.msgspec.json.decode(out.out)["loss"])
        assert (f"the matrices of the blocks as {form}" in out.err) == (weights == form)
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_int8_logits_of_a_trained_model_point_where_they_pointed(run_and_text):
    from nanograd.io.checkpoint import load_model

    run, text = run_and_text
    found = []
    for weights in ("float32", "int8"):
        model, tokenizer = load_model(run)
        hold_weights(model, weights)
        with no_grad():
            found.append(model(np.array([tokenizer.encode(text.read_text())[:16]])).data)
    assert cosine(*found) > 0.999


def test_a_card_remembers_the_weights(run_and_text, capsys):
    run, text = run_and_text
    argv = [str(run), "--data", str(text), "--device", "cpu"]
    assert terminal.run(evaluate.main, [*argv, "--weights", "fp8", "--freeze"]) == 0
    assert "--weights fp8" in (run / "MODEL_CARD.md").read_text()
    capsys.readouterr()
    assert terminal.run(evaluate.main, [str(run), "--device", "cpu", "--check"]) == 0
    out = capsys.readouterr()
    assert "the card holds" in out.out
    assert "the matrices of the blocks as fp8" in out.err


@every_form
def test_sample_writes_with_narrow_weights(form, run_and_text, capsys):
    run, _ = run_and_text
    argv = [str(run), "--prompt", "the cat", "--max-new-tokens", "5", "--seed", "1", "--device", "cpu"]
    assert terminal.run(sample.main, [*argv, "--weights", form]) == 0
    out = capsys.readouterr()
    assert out.out.startswith("the cat")
    assert f"the matrices of the blocks as {form}" in out.err


def test_sample_and_evaluate_refuse_two_kinds_of_narrow(run_and_text, capsys):
    run, text = run_and_text
    narrow = [str(run), "--weights", "int8", "--precision", "bf16", "--device", "cpu"]
    fails(sample.main, narrow, "leave out --precision bf16", capsys)
    fails(evaluate.main, [*narrow, "--data", str(text)], "--precision", capsys)
