"""Steps on a GPU that nobody waits for, on the stand-in: the bits are those of steps that are waited for."""

import contextlib
import json
import logging
import math
import os
import signal

import numpy as np
import pytest

from nanograd import terminal, train, training_run
from nanograd.backend import own_stream
from nanograd.data import Batch
from nanograd.data.upload import RING, Told, Upload
from nanograd.device_step import DeviceStep, device_step
from nanograd.models import DecoderLM, DecoderLMConfig
from nanograd.optim import FlatParameters
from nanograd.optim_settings import OptimConfig, make_optimizer
from nanograd.profile import Profile
from nanograd.settings import TrainConfig
from nanograd.trainer import Trainer
from tests.nanograd.same_runs import CHANCE, same_end
from tests.nanograd.small_runs import fails, records

pytestmark = pytest.mark.usefixtures("stand_in")

MODEL = DecoderLMConfig(vocab_size=17, context_length=8, n_layers=2, n_heads=2, d_model=8, dropout=0.1)


def stepper(graph="off", *, accumulate=2, batch_size=3, precision="float32", **optim):
    """A model that is trained on the stand-in, and its DeviceStep."""
    optim = OptimConfig(**optim).resolved(accumulate=accumulate)
    config = TrainConfig(
        device="cuda",
        cuda_graph=graph,
        model=MODEL,
        accumulate=accumulate,
        batch_size=batch_size,
        optim=optim,
        precision=precision,
    )
    stream = own_stream("cuda")
    model = DecoderLM(MODEL, seed=1).to("cuda")
    flat = FlatParameters(model, precision=precision)
    steps = device_step(config, model, make_optimizer(optim, flat, model.hidden_matrices()))
    steps.stream = stream
    return steps


def batches(seed, n=2, documents=False):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 17, (n, 3, 9))
    rows = np.sort(rng.integers(0, 3, (n, 3, 8)).astype(np.int32), axis=2)
    return [Batch(x[:, :-1], x[:, 1:], documents=d if documents else None) for x, d in zip(ids, rows, strict=True)]


def weights(steps):
    flat = steps.optimizer.flat
    return [x.held.copy() for x in (flat.parameters, flat.compute) if x is not None], steps.optimizer.state_dict()


def same(a, b):
    for x, y in zip(a[0], b[0], strict=True):
        np.testing.assert_array_equal(x.view(np.uint8), y.view(np.uint8))
    for name, array in a[1].items():
        np.testing.assert_array_equal(array, b[1][name], err_msg=name)


@pytest.mark.parametrize(
    ("optim", "documents"),
    [
        ({}, False),
        ({"precision": "bf16"}, False),
        ({"ema_decay": 0.9}, True),
        ({"optimizer": "muon"}, False),
        pytest.param({"optimizer": "sgd"}, False, marks=pytest.mark.slow),
        pytest.param({"optimizer": "lion", "clip_norm": 0.0}, False, marks=pytest.mark.slow),
    ],
    ids=["adamw", "bf16", "averaged", "muon", "sgd", "lion"],
)
def test_replayed_steps_equal_eager_ones_bit_for_bit(optim, documents):
    """Dropout, accumulation, a learning rate that changes: two steps of warm-up, then one launch each."""
    told, ends = [], []
    for graph in ("off", "on"):
        steps = stepper(graph, **optim)
        rates = (1e-3 * (i + 1) for i in range(5 + 2))
        told.append([steps.enqueue(batches(i, documents=documents), lr).wait() for i, lr in enumerate(rates)])
        ends.append((*weights(steps), steps.model.dropout_keys.calls, steps.optimizer.steps))
    assert told[0] == told[1]
    same(*ends)
    assert ends[0][2:] == ends[1][2:]
    assert len({loss for loss, _ in told[0]}) == 7


