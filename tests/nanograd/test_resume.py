"""A run in pieces ends as the run in one piece: weights, optimizer, metrics; and what must not be resumed is not."""

import os
import shutil
import subprocess
import sys

import pytest

from nanograd import sample, terminal, train
from nanograd.io.run_checkpoints import all_checkpoints, best_checkpoint
from nanograd.settings import PRESETS
from tests.nanograd.same_runs import CHANCE, same_end
from tests.nanograd.small_runs import fails, records


@pytest.fixture(scope="module")
def in_one_go(flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    assert terminal.run(train.main, [*flags, *CHANCE, "--out", str(out)]) == 0
    return out


def resume(out, *extra):
    assert terminal.run(train.main, ["--resume", "--out", str(out), *extra]) == 0


def begin(flags, out, *extra):
    assert terminal.run(train.main, [*flags, *CHANCE, "--out", str(out), *extra]) == 0
    return out


@pytest.mark.parametrize("pauses", [[1], [5], [11], [2, 3, 7, 8], [12]])
def test_a_run_in_pieces_equals_the_run_in_one_go(flags, in_one_go, tmp_path, pauses):
    out = begin(flags, tmp_path / "run", "--pause-at", str(pauses[0]))
    for pause in pauses[1:]:
        resume(out, "--pause-at", str(pause))
        assert records(out)[-1]["step"] == pause
    resume(out)
    same_end(out, in_one_go)


@pytest.mark.parametrize(
    "extra",
    [
        ["--optimizer", "muon", "--ema-decay", "0.9", "--schedule", "wsd"],
        ["--optimizer", "adafactor"],
        ["--optimizer", "sgd", "--layout", "packed", "--prefetch", "2"],
        ["--optimizer", "lion", "--fuse-optimizer", "--clip-norm", "0", "--accumulate", "1"],
        ["--no-tie-embeddings", "--freeze-embeddings"],
    ],
)
def test_every_optimizer_and_loader_goes_on_as_if_nothing_had_been(flags, tmp_path, extra):
    whole = begin(flags, tmp_path / "whole", *extra)
    out = begin(flags, tmp_path / "run", *extra, "--pause-at", "7")
    resume(out)
    same_end(out, whole)


def test_what_was_done_after_the_checkpoint_is_done_again_and_recorded_once(flags, in_one_go, tmp_path):
    """As after a kill: metrics.jsonl, weights and a half-written checkpoint are ahead of the last whole one."""
    out = begin(flags, tmp_path / "run", "--pause-at", "9")
    with (out / "metrics.jsonl").open("ab") as metrics:
        metrics.write(b'{"step":10,"loss":5.0}\n{"step":11,"lo')
    half = out / "checkpoints" / ".step-00000010.abc"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    (out / ".model.safetensors.abc").write_bytes(b"half")
    (out / "model.safetensors").write_bytes((in_one_go / "model.safetensors").read_bytes())
    resume(out)
    same_end(out, in_one_go)
    assert list(out.rglob(".*")) == []


def test_a_finished_run_is_left_as_it_is_and_can_be_made_longer(flags, in_one_go, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(in_one_go, out)
    (out / "loss.png").unlink()
    resume(out)
    same_end(out, in_one_go)
    assert (out / "loss.png").exists()
    resume(out, "--steps", "14")
    assert "14 steps in place of 12" in capsys.readouterr().err
    assert [r["step"] for r in records(out)] == list(range(1, 15))


def test_settings_come_from_the_run_and_others_are_refused_by_name(flags, in_one_go, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(in_one_go, out)
    argv = ["--resume", "--out", str(out)]
    changes = ["--lr", "0.5", "--batch-size", "2"]
    before = PRESETS["tiny"].optim.lr
    fails(train.main, [*argv, *changes], f"batch_size: 4 → 2; optim.lr: {before} → 0.5", capsys)
    fails(train.main, [*argv, "--steps", "11"], "steps: 12 → 11", capsys)
    fails(train.main, [*argv, "--steps", "11", "--resume-changed"], "has taken 12 steps already", capsys)
    fails(train.main, [*argv, "--d-model", "32", "--resume-changed"], "shape", capsys)
    same_end(out, in_one_go)
    resume(out, "--resume-changed", "--steps", "13", *changes)
    assert records(out)[-1]["lr"] == pytest.approx(0.05)
    assert "resuming with changes: batch_size: 4 → 2" in capsys.readouterr().err


def test_other_data_or_another_tokenizer_is_refused(flags, in_one_go, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(in_one_go, out)
    texts = tmp_path / "texts"
    shutil.copytree(flags[flags.index("--data") + 1], texts)
    argv = ["--resume", "--out", str(out), "--data", str(texts)]
    assert terminal.run(train.main, argv) == 0, "the same text elsewhere is the same data"
    (texts / "00.txt").write_text("quite other words, jumping, zigzagging " * 50)
    fails(train.main, [*argv, "--resume-changed"], "trained with another tokenizer", capsys)


def test_resume_none_is_not_to_resume(flags, in_one_go, capsys):
    fails(train.main, [*flags, "--resume=None", "--out", str(in_one_go)], "is there already and not empty", capsys)


def test_without_a_checkpoint_there_is_nothing_to_resume_but_auto_starts_afresh(flags, in_one_go, tmp_path, capsys):
    out = tmp_path / "run"
    fails(train.main, ["--resume", *flags], "--resume needs --out", capsys)
    fails(train.main, ["--resume", "--out", str(out)], "is not a folder", capsys)
    settings = tmp_path / "settings.toml"
    settings.write_text('resume = "newest"\n')
    fails(train.main, [*flags, "--config", str(settings), "--out", str(out)], "--resume belongs on the command", capsys)
    out.mkdir()
    fails(train.main, ["--resume", "--out", str(out)], "holds no checkpoint", capsys)
    for name in (
        "train.log",
        "config.toml",
        "config.json",
        "tokenizer.json",
        "metrics.jsonl",
        ".loss.png.x",
        "loss.png",
    ):
        (out / name).write_text("of a run that was killed early")
    (out / "checkpoints" / ".step-00000005.x").mkdir(parents=True)
    (out / "tensorboard").mkdir()
    begin(flags, out, "--resume", "auto")
    same_end(out, in_one_go)
    assert list(out.rglob(".*")) == []


def test_auto_never_deletes_what_is_no_run_s(flags, tmp_path, capsys):
    for name in ("notes.txt", "model.safetensors"):
        out = tmp_path / name.partition(".")[0]
        out.mkdir()
        (out / name).write_text("precious")
        fails(train.main, [*flags, "--resume", "auto", "--out", str(out)], "there already and not empty", capsys)
        assert (out / name).read_text() == "precious"


def test_metrics_that_somebody_changed_are_told(flags, in_one_go, tmp_path, capsys):
    out = begin(flags, tmp_path / "run", "--pause-at", "7")
    (out / "metrics.jsonl").write_text("short\n")
    fails(train.main, ["--resume", "--out", str(out)], "metrics.jsonl was changed", capsys)


def test_a_second_trainer_is_refused_and_a_dead_one_is_not_waited_for(flags, tmp_path, capsys):
    out = begin(flags, tmp_path / "run", "--pause-at", "2")
    script = f"""
import time
from pathlib import Path
from nanograd.io.run_folder import held
with held(Path({str(out)!r})):
    print("held", flush=True)
    time.sleep(600)
"""
    other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    holder = f"process {other.pid} on {os.uname().nodename}"
    try:
        fails(train.main, ["--resume", "--out", str(out)], f"is in use by {holder}", capsys)
    finally:
        other.kill()
        other.communicate()
    assert (out / "train.lock").exists()
    resume(out, "--pause-at", "3")
    assert not (out / "train.lock").exists()


def test_the_best_and_the_newest_and_every_tenth_checkpoint_are_kept(flags, tmp_path):
    out = tmp_path / "run"
    argv = [*flags, "--steps", "33", "--checkpoint-every", "3", "--keep", "3", "--keep-every", "10", "--lr", "0.3"]
    assert terminal.run(train.main, [*argv, "--out", str(out)]) == 0
    measured = {r["step"]: r["val_loss"] for r in records(out) if "val_loss" in r}
    best = min(measured, key=measured.get)
    expected = {10, 20, 30, 33, best}
    steps = [int(folder.name[5:]) for folder in all_checkpoints(out)]
    assert best_checkpoint(out).name == f"step-{best:08}"
    assert set(steps) >= expected
    assert len(set(steps) - {10, 20, 30, best}) <= 3
    assert terminal.run(sample.main, [str(best_checkpoint(out)), "--max-new-tokens", "2"]) == 0, "each is a model"


@pytest.mark.slow
def test_one_thread_and_then_two_end_with_the_same_bits_and_a_warning(flags, tmp_path):
    """Not promised for every shape, so that it is told; but no kernel of these sums in an order of its threads."""

    def in_process(threads, *argv):
        command = [sys.executable, "-m", "nanograd.train", *argv]
        environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        return done.stderr

    whole, out = tmp_path / "whole", tmp_path / "run"
    in_process(2, *flags, *CHANCE, "--out", str(whole))
    in_process(1, *flags, *CHANCE, "--pause-at", "6", "--out", str(out))
    assert "the last bits may differ" in (err := in_process(2, "--resume", "--out", str(out)))
    assert "threads: 1 → 2" in err
    same_end(out, whole)
