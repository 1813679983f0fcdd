"""Every compiled twin against its formula: on the table of cases, on random shapes, layouts and values, on 1–4 threads.

The judge is the formula in float64. A twin in float32 may be 30 roundings off, or four times as far as the formula in
float32 is, whichever is more: where a sum cancels, both are.
"""

import importlib
import os
import pkgutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nanograd.kernels.cpu
from nanograd import backend, ops
from nanograd.primitive import Primitive
from nanograd.testing import Case, is_floating, random_like, value_and_gradients
from pre_process.encode_position import Scaling
from tests.cases import CASES, KEY

pytestmark = pytest.mark.usefixtures("twins")

for module in pkgutil.iter_modules(nanograd.kernels.cpu.__path__, "nanograd.kernels.cpu."):
    importlib.import_module(module.name)

EPS = float(np.finfo(np.float32).eps)
TWINNED = {op.name: op for op in vars(ops).values() if isinstance(op, Primitive) and op.twins}
TWIN_CASES = [case for case in CASES if case.name in TWINNED]
OURS = (
    "layer_norm",
    "rms_norm",
    "relu",
    "relu_squared",
    "silu",
    "gelu",
    "swiglu",
    "mlp",
    "packed_head_norm",
    "rotary",
    "packed_rotary",
    "softmax",
    "log_softmax",
    "cross_entropy",
    "dropout",
    "embedding",
)
ROWS, WIDTH = 150, 263  # more than one thread's grain, and no multiple of anything
LARGE = [
    Case(ops.layer_norm, (ROWS, WIDTH), (WIDTH,), (WIDTH,)),
    Case(ops.rms_norm, (ROWS, WIDTH), (WIDTH,)),
    *(Case(op, (ROWS, WIDTH)) for op in (ops.relu, ops.relu_squared, ops.silu, ops.gelu)),
    *(Case(op, (ROWS, WIDTH)) for op in (ops.softmax, ops.log_softmax)),
    Case(ops.packed_head_norm, (2, ROWS // 2, 3 * 4 * 23), n_heads=4),
    Case(ops.swiglu, (ROWS, 2 * WIDTH)),
    Case(ops.mlp, (2 * ROWS, 2, 33), (70, 33), (70,), (40, 70), (40,), (2 * ROWS, 2, 40), activation="gelu-tanh"),
    Case(ops.mlp, (ROWS, 33), (140, 33), (140,), (40, 70), (40,), activation="swiglu"),
    *(Case(ops.rotary, (ROWS, WIDTH - 1), np.arange(ROWS), layout=layout) for layout in ("halves", "pairs")),
    Case(ops.packed_rotary, (2, ROWS // 2, 3 * 4 * 22), np.arange(ROWS).reshape(2, -1), n_heads=4),
    Case(ops.rotary, (ROWS, 44), np.arange(ROWS), scaling=Scaling("yarn", 4.0, 64)),
    Case(ops.gelu, (ROWS, WIDTH), approximate="tanh"),
    Case(ops.dropout, (ROWS, WIDTH), p=0.3, key=KEY),
    Case(ops.embedding, (50, WIDTH), np.arange(ROWS) ** 2 % 47),
    Case(ops.cross_entropy, (ROWS, WIDTH), np.arange(ROWS) % WIDTH, label_smoothing=0.1, z_loss=0.01),
]
every = pytest.mark.parametrize


class Spy:
    """Counts how often an operation's twins take a call, while it stands in their place."""

    def __init__(self, op: Primitive) -> None:
        self.op, self.taken, self.rules = op, Counter(), op.twins[np]

    def __enter__(self) -> "Spy":
        self.op.twins[np] = [rule._replace(forward=self.watched(i, rule)) for i, rule in enumerate(self.rules)]
        return self

    def __exit__(self, *_: object) -> None:
        self.op.twins[np] = self.rules

    def watched(self, i, rule):
        def forward(*arguments, **options):
            answer = rule.forward(*arguments, **options)
            if answer is not NotImplemented:
                self.taken[i] += 1
            return answer

        return forward


def formula_by_right(case: Case) -> str | None:
    """Why none of our twins takes this case; None if one must."""
    if case.name in ("softmax", "log_softmax") and case.settings.get("axis", -1) != -1:
        return "an axis that is not the last"
    if case.name == "dropout" and case.settings["p"] in (0, 1):
        return "all stays, or nothing"
    if case.name == "rotary" and case.inputs[1].min() < 0:
        return "a position that is in no table"
    return None


def compare(case: Case, inputs: list, least: float = 0.0) -> Counter:
    """AssertionError unless the twin agrees with the formula, forward and backward; which twins ran.

    least  the smallest number that errors are measured by
    """

    def f(*tensors):
        return case.call(tensors)

    with np.errstate(all="ignore"):
        with backend.formulas_only():
            wide = [x.astype(np.float64) if is_floating(x) else x for x in inputs]
            y, _ = value_and_gradients(f, inputs)
            dy = random_like(y)
            exact, formula = value_and_gradients(f, wide, dy.astype(np.float64)), value_and_gradients(f, inputs, dy)
        with Spy(TWINNED[case.name]) as spy:
            twin = value_and_gradients(f, inputs, dy)
    for label, judge, plain, found in zip(
        ["y", *"abcdef"], flat_list(exact), flat_list(formula), flat_list(twin), strict=False
    ):
        assert (found is None) == (plain is None), label
        if found is not None:
            assert found.dtype == np.float32, label
            assert found.shape == plain.shape, label
            close(label, judge, plain, found, least)
    return spy.taken


def flat_list(value_and_gradients):
    y, gradients = value_and_gradients
    return [y, *gradients]


def close(label, judge, plain, found, least):
    """Where the formula stays finite, in float32 and float64, so must the twin, and close to it."""
    defined = np.isfinite(plain) & np.isfinite(judge)
    assert np.isfinite(found[defined]).all(), label
    judge, plain, found = (np.where(defined, x, 0).astype(np.float64) for x in (judge, plain, found))
    scale = max(least, np.abs(judge).max(initial=0.0))
    allowed = 30 * EPS * scale + 4 * np.abs(plain - judge).max(initial=0.0)
    assert np.abs(found - judge).max(initial=0.0) <= allowed, label


@every("case", TWIN_CASES, ids=repr)
def test_twin_agrees_with_formula(case):
    taken = compare(case, case.draw(dtype=np.float32), least=0.1)
    if case.name in OURS:
        assert bool(taken) == (formula_by_right(case) is None), f"taken {dict(taken)}, because {formula_by_right(case)}"
    elif not taken:
        pytest.skip("no twin took this case: the formula ran twice")


@every("name", sorted(TWINNED))
def test_every_twin_is_taken_by_some_case(name):
    taken: Counter = Counter()
    for case in [*TWIN_CASES, *LARGE]:
        if case.name == name:
            with Spy(TWINNED[name]) as spy:
                case.call(case.draw(dtype=np.float32))
            taken += spy.taken
    assert sorted(taken) == list(range(len(TWINNED[name].twins[np]))), (
        f"{name}: calls taken by each twin: {dict(taken)}"
    )


def test_our_twins_are_registered():
    assert set(OURS) <= set(TWINNED)


@every("case", [case for case in TWIN_CASES if case.name in OURS], ids=repr)
def test_float64_is_left_to_the_formula(case):
    with Spy(TWINNED[case.name]) as spy:
        case.call(case.draw(dtype=np.float64))
    assert not spy.taken


@every("case", LARGE, ids=repr)
def test_formulas_only_switches_twins_off(case):
    with backend.formulas_only(), Spy(TWINNED[case.name]) as spy:
        case.call(case.draw(dtype=np.float32))
    assert not spy.taken


@every("case", LARGE, ids=repr)
def test_large_arrays(case):
    assert compare(case, case.draw(dtype=np.float32), least=0.01)


# Random shapes, layouts and values

LAYOUTS = {
    "plain": lambda x: x,
    "every second": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "fortran": np.asfortranarray,
    "backwards": lambda x: x[::-1].copy()[::-1],
    "unaligned": lambda x: np.frombuffer(b"\0" * 4 + x.tobytes(), np.float32, offset=4).reshape(x.shape),
}
ROW_OPS = {
    "layer_norm": lambda C: Case(ops.layer_norm, (1, C), (C,), (C,)),
    "layer_norm without bias": lambda C: Case(ops.layer_norm, (1, C), (C,), None, eps=1e-3),
    "rms_norm": lambda C: Case(ops.rms_norm, (1, C), (C,)),
    "relu": lambda C: Case(ops.relu, (1, C)),
    "relu_squared": lambda C: Case(ops.relu_squared, (1, C)),
    "swiglu": lambda C: Case(ops.swiglu, (1, 2 * C)),
    "rotary halves": lambda C: Case(ops.rotary, (1, 2 * C), np.array([C])),
    "rotary pairs": lambda C: Case(ops.rotary, (1, 2 * C), np.array([C]), layout="pairs", base=100.0),
    "silu": lambda C: Case(ops.silu, (1, C)),
    "gelu": lambda C: Case(ops.gelu, (1, C)),
    "gelu tanh": lambda C: Case(ops.gelu, (1, C), approximate="tanh"),
    "softmax": lambda C: Case(ops.softmax, (1, C), temperature=0.7),
    "log_softmax": lambda C: Case(ops.log_softmax, (1, C), temperature=1.5),
    "dropout": lambda C: Case(ops.dropout, (1, C), p=0.25, key=(7, C)),
}
lengths = st.one_of(st.integers(1, 9), st.sampled_from([15, 16, 17, 31, 33, 64, 100, 257]))


def inputs_of(case: Case, n: int, seed: int, layout: str, frozen: bool) -> list:
    """The case's inputs, the first with n rows, in that layout."""
    rng = np.random.default_rng(seed)
    shapes = [(n, *shape[1:]) if i == 0 else shape for i, shape in enumerate(case.inputs)]
    arrays = [rng.normal(0, 2, x).astype(np.float32) if isinstance(x, tuple) else x for x in shapes]
    arrays = [LAYOUTS[layout](x) if is_floating(x) else x for x in arrays]
    for x in arrays:
        if x is not None and frozen:
            x.flags.writeable = False
    return arrays


@every("name", ROW_OPS)
@settings(max_examples=25, deadline=None)
@given(n=lengths, C=lengths, seed=st.integers(0, 99), layout=st.sampled_from(sorted(LAYOUTS)), frozen=st.booleans())
def test_any_shape_and_layout(name, n, C, seed, layout, frozen):
    case = ROW_OPS[name](C)
    assert compare(case, inputs_of(case, n, seed, layout, frozen), least=size(C))


def size(C: int) -> float:
    """What errors are measured by; in layer_norm of one column all that cancels is multiplied by 1/√ε = 316."""
    return 0.1 if C > 1 else 100.0


EXTREMES = [1e30, -1e30, 1e-30, -0.0, 0.0, 89.0, -89.0, 1e4, -1e4, 1e-42]


@every("name", ROW_OPS)
@settings(max_examples=25, deadline=None)
@given(C=lengths, seed=st.integers(0, 99), values=st.lists(st.sampled_from(EXTREMES), min_size=1, max_size=6))
def test_extreme_values(name, C, seed, values):
    """Row after row, so that one row's size is no excuse for another's error."""
    case = ROW_OPS[name](C)
    inputs = inputs_of(case, 1, seed, "plain", frozen=False)
    places = np.random.default_rng(seed).integers(0, C, len(values))
    inputs[0][0, places] = values
    assert compare(case, inputs, least=size(C))


@every("name", ROW_OPS)
@settings(max_examples=15, deadline=None)
@given(C=lengths, place=st.integers(0, 256), bad=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_nan_and_infinity_show_where_the_formula_shows_them(name, C, place, bad):
    case = ROW_OPS[name](C)
    x, *others = inputs_of(case, 3, 0, "plain", frozen=False)
    x[1, place % C] = bad
    with np.errstate(all="ignore"):
        y = case.call([x, *others]).data
        with backend.formulas_only():
            expected = case.call([x, *others]).data
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    np.testing.assert_array_equal(y[np.isinf(expected)], expected[np.isinf(expected)])


@every("op", [ops.softmax, ops.log_softmax], ids=lambda op: op.name)
def test_masked_rows(op):
    """Rows in which −∞ hides some numbers, or all of them."""
    x = np.random.default_rng(0).normal(size=(6, 37)).astype(np.float32)
    x[1, ::2] = x[2, 5:] = x[3] = -np.inf
    case = Case(op, x.shape)
    assert compare(case, [x])
    y = case.call([x]).data
    hidden = 0.0 if op is ops.softmax else -np.inf
    assert (y[np.isneginf(x)] == hidden).all()


@every("layout", sorted(LAYOUTS))
def test_dy_in_any_layout(layout):
    """backward meets a dy that is read-only, repeated or strided, as other operations leave it."""
    for case in LARGE:
        inputs = case.draw(dtype=np.float32)
        y, _ = value_and_gradients(lambda *tensors, case=case: case.call(tensors), inputs)
        if y.ndim == 0:
            continue
        dy = random_like(y)
        plain = value_and_gradients(lambda *tensors, case=case: case.call(tensors), inputs, dy)[1]
        for other in (LAYOUTS[layout](dy), np.broadcast_to(dy[:1], y.shape)):
            other.flags.writeable = False
            found = value_and_gradients(lambda *tensors, case=case: case.call(tensors), inputs, other)[1]
            if other is not dy and (other == dy).all():
                assert all((a is None and b is None) or (a == b).all() for a, b in zip(plain, found, strict=True))
            else:
                assert all(g is None or np.isfinite(g).all() for g in found)


@every("case", LARGE, ids=repr)
def test_empty_arrays_are_left_to_the_formula(case):
    inputs = case.draw(dtype=np.float32)
    if case.name == "cross_entropy":
        inputs = [inputs[0][:0], inputs[1][:0]]
    elif case.name == "embedding":
        inputs[1] = inputs[1][:0]
    else:
        inputs[0] = inputs[0][:0]
    if case.name.endswith("rotary"):
        inputs[1] = inputs[1][:0]
    if case.name == "mlp":
        inputs[5:] = [residual[:0] for residual in inputs[5:]]
    y, gradients = value_and_gradients(lambda *tensors: case.call(tensors), inputs)
    assert y.size == 0 or case.name == "cross_entropy"
    assert all(not g.any() for g in gradients if g is not None)


def check_thread_counts():
    """Run by a process of its own, which may have four threads: bits must not depend on how many of them work."""
    from numba import set_num_threads

    for case in [*TWIN_CASES, *LARGE]:
        inputs = case.draw(dtype=np.float32)
        results = []
        for threads in (1, 2, 4, 4, 2, 1):
            set_num_threads(threads)
            results.append(flat_list(value_and_gradients(lambda *tensors, case=case: case.call(tensors), inputs)))
        for i, result in enumerate(results):
            for found, same_count, one in zip(result, results[-1 - i], results[0], strict=True):
                if found is not None:
                    np.testing.assert_array_equal(found, same_count, err_msg=f"{case}: not the same twice")
                    np.testing.assert_allclose(found, one, rtol=1e-4, atol=1e-5, err_msg=repr(case))
                    if case.name in OURS:
                        np.testing.assert_array_equal(found, one, err_msg=f"{case}: depends on the thread count")
    print("same")


def test_the_number_of_threads_does_not_matter():
    code = "from tests.nanograd.test_twins import check_thread_counts; check_thread_counts()"
    environment = os.environ | {"NUMBA_NUM_THREADS": "4", "OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert run.stdout.strip() == "same", run.stderr