def test_a_replayed_step_is_one_launch_and_neither_waits_nor_allocates(stand_in):
    steps = stepper("on", accumulate=1)
    for i in range(3):
        steps.enqueue(batches(i, 1), 1e-3).wait()
    for i in range(3, 9):
        stand_in.counts.clear()
        answer = steps.enqueue(batches(i, 1), 1e-3)
        assert {name: n for name, n in stand_in.counts.items() if n} == {
            "graph": 1,
            "launch": 6,  # ids, targets, shares, hyper, step and calls to where the graph reads them
            "event": 1,  # of a copy three steps ago
        }
        answer.wait()


def test_an_eager_step_does_not_wait_either(stand_in):
    for optimizer in ("adamw", "adafactor", "muon"):
        steps = stepper("off", optimizer=optimizer)
        for i in range(4):
            stand_in.counts.clear()
            answer = steps.enqueue(batches(i), 1e-3)
            assert stand_in.counts["sync"] == stand_in.counts["h2d"] == 0
            answer.wait()
    steps = stepper("off")
    launches = []
    for i in range(3):
        stand_in.counts.clear()
        steps.enqueue(batches(i), 1e-3).wait()
        launches.append((stand_in.counts["launch"], stand_in.counts["allocation"]))
    assert launches[1] == launches[2]


def test_a_batch_of_another_shape_gets_a_graph_of_its_own():
    whole, steps = stepper("off"), stepper("on")
    for i in range(10):
        for each in (whole, steps):
            each.enqueue(batches(i, documents=i % 2 == 1), 1e-3).wait()
    same(weights(whole), weights(steps))
    assert [graph.graph is not None for graph, _ in steps.graphs.values()] == [True, True]


@pytest.mark.parametrize(
    ("optimizer", "graph", "by"),
    [
        ("adamw", "off", math.inf),
        ("bf16", "on", math.inf),
        ("adamw", "on", 1e25),
        ("muon", "on", math.nan),
        ("adafactor", "off", math.nan),
    ],
)
@np.errstate(over="ignore", invalid="ignore")
def test_a_step_that_is_no_number_changes_nothing_and_holds_up_the_next(graph, by, optimizer):
    kind = {"precision": "bf16"} if optimizer == "bf16" else {"optimizer": optimizer}
    steps = stepper(graph, clip_norm=0.0, **kind)
    for i in range(4):
        steps.enqueue(batches(i), 1e-3).wait()
    before, keys, count = weights(steps), steps.model.dropout_keys.calls, steps.optimizer.steps
    inputs = steps._inputs
    steps._inputs = lambda given: {**(there := inputs(given)), "shares": there["shares"] * np.float32(by)}
    bad = steps.enqueue(batches(4), 1e-3)
    steps._inputs = inputs
    steps.enqueue(batches(5), 1e-3).wait()
    assert not all(map(math.isfinite, np.square(bad.wait(), dtype=np.float32)))
    assert not steps.optimizer.flat.gradients.held.any()
    steps.optimizer.count(count)
    same(before, weights(steps))
    steps.go_on()
    steps.model.dropout_keys.calls = keys
    steps.enqueue(batches(5), 1e-3).wait()
    assert (weights(steps)[0][0] != before[0][0]).any()


def test_what_cannot_be_recorded_is_told_once_and_goes_on_launch_by_launch(monkeypatch, caplog):
    loss = DecoderLM.loss

    def looks(self, *batch, **settings):
        whole = loss(self, *batch, **settings)
        assert whole.item() > 0
        return whole

    whole, steps = stepper("off"), stepper("on")
    monkeypatch.setattr(DecoderLM, "loss", looks)
    with caplog.at_level(logging.WARNING):
        for i in range(5):
            for each in (whole, steps):
                each.enqueue(batches(i), 1e-3).wait()
    same(weights(whole), weights(steps))
    assert steps.model.dropout_keys.calls == whole.model.dropout_keys.calls
    (line,) = caplog.messages
    assert line.startswith("the step can't be recorded as a CUDA graph, and goes on launch by launch: cudaErrorStream")


