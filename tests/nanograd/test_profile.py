"""What a profile says: times that add up, arithmetic counted by hand, memory that comes and goes, a timeline."""

import contextlib
import json
import sys
import threading
import time

import numpy as np
import pytest

from nanograd import nn, ops, watch
from nanograd.flops import forward_flops
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.primitive import Primitive
from nanograd.profile import profile
from nanograd.profile_report import PASS, Report, Row, Span
from nanograd.tensor import Tensor, no_grad
from tests.cases import CASES

CONFIG = DecoderLMConfig(vocab_size=11, context_length=8, n_layers=2, n_heads=2, d_model=4)
IDS = np.arange(16).reshape(2, 8) % 11


def leaf(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(0).random(shape, np.float32), requires_grad=True)


def take_step(model: DecoderLM) -> float:
    with watch.part("forward"):
        loss = model.loss(IDS, IDS)
    loss.backward()
    with watch.part("nap"):
        time.sleep(0.002)
    return float(loss.item())


def rows(report: Report) -> dict[tuple[str, str], Row]:
    return {(row.name, row.kind): row for row in report.rows()}


def test_times_add_up_to_the_steps():
    model = DecoderLM(CONFIG)
    report = profile()
    started = time.perf_counter()
    for _ in range(3):
        with report:
            take_step(model)
    assert len(report.steps) == 3
    assert sum(row.seconds for row in report.rows()) == pytest.approx(report.seconds, rel=1e-9)
    assert 0.006 < report.seconds <= time.perf_counter() - started
    assert all(row.seconds >= 0 for row in report.rows())
    assert rows(report)["nap", "part"].seconds >= 0.006


def test_every_forward_and_backward_is_counted():
    model = DecoderLM(CONFIG)
    with profile() as report:
        take_step(model)
    found = {key: row.calls for key, row in rows(report).items() if row.kind in PASS}
    for name, calls in {"linear": 4, "layer_norm": 5, "mlp": 2, "packed_attention": 2}.items():
        assert found[name, "forward"] == found[name, "backward"] == calls, name
    assert {name for name, kind in rows(report) if kind not in PASS} == {
        "step, rest", "forward, rest", "backward, rest", "nap"
    }  # fmt: skip


def test_measuring_changes_no_number():
    plain, watched = DecoderLM(CONFIG), DecoderLM(CONFIG)
    expected = take_step(plain)
    with profile():
        assert take_step(watched) == expected
    for (name, a), (_, b) in zip(plain.named_parameters(), watched.named_parameters(), strict=True):
        np.testing.assert_array_equal(a.grad, b.grad, err_msg=name)


def test_nothing_is_noted_outside_the_block():
    x = leaf(2)
    with profile() as report:
        y = ops.exp(x)
    n = len(report.spans)
    ops.exp(y).backward(np.ones(2, np.float32))
    assert len(report.spans) == n
    assert watch.watcher is None


def test_an_error_ends_the_measuring():
    report = profile()
    with contextlib.suppress(ValueError), report:
        ops.add(leaf(2), leaf(3))
    assert watch.watcher is None
    assert [span.name for span in report.spans] == ["add", "step"]
    with report:
        ops.add(leaf(2), leaf(2))
    assert len(report.steps) == 2


def test_two_at_once_are_refused():
    with profile(), pytest.raises(RuntimeError, match="already"), profile():
        pass
    assert watch.watcher is None


def test_another_thread_is_left_alone():
    x = leaf(2)

    def work():
        with watch.part("elsewhere"):
            ops.exp(x).backward(np.ones(2, np.float32))

    with profile() as report:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert [span.name for span in report.spans] == ["step"]
    assert x.grad is not None


# Arithmetic


@pytest.mark.parametrize(
    ("op", "shapes", "settings", "forward", "backward"),
    [
        (ops.linear, [(2, 3, 4), (5, 4), (5,)], {}, 240, 480),  # 2 · 6 · 4 · 5
        (ops.mlp, [(2, 3, 4), (10, 4), (10,), (4, 5), (4,)], {"activation": "swiglu"}, 720, 1440),  # 2 · 6 · (40 + 20)
        (ops.matmul, [(3, 4), (4, 5)], {}, 120, 240),
        (ops.matmul, [(7, 1, 3, 4), (2, 4, 5)], {}, 14 * 120, 28 * 120),
        (ops.matmul, [(4,), (4, 5)], {}, 40, 80),
        (ops.matmul, [(3, 4), (4,)], {}, 24, 48),
        (ops.attention, [(2, 3, 5, 4)] * 3, {"causal": False}, 2 * 6 * 25 * 8, 4 * 6 * 25 * 8),
        (ops.attention, [(1, 2, 4), (1, 5, 4), (1, 5, 4)], {"causal": True}, 2 * 9 * 8, 4 * 9 * 8),  # 4 + 5 keys
        (ops.packed_attention, [(2, 5, 24)], {"causal": True, "n_heads": 2}, 2 * 2 * 15 * 16, 4 * 2 * 15 * 16),
        (ops.exp, [(3, 4)], {}, 0, 0),
    ],
)
def test_floating_point_operations_are_those_counted_by_hand(op, shapes, settings, forward, backward):
    masks = [None] if "attention" in op.name else []
    with profile() as report:
        y = op(*[leaf(*shape) for shape in shapes], *masks, **settings)
        y.backward(np.ones(y.shape, np.float32))
    found = rows(report)
    assert (found[op.name, "forward"].flops, found[op.name, "backward"].flops) == (forward, backward)


