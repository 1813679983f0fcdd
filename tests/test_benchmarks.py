"""The benchmark of a training step on a tiny shape: what it writes, and what it refuses. No time is judged."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import train_step

ROOT = Path(__file__).parents[1]
FIELDS = {
    "engine",
    "shape",
    "ms",
    "p10",
    "p90",
    "tokens_per_second",
    "peak_mb",
    "losses",
    "ratio",
    "threads",
    "machine",
}


def run(tmp_path: Path, *flags: str) -> list[dict[str, object]]:
    """The command, in a process of its own: it sets the number of threads for good. Returns the lines of --json."""
    path = tmp_path / "steps.jsonl"
    command = [sys.executable, "-m", "benchmarks.train_step", "--shape", "test", "--steps", "3", "--threads", "1"]
    done = subprocess.run([*command, "--json", str(path), *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "tokens/s" in done.stdout
    return [json.loads(line) for line in path.read_text().splitlines()]


def check(record: dict[str, object]) -> None:
    assert set(record) == FIELDS
    assert 0 < record["p10"] <= record["ms"] <= record["p90"]
    assert record["tokens_per_second"] == pytest.approx(1e3 * 2 * 16 / record["ms"])
    assert 10 < record["peak_mb"] < 10_000
    assert len(record["losses"]) == train_step.WARM_UP + 3
    assert record["losses"][0] == pytest.approx(math.log(65), rel=0.05), "a new model knows nothing"
    assert record["losses"][4] < record["losses"][0], "batches come round again, and the fifth was the first"


def test_without_peers(tmp_path):
    [record] = run(tmp_path, "--peers", "")
    check(record)
    assert (record["engine"], record["shape"], record["ratio"], record["threads"]) == ("nanograd", "test", None, 1)


def test_beside_torch(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is the peer: pip install 'nanograd[peers]'")
    ours, torch = run(tmp_path, "--peers", "torch")
    for record in (ours, torch):
        check(record)
    assert [ours["engine"], torch["engine"], torch["ratio"]] == ["nanograd", "torch", 1]
    assert ours["ratio"] == pytest.approx(torch["ms"] / ours["ms"])
    assert ours["losses"] == pytest.approx(torch["losses"], rel=1e-3)


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


def test_a_loss_that_is_no_number_disagrees():
    with pytest.raises(ValueError, match="at step 1"):
        train_step.check_losses({"nanograd": [2.0], "torch": [math.nan]})


def test_a_peer_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit):
        train_step.main(["--peers", "torhc"])
    assert "torhc unknown; there are torch" in capsys.readouterr().err


def test_a_peer_that_is_not_installed_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(train_step, "find_spec", lambda name: None)
    assert train_step.installed(["torch", "jax"]) == []
    assert capsys.readouterr().err.count("left out") == 2


def test_the_picture(tmp_path):
    path = tmp_path / "steps.jsonl"
    lines = [{"engine": e, "shape": s, "tokens_per_second": 5.0} for e in ("nanograd", "torch") for s in ("A8k", "B")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert train_step.main(["--plot", str(path)]) == 0
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")
    path.write_text("")
    with pytest.raises(ValueError, match="holds no measurement"):
        train_step.draw(path)