def test_a_profile_sees_the_operations_of_a_model_whose_steps_are_recorded():
    steps, whole = stepper("on"), stepper("off")
    report = Profile()
    for i in range(5):
        with report if i > 2 else contextlib.nullcontext():
            steps.enqueue(batches(i), 1e-3).wait()
        whole.enqueue(batches(i), 1e-3).wait()
    assert "layer_norm" in str(report)
    same(weights(whole), weights(steps))


def test_only_small_models_are_recorded_unless_asked_for(monkeypatch):
    assert stepper("auto").record
    assert not stepper("auto", optimizer="adafactor").record
    monkeypatch.setattr("nanograd.device_step.SMALL", 6 * 2 * 3 * 8 * stepper().model.n_parameters())
    assert not stepper("auto").record
    assert stepper("on").record


# The way of the batches


def test_what_is_sent_arrives_and_the_host_never_waits_for_more_than_old_copies(stand_in):
    own_stream("cuda")
    upload = Upload(stand_in)
    arrays = [{"ids": np.arange(i, i + 6).reshape(2, 3), "x": np.full(2, i, np.float32)} for i in range(9)]
    there = [upload.send(each) for each in arrays]
    for sent, found in zip(arrays, there, strict=True):
        for name, array in sent.items():
            np.testing.assert_array_equal(found[name].held, array)
            assert found[name].dtype == array.dtype
    assert stand_in.counts["sync"] == stand_in.counts["h2d"] == 0
    assert len(upload._sets) == RING
    wide = upload.send({"ids": np.zeros((2, 5), np.int64)})
    assert wide["ids"].shape == (2, 5)


def test_ids_travel_in_half_their_bytes(stand_in):
    own_stream("cuda")
    upload = Upload(stand_in)
    upload.send({"ids": np.zeros((2, 3), np.int64)})
    assert upload._sets[0]["ids"].pinned.dtype == np.int32


def test_an_answer_is_there_only_when_it_was_waited_for(stand_in):
    own_stream("cuda")
    told, numbers = Told(stand_in, 2), stand_in.zeros(2)
    first = told.tell(numbers)
    numbers += 1
    second = told.tell(numbers)
    assert (first.wait(), second.wait()) == ([0.0, 0.0], [1.0, 1.0])


# The training command


def spoil(monkeypatch, *steps):
    """The loss of these steps is NaN, on the device, whoever runs ahead of whom."""
    begin, inputs, now = Trainer._begin, DeviceStep._inputs, [0]

    def counted(self, device, step):
        now[0] = step
        return begin(self, device, step)

    def spoiled(self, given):
        there = inputs(self, given)
        return {**there, "shares": there["shares"] * np.float32(math.nan if now[0] in steps else 1)}

    monkeypatch.setattr(Trainer, "_begin", counted)
    monkeypatch.setattr(DeviceStep, "_inputs", spoiled)


def begin(argv, out, *extra):
    assert terminal.run(train.main, [*argv, "--device", "cuda", "--out", str(out), *extra]) == 0
    return out


def run_ahead(monkeypatch):
    """Steps of which the next was begun before anybody had looked at them."""
    found, update = [], Trainer._device_update

    def watched(self, device, step, ahead):
        answer = update(self, device, step, ahead)
        found.extend([step] * (self.ahead is not None))
        return answer

    monkeypatch.setattr(Trainer, "_device_update", watched)
    return found


def test_a_run_that_is_one_step_ahead_is_the_run_that_waits(flags, tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, 1, 4, 6, 7, 9)
    ahead = run_ahead(monkeypatch)
    for graph in ("off", "on"):
        whole = begin([*flags, *CHANCE, "--cuda-graph", graph], tmp_path / graph)
        assert [r["step"] for r in records(whole) if "skipped" in r] == [1, 4, 6, 7, 9]
        assert records(whole)[3]["skipped"] == "loss nan"
        assert ahead == [3, 11], "not where the weights are looked at, nor after a bad step"
        ahead.clear()
    same_but_for_settings(tmp_path / "on", tmp_path / "off")
    monkeypatch.setattr(training_run.TrainingRun, "_is_plain", lambda self, step: False)
    waits = begin([*flags, *CHANCE, "--cuda-graph", "off"], tmp_path / "waits")
    assert not ahead
    same_end(tmp_path / "off", waits)