def test_a_gradient_that_nobody_wants_costs_nothing():
    with profile() as report:
        ops.linear(Tensor(np.ones((3, 4), np.float32)), leaf(5, 4)).backward(np.ones((3, 5), np.float32))
    assert rows(report)["linear", "backward"].flops == 120


@pytest.mark.parametrize("which", ["formula", "twin"])
def test_the_output_layer_multiplies_where_it_does(which, request):
    """Its twin makes the gradients in forward, its formula makes the logits twice."""
    if which == "twin":
        request.getfixturevalue("twins")
    with profile() as report:
        ops.linear_cross_entropy(leaf(3, 4), leaf(5, 4), None, np.array([1, 2, 3])).backward()
    found = rows(report)
    flops = [found["linear_cross_entropy", kind].flops for kind in ("forward", "backward")]
    assert flops == ([120, 360] if which == "formula" else [360, 0])
    with profile() as report, no_grad():
        ops.linear_cross_entropy(leaf(3, 4), leaf(5, 4), None, np.array([1, 2, 3]))
    assert rows(report)["linear_cross_entropy", "forward"].flops == 120


class Multiplied(np.ndarray):
    """An array that remembers whether anybody took a matrix product of it."""

    seen = False

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **settings):
        Multiplied.seen |= ufunc is np.matmul
        plain = [np.asarray(x) if isinstance(x, Multiplied) else x for x in inputs]
        if out is not None:
            settings["out"] = tuple(np.asarray(x) if isinstance(x, Multiplied) else x for x in out)
        y = getattr(ufunc, method)(*plain, **settings)
        return y.view(Multiplied) if isinstance(y, np.ndarray) else y


@pytest.mark.parametrize("case", [case for case in CASES if isinstance(case.op, Primitive)], ids=repr)
def test_no_product_is_forgotten(case):
    """An operation whose formula multiplies matrices must be in the table of nanograd/flops.py, and no other."""
    Multiplied.seen = False
    arrays = [x.view(Multiplied) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x for x in case.draw()]
    case.op.formula.forward(np, *arrays, **case.settings)
    assert (forward_flops(case.name, arrays, case.settings, twin=False, recording=False) > 0) == Multiplied.seen


# Memory


def test_an_array_counts_from_its_making_to_its_last_use():
    x, n = leaf(1000), 4000
    with profile() as report:
        y = ops.exp(ops.exp(ops.exp(x)))  # each keeps its own result
        y.backward(np.ones(1000, np.float32))
        del y
    assert rows(report)["exp", "forward"].made == rows(report)["exp", "forward"].kept == 3 * n
    assert rows(report)["exp", "backward"].made == 3 * n
    assert report.peak["kept"] == 3 * n
    assert report.peak["all"] == 5 * n  # while a backward turns one gradient into the next
    assert report.memory[-1][1] == {"kept": 0, "passing": 0, "gradient": 0}


def test_what_two_operations_keep_is_counted_once_and_parameters_never():
    x, w = leaf(10, 10), leaf(10, 10)
    with profile() as report:
        y = ops.linear(x, w)
        z = ops.relu(y) * ops.linear(y, w)
    assert rows(report)["linear", "forward"].kept == 400  # y; x and w are there anyway
    assert rows(report)["relu", "forward"].kept == 400
    assert rows(report)["mul", "forward"].kept == 400  # the second linear's result: relu keeps the other factor
    del y
    assert report.peak["kept"] == 1200
    assert z.requires_grad


def test_nothing_is_kept_where_nothing_is_remembered():
    with profile() as report, no_grad():
        ops.exp(leaf(1000))
    assert report.peak["kept"] == 0
    assert report.peak["passing"] == 4000


# What is shown


def test_the_table_fits_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    model = DecoderLM(CONFIG)
    with profile() as report:
        take_step(model)
    text = str(report)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "…" not in text
    for word in ("linear_cross_entropy", "fwd", "bwd", "backward, rest", "kept for backward"):
        assert word in text
    assert "of peak:" not in text, "no twins, no peak of theirs"


