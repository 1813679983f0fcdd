"""nanograd.gpucheck without a GPU: what is counted, what is kept, how steps fail; and its steps in miniature."""

import json
import sys
import time

import numpy as np
import pytest

from benchmarks import gpu_history
from nanograd import backend, terminal
from nanograd.gpucheck import __main__ as gpucheck
from nanograd.gpucheck import figures, history, kernel_table, measure, parity, training
from nanograd.gpucheck.budget import LeftOutError, Outcome, OutOfTimeError, Step, run_steps
from nanograd.models import DecoderLMConfig

TINY = DecoderLMConfig(vocab_size=48, context_length=8, n_layers=1, n_heads=2, d_model=16, positions="learned")


# Figures


def test_gpt2_costs_what_llmc_and_the_palm_paper_say():
    assert figures.flops_per_token_llmc(training.GPT2, 1024) == pytest.approx(803.5e6, rel=1e-3)
    assert figures.flops_per_token_palm(training.GPT2, 1024) == pytest.approx(855.4e6, rel=1e-3)
    mfu = figures.model_flops_utilization(training.GPT2, 468e3, 989e12)  # llm.c on an H100: 140 ms for 524,288 tokens
    assert mfu["mfu_llmc"] == pytest.approx(0.38, abs=0.001)


def test_cards_are_known_by_their_names():
    assert figures.peak_of("NVIDIA H200") == 989e12
    assert figures.peak_of("NVIDIA H100 80GB HBM3") == 989e12
    assert figures.peak_of("NVIDIA H100 PCIe") == 756e12
    assert figures.peak_of("NVIDIA A100-SXM4-40GB") == 312e12
    assert figures.peak_of("Some other card") is None


def test_a_floor_is_the_longer_of_moving_and_computing():
    assert figures.floor_seconds(n_bytes=4e12, flops=1.0, bandwidth=4e12, rate=1e15) == 1.0
    assert figures.floor_seconds(n_bytes=1.0, flops=2e15, bandwidth=4e12, rate=1e15) == 2.0


# Budgets


def outcomes_of(*steps, limit=100.0):
    told = []
    found = run_steps(steps, limit=limit, tell=told.append)
    assert told == found
    return found


def fails(_):
    raise RuntimeError("no such kernel\nat all")


def test_a_step_that_fails_keeps_no_other_from_running():
    def lacks(_):
        raise LeftOutError("it would need a tool")

    found = outcomes_of(Step("a", 10, fails), Step("b", 10, lacks), Step("c", 10, lambda s: {"x": s}))
    assert [(o.name, o.state) for o in found] == [("a", "failed"), ("b", "skipped"), ("c", "ok")]
    assert found[0].why == "RuntimeError: no such kernel at all"
    assert found[1].why == "it would need a tool"
    assert found[2].figures == {"x": 10}


def test_a_step_that_takes_too_long_is_stopped():
    def waits(_):
        while True:
            time.sleep(0.01)

    (found,) = outcomes_of(Step("a", 0.05, waits))
    assert (found.state, found.why) == ("too slow", "it was stopped after 0 s")


def test_no_step_begins_after_the_limit_and_the_last_gets_what_is_left():
    now = [0.0]

    def takes(seconds):
        def run(_):
            now[0] += seconds
            return {}

        return run

    steps = [Step("a", 50, takes(40)), Step("b", 50, lambda left: {"left": left}), Step("c", 50, takes(60)),
             Step("d", 5, takes(1))]  # fmt: skip
    found = run_steps(steps, limit=70, tell=lambda _: None, clock=lambda: now[0])
    assert found[1].figures == {"left": 30}
    assert (found[3].state, found[3].why) == ("skipped", "no time was left")


# History


def test_what_changed_is_told_by_kernel(tmp_path):
    path = tmp_path / "history.jsonl"
    assert history.read_history(path) == []
    history.append({"date": "2026-01-01", "commit": "aaa", "kernels": {"a.cu": "1", "b.cu": "1"}}, path)
    history.append({"date": "2026-01-02", "commit": "bbb", "kernels": {"b.cu": "2"}}, path)
    records = history.read_history(path)
    assert history.changed_since(records, {"a.cu": "1", "b.cu": "2"}) == {}
    assert history.changed_since(records, {"a.cu": "2", "b.cu": "1", "c.cu": "1"}) == {
        "a.cu": "changed since 2026-01-01 (aaa)",
        "c.cu": "never verified on a GPU",
    }


