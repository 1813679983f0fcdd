"""The benchmark of a training step on a tiny shape: what it writes, and what it refuses. No time is judged."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import benchmarks.ops
from benchmarks import context, engines, op_subjects, precision, steps_picture, train_step
from nanograd import kernels, ops, terminal
from nanograd.primitive import Primitive

ROOT = Path(__file__).parents[1]
FIELDS = {
    *("engine", "shape", "ms", "p10", "p90", "tokens_per_second", "peak_mb", "losses", "ratio"),
    *("ratio_float32", "share_of_peak", "first_steps_ms", "version", "threads", "machine", "run"),
}
COMMAND = [sys.executable, "-m", "benchmarks.train_step", "--shape", "test", "--steps", "3", "--threads", "1"]


def run(tmp_path: Path, *flags: str) -> list[dict[str, object]]:
    """The command, in a process of its own: it sets the number of threads for good. Returns the lines of --json."""
    path = tmp_path / "steps.jsonl"
    done = subprocess.run([*COMMAND, "--json", str(path), *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "tokens/s" in done.stdout
    return [json.loads(line) for line in path.read_text().splitlines()]


def check(record: dict[str, object]) -> None:
    assert set(record) == FIELDS
    assert 0 < record["p10"] <= record["ms"] <= record["p90"]
    assert record["tokens_per_second"] == pytest.approx(1e3 * 2 * 16 / record["ms"])
    assert 10 < record["peak_mb"] < 10_000
    assert len(record["first_steps_ms"]) == train_step.FIRST_STEPS
    assert len(record["losses"]) == train_step.FIRST_STEPS + 3
    assert record["losses"][0] == pytest.approx(math.log(65), rel=0.05), "a new model knows nothing"
    assert record["losses"][4] < record["losses"][0], "batches come round again, and the fifth was the first"


def test_without_peers(tmp_path):
    [record] = run(tmp_path, "--peers", "")
    check(record)
    assert (record["engine"], record["shape"], record["ratio"], record["threads"]) == ("nanograd", "test", None, 1)
    assert 0 < record["share_of_peak"] < 1


def test_beside_torch(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is the peer: pip install 'nanograd[peers]'")
    ours, torch = run(tmp_path, "--peers", "torch")
    for record in (ours, torch):
        check(record)
    assert [ours["engine"], torch["engine"], torch["ratio"], torch["share_of_peak"]] == ["nanograd", "torch", 1, None]
    assert ours["ratio"] == ours["ratio_float32"] == pytest.approx(torch["ms"] / ours["ms"])
    assert ours["losses"] == pytest.approx(torch["losses"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["torch-bf16", "torch-compile", "jax", "tinygrad"])
def test_beside_the_other_peers(tmp_path, peer):
    """That their losses agree is checked by the command itself."""
    if (reason := engines.why_not(peer)) is not None:
        pytest.skip(f"{peer}: {reason}")
    ours, theirs = run(tmp_path, "--peers", peer)
    check(ours)
    assert (theirs["engine"], theirs["ratio"]) == (peer, 1)
    assert theirs["losses"][4] < theirs["losses"][0]


@pytest.mark.parametrize(
    ("other", "off", "believed"),
    [("torch", 0.0005, True), ("torch", 0.002, False), ("torch-bf16", 0.002, True), ("torch-bf16", 0.03, False)],
)
def test_no_time_counts_if_losses_disagree(other, off, believed):
    losses = {"nanograd": [4.0, 3.0, 2.0], other: [4.0, 3.0 * (1 + off), 2.0]}
    if believed:
        train_step.check_losses(losses)
    else:
        with pytest.raises(ValueError, match=f"at step 2 {other} has 3.0"):
            train_step.check_losses(losses)


@pytest.mark.parametrize("slow", ["nanograd", "tinygrad"])
def test_an_engine_that_took_fewer_steps_is_checked_all_the_same(slow):
    losses = {"nanograd": [4.0, 3.0, 2.0], "tinygrad": [4.0, 3.0, 2.0]}
    losses[slow] = [4.0, 3.0]
    train_step.check_losses(losses)
    losses[slow] = [4.0, 3.1]
    with pytest.raises(ValueError, match="at step 2"):
        train_step.check_losses(losses)


def test_a_loss_that_is_no_number_disagrees():
    with pytest.raises(ValueError, match="at step 1"):
        train_step.check_losses({"nanograd": [2.0], "torch": [math.nan]})


def test_a_peer_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        train_step.main(["--peers", "torhc"])
    assert stop.value.code == 2
    assert "torhc unknown; there are torch" in capsys.readouterr().err


def test_a_peer_that_is_not_installed_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(engines, "is_installed", lambda name: name == "tinygrad")
    monkeypatch.setattr(engines, "which", lambda name: None)
    assert train_step.can_run(["torch", "jax", "tinygrad"]) == []
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert "jax is left out: it is not installed" in said[1]
    assert "clang" in said[2]


class Broken:
    """A connection to an engine that fails: it answers as benchmarks.turns does."""

    def send(self, question: object) -> None:
        pass

    def recv(self) -> object:
        return "RuntimeError: no compiler", None


class Working(Broken):
    def recv(self) -> object:
        return None, ([5.0], [4.0], 100.0)


def test_a_peer_that_fails_at_once_is_left_out(capsys):
    found = train_step.first_steps(["nanograd", "torch-compile"], {"nanograd": Working(), "torch-compile": Broken()})
    assert list(found) == ["nanograd"]
    assert "torch-compile is left out: torch-compile: RuntimeError: no compiler" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no compiler"):
        train_step.first_steps(["nanograd"], {"nanograd": Broken()})


def test_a_file_that_cannot_be_written_is_found_before_measuring(tmp_path, capsys):
    path = tmp_path / "nowhere" / "steps.jsonl"
    assert terminal.run(train_step.main, ["--shape", "test", "--peers", "", "--json", str(path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"error: {path}: No such file or directory"


def test_ctrl_c_ends_all_engines(tmp_path):
    """One line, the code of a command that was interrupted, no engine left running, no file begun."""
    command = [*COMMAND, "--steps", "1000000", "--peers", "", "--json", str(tmp_path / "steps.jsonl")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr.readline().startswith("nanograd: first steps")
        engine = engines_of(child.pid)
        time.sleep(0.5)  # in the middle of a turn that would last for hours
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=300)
    assert (child.returncode, err) == (130, "interrupted\n")
    assert engine
    assert not [pid for pid in engine if runs(pid)]
    assert not list(tmp_path.iterdir())


def engines_of(pid: int) -> list[int]:
    """Processes that it started."""
    found = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=True)
    return [int(number) for number in found.stdout.split()]


def runs(pid: int) -> bool:
    """Not ended: a process that nobody has waited for is called a zombie, and does nothing."""
    for _ in range(600):  # multiprocessing's helper notices a moment later that it is alone
        try:
            if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return False
        except (FileNotFoundError, ProcessLookupError):
            return False
        time.sleep(0.1)
    return True


def measured(engine: str, shape: str, when: str, speed: float) -> dict[str, object]:
    times = {"ms": 10.0, "p10": 9.0, "p90": 12.0, "tokens_per_second": speed}
    rest = {"peak_mb": 300.0, "ratio": 1.0, "threads": 2, "machine": "a machine", "run": when}
    return {"engine": engine, "shape": shape, **times, **rest}


def test_the_picture(tmp_path):
    path = tmp_path / "steps.jsonl"
    lines = [measured(e, s, "today", 5.0) for e in ("nanograd", "torch") for s in ("A8k", "B")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert train_step.main(["--plot", str(path)]) == 0
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("text", "message"), [("", "no measurement"), ("[1", "no measurement"), ('{"a": 1}', "shape")])
def test_a_picture_of_something_else_is_refused(tmp_path, text, message):
    path = tmp_path / "steps.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        steps_picture.draw(path)


def test_the_picture_does_not_mix_runs():
    """An engine of an earlier run, perhaps on a busy machine, must not stand beside those of a later one."""
    early = [measured(engine, "A8k", "yesterday", 1.0) for engine in ("nanograd", "torch", "jax")]
    late = [measured(engine, "A8k", "today", 2.0) for engine in ("nanograd", "torch")]
    other = [measured("nanograd", "B", "yesterday", 3.0)]
    newest = steps_picture.newest_runs([*early, *other, *late], Path("steps.jsonl"))
    assert newest == {"A8k": late, "B": other}


def test_arithmetic_of_a_step():
    """6 × parameters in matrices × tokens, and attention's six products of T² C / 2 for each sequence and layer."""
    config, B = engines.SHAPES["test"]
    tokens, matrices = B * 16, 2 * 12 * 32 * 32 + 65 * 32
    assert engines.arithmetic(config, B) == pytest.approx(1e-9 * (6 * matrices * tokens + 2 * B * 6 * 16 * 16 * 32))
    assert config.n_layers == 2


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core is all there is")
def test_engines_get_the_threads_they_were_told(monkeypatch):
    for name in train_step.turns.THREADS:
        monkeypatch.setenv(name, "7")
    train_step.turns.set_threads(1)
    for module in ("numba", "torch") if train_step.turns.is_installed("torch") else ("numba",):
        code = f"import {module}; print({module}.get_num_threads())"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "1\n"