def same_but_for_settings(a, b):
    for name in ("model.safetensors", "metrics.jsonl"):
        x, y = ((run / name).read_bytes() for run in (a, b))
        if name == "metrics.jsonl":
            x, y = ([_untimed(json.loads(line)) for line in text.splitlines()] for text in (x, y))
        assert x == y, name


def _untimed(record):
    return {name: x for name, x in record.items() if name not in ("seconds", "tokens_per_second", "speed_alert")}


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["off", "on"])
def test_a_run_in_pieces_equals_the_run_in_one_go(flags, tmp_path, monkeypatch, graph):
    spoil(monkeypatch, 4, 8)
    argv = [*flags, *CHANCE, "--cuda-graph", graph]
    whole = begin(argv, tmp_path / "whole")
    out = begin(argv, tmp_path / "pieces", "--pause-at", "4")
    for pause in (7, 12):
        assert terminal.run(train.main, ["--resume", "--out", str(out), "--pause-at", str(pause)]) == 0
    same_end(out, whole)


def test_a_signal_lets_the_step_that_is_under_way_end(flags, tmp_path, monkeypatch):
    """It comes in step 2, when step 3 has been begun."""
    argv, step = [*flags, *CHANCE], Trainer.step

    def interrupted(self, i, **settings):
        record = step(self, i, **settings)
        if i == 2:
            assert self.ahead is not None
            os.kill(os.getpid(), signal.SIGTERM)
        return record

    monkeypatch.setattr(Trainer, "step", interrupted)
    out = tmp_path / "x"
    assert terminal.run(train.main, [*argv, "--device", "cuda", "--out", str(out)]) == 128 + signal.SIGTERM
    assert [r["step"] for r in records(out)] == [1, 2, 3]


def test_a_save_that_is_asked_for_waits_for_the_step_that_is_under_way(flags, tmp_path, monkeypatch):
    argv, step = [*flags, *CHANCE, "--keep", "9"], Trainer.step

    def asked(self, i, **settings):
        record = step(self, i, **settings)
        if i == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        return record

    monkeypatch.setattr(Trainer, "step", asked)
    out = begin(argv, tmp_path / "x")
    names = [path.name for path in (out / "checkpoints").iterdir()]
    assert "step-00000003" in names
    assert "step-00000002" not in names


def test_where_a_graph_cannot_be_is_told_at_once(flags, tmp_path, capsys):
    argv = [*flags, "--out", str(tmp_path / "x"), "--cuda-graph", "on"]
    fails(train.main, [*argv, "--device", "cpu"], "graphs are recorded on a GPU, and --device is cpu", capsys)
    argv += ["--device", "cuda"]
    fails(train.main, [*argv, "--layout", "padded"], "with --layout padded every batch has another shape", capsys)
    fails(train.main, [*argv, "--optimizer", "adafactor"], "adafactor's step count would be recorded", capsys)
    fails(train.main, [*argv, "--skip-spikes"], "--skip-spikes looks at each loss", capsys)


def test_the_device_and_the_host_judge_a_step_alike():
    """What the device does not take is what the guard counts, at the border too."""
    steps = stepper("off", accumulate=1)
    trained = []
    for norm in (1.8e19, 1.9e19):
        steps.config = TrainConfig(optim=OptimConfig(clip_norm=0.0))
        g = steps.optimizer.flat.gradients
        g[...] = 0
        g[0] = norm
        steps.halted[...] = False
        scale = steps._judge()
        trained.append((float(scale.held), bool(steps.halted.held)))
    assert trained == [(1.0, False), (0.0, True)]