def test_a_damaged_history_is_one_line_and_no_failure(tmp_path, monkeypatch):
    path = tmp_path / "history.jsonl"
    path.write_text('{"kernels": {}}\n[]\n')
    with pytest.raises(history.HistoryError, match=r"line 2 is damaged .*: restore it from git"):
        history.read_history(path)
    monkeypatch.setattr(gpu_history, "read_history", lambda: history.read_history(path))
    assert gpu_history.report().startswith("CUDA kernels: ")


def test_digests_cover_every_kernel_file_and_the_report_names_those_not_seen(monkeypatch):
    now = history.kernel_digests()
    assert "softmax.cu" in now
    assert len(set(now.values())) == len(now)
    seen = {**now, "softmax.cu": "0" * 16}
    monkeypatch.setattr(gpu_history, "read_history", lambda: [{"date": "d", "commit": "c", "kernels": seen}])
    assert gpu_history.report() == (
        f"CUDA kernels: 1 of {len(now)} files await a GPU\n  softmax.cu: changed since d (c)"
    )
    monkeypatch.setattr(gpu_history, "read_history", lambda: [{"date": "d", "commit": "c", "kernels": now}])
    assert gpu_history.report() == f"CUDA kernels: all {len(now)} files are as a GPU last verified them"


def test_a_record_counts_as_verified_only_if_parity_held():
    assert history.new_record({"x": 1}, verified=False)["kernels"] == {}
    record = history.new_record({"x": 1}, verified=True)
    assert record["kernels"] == history.kernel_digests()
    assert gpucheck._verified([Outcome("parity", "ok", 1.0, {})])
    assert not gpucheck._verified([Outcome("parity", "failed", 1.0, {}), Outcome("gpt2", "ok", 1.0, {})])


# Programs that run beside


def test_a_program_that_takes_too_long_or_is_missing_is_told_from_one_that_fails():
    with pytest.raises(OutOfTimeError):
        parity.run([sys.executable, "-c", "import time; time.sleep(600)"], 0.5)
    with pytest.raises(LeftOutError, match="no-such-program: No such file"):
        parity.run(["no-such-program"], 60)
    assert parity.last_line("a\n\n b \n\n") == "b"


def test_tests_that_fail_on_the_gpu_are_a_failure(monkeypatch):
    monkeypatch.setattr(parity, "TESTS", ["--no-such-option"])
    with pytest.raises(RuntimeError, match="tests on the GPU, exit code 4"):
        parity.gpu_tests(120)