# Other benchmarks of training


def test_cost_against_context(tmp_path, monkeypatch):
    """Two contexts, one engine: the arithmetic grows by attention's part alone, and the picture can be drawn."""
    path = tmp_path / "context.jsonl"
    command = [sys.executable, "-m", "benchmarks.context", "--engines", "nanograd", "--tokens", "256", "--steps", "1"]
    done = subprocess.run([*command, "--threads", "1", "--json", str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    short, long = (json.loads(line) for line in path.read_text().splitlines())
    assert (short["context"], long["context"]) == (128, 256)
    assert (short["growth"], short["arithmetic_growth"], short["added_gflops"]) == (1, 1, None)
    c = context.MODEL
    assert long["gflop"] - short["gflop"] == pytest.approx(1e-9 * c.n_layers * 6 * c.d_model * 256 * 128)
    assert long["us_per_token"] == pytest.approx(1e3 * long["ms"] / 256)
    assert context.draw(path).read_bytes().startswith(b"\x89PNG")
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="not from benchmarks"):
        context.draw(path)


@pytest.mark.parametrize("flags", [["--engines", "torhc"], ["--tokens", "100"], ["--steps", "0"], ["--engines", ""]])
def test_context_refuses(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        context.main(flags)
    assert stop.value.code == 2
    assert "error" in capsys.readouterr().err


def can_bf16() -> bool:
    try:
        kernels.check_matmul_precision("bf16", "cpu")
    except ValueError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.usefixtures("twins")
@pytest.mark.skipif(not can_bf16(), reason="this CPU has no bf16 products")
def test_bf16_learns_as_well_as_float32(tmp_path, monkeypatch, capsys):
    """A shortened run of benchmarks.precision, in which a wrong product would show."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "precision.jsonl"
    assert precision.main(["--steps", "20", "--seeds", "3", "--json", str(path)]) == 0
    [record] = [json.loads(line) for line in path.read_text().splitlines()]
    for kind in ("validation", "training"):
        loss = record[kind]
        assert loss["off"] == pytest.approx(loss["bf16"] / loss["float32"] - 1)
        assert 0 < abs(loss["off"]) < precision.TOLERANCE, "0 would mean that both were computed in one precision"
        assert loss["float32"] < math.log(4096), "it has learned something"
    assert "seed 3, validation" in capsys.readouterr().out


def test_losses_that_are_too_far_apart_make_the_command_fail(monkeypatch, tmp_path):
    fine, far = ({"bf16": 5.0 * (1 + off), "float32": 5.0, "off": off} for off in (0.009, 0.011))
    for training, code in ((fine, 0), (far, 1)):
        found = [{"seed": 0, "steps": 1, "validation": fine, "training": training}]
        monkeypatch.setattr(precision, "compare", lambda config, seeds, found=found: found)
        assert precision.main([]) == code


# Operations alone


def test_every_operation_with_a_twin_is_measured():
    kernels.load()
    twinned = {op.name for op in vars(ops).values() if isinstance(op, Primitive) and op.twins}
    elsewhere = {"quantized_linear"}  # benchmarks.quantized: beside float32's products, one row at a time
    assert twinned - elsewhere | {"adamw"} == {subject.op for subject in op_subjects.SUBJECTS}


@pytest.mark.parametrize("subject", [s for s in op_subjects.SUBJECTS if s.op != "adamw"], ids=lambda s: s.name)
def test_pytorch_has_the_same_task(subject):
    """Its function computes the operation's value, so that times are of the same thing (dropout: of the same size)."""
    torch = pytest.importorskip("torch", reason="PyTorch is the peer: pip install 'nanograd[peers]'")
    arrays = subject.arrays()
    y = getattr(ops, subject.op)(*arrays, **subject.settings).data
    tensors = [torch.from_numpy(x) if hasattr(x, "dtype") else x for x in arrays]
    theirs = op_subjects.torch_functions(subject)[subject.op](*tensors).numpy()
    assert theirs.shape == y.shape
    if "dropout" not in subject.name:
        np.testing.assert_allclose(y, theirs, rtol=2e-3, atol=2e-3)


def test_twins_that_are_kept_off_are_not_measured(monkeypatch):
    monkeypatch.setenv("NANOGRAD_KERNELS", "0")
    with pytest.raises(ValueError, match="NANOGRAD_KERNELS=0"):
        benchmarks.ops.main(["--only", "relu", "--rounds", "1"])


def test_operations_are_compared(tmp_path):
    path = tmp_path / "ops.jsonl"
    command = [sys.executable, "-m", "benchmarks.ops", "--only", "gelu", "linear", "--rounds", "1", "--threads", "1"]
    done = subprocess.run([*command, "--json", str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    gelu, linear = (json.loads(line) for line in path.read_text().splitlines())
    assert (gelu["op"], gelu["limit"], linear["limit"]) == ("gelu", "bandwidth", "product peak")
    assert gelu["ratio"]["twin"] == 1
    assert gelu["ratio"]["formula"] == pytest.approx(gelu["ms"]["formula"] / gelu["ms"]["twin"])
    gflop, peak = 6e-9 * 2048 * 256 * 1024, linear["product_gflops"]
    assert linear["share_of_limit"] == pytest.approx(gflop / (linear["ms"]["twin"] / 1e3) / peak)
    at_the_limit = 5 * 4 * 2048 * 1024 / (1e9 * gelu["copy_gb_per_s"])
    assert gelu["share_of_limit"] == pytest.approx(at_the_limit / (gelu["ms"]["twin"] / 1e3))
