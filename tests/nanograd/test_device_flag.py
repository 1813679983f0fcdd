"""--device: every command where a model runs, on a stand-in for a GPU, with the results of the CPU."""

import json
import shutil
import tomllib

import numpy as np
import pytest

from nanograd import backend, evaluate, kernels, plot, sample, terminal, train
from nanograd.io.arrays import read_arrays
from tests.nanograd.small_runs import fails, records


@pytest.fixture
def own_copy(finished, tmp_path):
    """Of a finished run: maps of attention are drawn into its folder."""
    return shutil.copytree(finished, tmp_path / "finished")


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_training_is_the_same_on_both_devices_and_saves_which_one_it_was(precision, flags, tmp_path, capsys):
    runs = tmp_path / "cpu", tmp_path / "auto"
    for run in runs:
        extra = ["--device", run.name, "--precision", precision, "--recompute-blocks", "--dropout", "0.1"]
        assert terminal.run(train.main, [*flags, *extra, "--out", str(run)]) == 0
    assert "device: cuda (the first GPU)" in capsys.readouterr().err
    assert [tomllib.loads((run / "config.toml").read_text())["device"] for run in runs] == ["cpu", "cuda"]
    ours, theirs = (read_arrays(run / "model.safetensors") for run in runs)
    for name, weight in ours.items():
        np.testing.assert_allclose(theirs[name], weight, rtol=1e-3, atol=1e-3 if precision != "float32" else 1e-5)
    for a, b in zip(records(runs[0]), records(runs[1]), strict=True):
        assert abs(a["loss"] - b["loss"]) < 1e-3 * a["loss"]


@pytest.mark.usefixtures("stand_in")
def test_a_trained_model_answers_the_same_on_both_devices(own_copy, flags, tmp_path, capsys):
    corpus, answers = flags[flags.index("--data") + 1], []
    for device in ("cpu", "cuda"):
        commands = [
            (sample.main, [str(own_copy), "--seed", "3", "--max-new-tokens", "8"]),
            (evaluate.main, [str(own_copy), "--data", corpus, "--split", "val", "--json"]),
            (plot.main, [str(own_copy), "--attention", "the cat", "--out", str(tmp_path / "loss.png")]),
        ]
        said = []
        for main, argv in commands:
            assert terminal.run(main, [*argv, "--device", device]) == 0
            said.append(capsys.readouterr().out)
        answers.append((said[0], json.loads(said[1])["loss"], said[2]))
    assert answers[0][0] == answers[1][0]
    assert abs(answers[0][1] - answers[1][1]) < 1e-5
    assert answers[0][2] == answers[1][2]


@pytest.mark.parametrize("main", [train.main, sample.main, evaluate.main, plot.main])
def test_a_device_that_is_not_there_is_one_line(main, finished, tmp_path, capsys, monkeypatch):
    def none(device):
        raise backend.DeviceError(f"device {device!r} is not there")

    monkeypatch.setattr(backend, "check_device", none)
    argv = ["--out", str(tmp_path / "x")] if main is train.main else [str(finished)]
    argv += {evaluate.main: ["--data", "-"], plot.main: ["--attention", "the"]}.get(main, [])
    fails(main, [*argv, "--device", "cuda:7"], "device 'cuda:7' is not there", capsys)


def test_auto_without_a_gpu_is_the_cpu_and_says_why(finished, monkeypatch, capsys):
    monkeypatch.setattr(backend, "choose_device", lambda: ("cpu", "no NVIDIA driver"))
    assert terminal.run(sample.main, [str(finished), "--max-new-tokens", "1", "--seed", "1"]) == 0
    assert capsys.readouterr().err == "device: cpu (no NVIDIA driver)\n"


@pytest.mark.usefixtures("stand_in")
def test_the_second_gpu_is_worked_on_and_not_only_filled(own_copy, flags, tmp_path, capsys):
    """CuPy makes new arrays, and launches kernels, on the thread's current device: the first, unless it is told."""
    corpus = flags[flags.index("--data") + 1]
    for main, argv in [
        (sample.main, [str(own_copy), "--max-new-tokens", "4"]),
        (evaluate.main, [str(own_copy), "--data", corpus, "--split", "val", "--json"]),
        (plot.main, [str(own_copy), "--attention", "the cat", "--out", str(tmp_path / "loss.png")]),
        (train.main, [*flags, "--out", str(tmp_path / "run")]),
    ]:
        backend.work_on("cuda:0")
        assert terminal.run(main, [*argv, "--device", "cuda:1"]) == 0, capsys.readouterr().err
    assert backend.cuda_module("cuda").cuda.runtime.getDevice() == 1


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(("device", "loaded"), [("cpu", []), ("cuda", [{"device": "cuda"}])])
def test_a_text_is_written_by_the_kernels_of_a_gpu(device, loaded, finished, monkeypatch):
    """CuPy refuses to have its own products recorded: without the kernels no token's step could be a CUDA graph."""
    calls = []
    monkeypatch.setattr(kernels, "load", lambda **settings: calls.append(settings))
    assert terminal.run(sample.main, [str(finished), "--max-new-tokens", "1", "--device", device]) == 0
    assert calls == loaded