@pytest.mark.slow
def test_the_peer_is_pytorchs_gpt2(monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    from benchmarks import gpu_peer

    model = gpu_peer.model_of(TINY)
    ours = training.DecoderLM(TINY).n_parameters()
    assert sum(p.numel() for p in model.parameters()) == ours
    ids = torch.zeros((2, 8), dtype=torch.int64)
    assert float(model(ids, ids).detach()) > 0
    monkeypatch.setattr(gpu_peer, "SHAPES", {"gpt2": (TINY, 2, 1)})
    monkeypatch.setattr(torch, "compile", lambda model: model)  # a minute on this machine
    gpu_peer.main(["gpt2"], device="cpu")
    found = json.loads(capsys.readouterr().out)
    assert found["eager"]["tokens_per_second"] > 0
    assert found["compiled"].keys() == {"tokens_per_second", "memory_gb"}


# The steps in miniature, on the stand-in


@pytest.fixture
def check(stand_in, monkeypatch):
    sizes = gpucheck.Sizes(
        gpt2=TINY, gpt2_batch=2, gpt2_steps=2, small=TINY, small_batch=2, small_steps=3, decode_tokens=3,
        copy_bytes=1 << 12, square=16,
    )  # fmt: skip
    return gpucheck.Check(sizes, device="cuda")


def test_every_step_finds_its_figures(check):
    assert check.about(1)["name"].startswith("NVIDIA H200")
    assert check.peak == 989e12
    assert check.ceilings(1).keys() == {"copy_tb_per_s", "product_tflops", "peak_tflops"}
    assert {"tokens_per_second", "ms_per_step", "memory_gb", "mfu_llmc", "mfu_palm"} <= check.gpt2(1).keys()
    small = check.small(1)
    assert (small["eager"]["recorded"], small["graph"]["recorded"]) == (False, True)
    assert check.decoding(1)["tokens_per_second"] > 0
    rows = check.table(1)["rows"]
    assert {row["kernel"].split(",")[0] for row in rows} == {
        "layer_norm", "rms_norm", "gelu", "linear qkv", "mlp", "attention", "embedding", "output layer and loss",
    }  # fmt: skip
    assert all(row["floor_us"] > 0 for row in rows)


def test_the_table_needs_the_ceilings(check):
    with pytest.raises(RuntimeError, match="the ceilings are not known"):
        check.table(1)


def test_training_on_the_device_equals_the_cpus(stand_in):
    backend.own_stream("cuda")
    found = training.equal_training(
        DecoderLMConfig(vocab_size=48, context_length=8, n_layers=1, n_heads=2, d_model=16, dropout=0.1),
        batch_size=2,
        steps=5,
    )
    assert found["float32_from_cpu"] < 1e-5
    assert found["bf16_from_cpu"] < 1e-2
    assert found["graph_was_recorded"]
    assert found["replay_equals_eager"]


def test_attentions_floor_counts_the_pairs_that_see_each_other(stand_in):
    found = {s.name: s for s in kernel_table.subjects(stand_in, training.TINY, 2, np.dtype(np.float32))}
    T, C = 64, 64
    assert kernel_table._flops(found["attention"]) == 2 * 2 * (T * (T + 1) // 2) * 2 * C
    assert kernel_table._flops(found["linear qkv"]) == 2 * 2 * T * C * 3 * C
    assert kernel_table._flops(found["gelu"]) == 0


def test_a_median_of_the_devices_own_clock(stand_in):
    assert measure.seconds_of(stand_in, lambda: time.sleep(0.002), repeat=3) >= 0.002


# The command


def test_without_a_gpu_it_says_so_in_one_line(tmp_path, capsys, monkeypatch):
    def no_gpu(device):
        raise backend.DeviceError(f"device {device!r}: CuPy is installed but finds no GPU; use --device cpu")

    monkeypatch.setattr(backend, "check_device", no_gpu)
    assert terminal.run(gpucheck.main, ["--out", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err == "error: device 'cuda': CuPy is installed but finds no GPU; use --device cpu\n"
    assert not (tmp_path / "x").exists()


def test_the_cpu_is_no_gpu(tmp_path, capsys):
    assert terminal.run(gpucheck.main, ["--out", str(tmp_path / "x"), "--device", "cpu"]) == 2
    assert "gpucheck is for a GPU" in capsys.readouterr().err


@pytest.mark.usefixtures("stand_in")
def test_the_folder_the_history_and_the_table(tmp_path, capsys, monkeypatch):
    row = {"kernel": "gelu, forward", "us": 2.0, "floor_us": 1.0, "share": 0.5}
    steps = [
        Step("device", 9, lambda _: {"name": "a card", "list": [1]}),
        Step("gpt2", 9, fails),
        Step("kernel table", 9, lambda _: {"rows": [row]}),
    ]
    monkeypatch.setattr(gpucheck.Check, "steps", lambda self: steps)
    monkeypatch.setattr(history, "HISTORY", tmp_path / "history.jsonl")
    out = tmp_path / "deep" / "out"
    assert terminal.run(gpucheck.main, ["--out", str(out)]) == 1, "a step failed"
    saved = json.loads((out / "gpucheck.json").read_text())
    assert [step["state"] for step in saved["steps"]] == ["ok", "failed", "ok"]
    (record,) = history.read_history(tmp_path / "history.jsonl")
    assert record["device"]["name"] == "a card"
    assert record["kernels"] == {}, "parity did not hold"
    err = capsys.readouterr().err
    assert "gpt2: failed, 0.0 s: RuntimeError: no such kernel at all" in err
    assert "gelu, forward" in err
    assert "50%" in err
    assert terminal.run(gpucheck.main, ["--out", str(out), "--only", "device", "--no-history"]) == 0
    assert len(history.read_history(tmp_path / "history.jsonl")) == 1
    assert terminal.run(gpucheck.main, ["--out", str(out), "--only", "devise"]) == 2
    assert "--only: 'devise' is no step; there are device, gpt2, kernel table" in capsys.readouterr().err


@pytest.mark.usefixtures("stand_in")
def test_all_steps_together_fit_the_nine_minutes_that_are_promised():
    steps = gpucheck.Check(gpucheck.Sizes(), device="cuda").steps()
    assert gpucheck.LIMIT <= 9 * 60 - 10
    assert len({step.name for step in steps}) == len(steps)