def test_shares_of_the_peak():
    report = Report()
    details = {"inputs": ["float32 (2, 2)"]}
    report.spans = [
        Span("linear", "forward", "forward", 0.0, 0.5, flops=10**10, details=details),
        Span("matmul", "forward", "forward", 0.5, 1.0, flops=10**10, details={"inputs": ["float64 (2, 2)"]}),
        Span("step", "step", "step", 0.0, 1.0, inside=1.0),
    ]
    cells = [list(report._cells(row, 40.0)) for row in report.rows()]
    assert cells[0][:8] == ["linear", "fwd", "1", "500.0", "50.0%", "10.0", "20", "50%"]
    assert cells[1][7] == "", "the peak is that of float32"


@pytest.mark.parametrize(("measured", "share"), [(40.0, "50%"), (10.0, "100%"), (None, "")])
def test_no_operation_is_faster_than_the_peak(measured, share):
    """A peak that was measured beside a busy neighbour is no peak."""
    report = Report()
    details = {"inputs": ["float32 (2, 2)"]}
    report.spans = [Span("linear", "forward", "forward", 0.0, 0.5, flops=10**10, details=details)]
    assert list(report.table(measured).columns[7].cells) == [share]


@pytest.mark.usefixtures("twins")
def test_a_formula_that_runs_for_want_of_a_twin_is_marked():
    y, mask = leaf(2, 4, 12), np.ones((2, 1, 4, 4), bool)
    with profile() as report:
        ops.packed_attention(y, mask, n_heads=1, causal=True)
        ops.exp(y)
        ops.linear(leaf(3, 4), leaf(5, 4))
    assert {row.name for row in report.rows() if row.fell_back} == {"packed_attention"}
    assert "packed_attention*" in str(report)
    assert "of peak:" in str(report)


def test_the_timeline_is_nested_and_complete(tmp_path):
    model = DecoderLM(CONFIG)
    report = profile()
    for _ in range(2):
        with report:
            take_step(model)
    report.write_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert len(spans) == len(report.spans)
    steps = [(event["ts"], event["ts"] + event["dur"]) for event in spans if event["name"] == "step"]
    assert len(steps) == 2
    assert steps[0][1] <= steps[1][0] + 0.01, "starts and lengths have one unit"
    for event in spans:
        start, end = event["ts"], event["ts"] + event["dur"]
        assert any(s - 0.01 <= start <= end <= e + 0.01 for s, e in steps)
    lanes = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert set(lanes.values()) == {"step", "forward", "backward", "nap"}
    mlp = next(event for event in spans if event["name"] == "mlp" and event["cat"] == "backward")
    assert lanes[mlp["tid"]] == "backward"
    assert mlp["args"]["inputs"][0] == "float32 (2, 8, 4)"
    assert mlp["args"]["runs"] == "formula"
    assert mlp["args"]["GFLOP"] == pytest.approx(2 * 4 * 16 * 16 * 4 / 1e9)
    assert all(sum(event["args"].values()) >= 0 for event in events if event["ph"] == "C")


def test_a_timeline_holds_no_array_and_no_infinity(tmp_path):
    index = np.array([1, 0])
    with profile() as report:
        ops.clip(leaf(2), high=np.inf)
        ops.getitem(leaf(2), index=index)
    report.write_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text(), parse_constant=pytest.fail)["traceEvents"]
    said = {event["name"]: event["args"] for event in events if event["ph"] == "X"}
    assert said["clip"]["high"] == "inf"
    assert said["getitem"]["index"] == "int64 (2,)"


def test_a_timeline_that_cannot_be_written_says_where(tmp_path):
    with profile() as report:
        pass
    with pytest.raises(OSError, match="nowhere"):
        report.write_trace(tmp_path / "nowhere" / "trace.json")


def test_a_gpu_is_waited_for(monkeypatch):
    """Time that a GPU still needs when an operation returns must not go to the next one."""
    pytest.importorskip("cupy", reason="the stand-in asks the real CuPy which names it has: pip install cupy-cuda13x")
    from nanograd.backend import to_device
    from tests import fake_cupy

    for name, module in fake_cupy.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    waited: list[int] = []
    monkeypatch.setattr(fake_cupy.cuda.runtime, "deviceSynchronize", lambda: waited.append(1), raising=False)
    x = Tensor(to_device(np.ones(2), "cuda"), requires_grad=True)
    with profile() as report:
        ops.exp(ops.exp(x)).backward(to_device(np.ones(2), "cuda"))
    assert len(waited) == 4
    assert rows(report)["exp", "backward"].calls == 2


def test_a_module_can_be_measured_in_three_lines():
    layer = nn.Linear(3, 4, rng=np.random.default_rng(0))
    with profile() as report:
        layer(leaf(2, 3))
    assert "linear" in str(report)
