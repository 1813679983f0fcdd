"""Loading the twins: when they run, where compiled code is kept, what a machine without a writable home does."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from nanograd import Tensor, backend, kernels, nn, ops
from nanograd.kernels import compilation
from nanograd.optim_settings import OptimConfig

LAYER_NORM = """
import numpy as np
from nanograd import kernels, ops
kernels.load()
x = np.ones((2, 4), np.float32)
print(ops.layer_norm(x, x[0], x[0]).numpy().sum())
import numba
print(numba.config.CACHE_DIR)
"""


def run(**environment):
    done = subprocess.run(
        [sys.executable, "-c", LAYER_NORM], capture_output=True, text=True, env=environment, check=True
    )
    return done.stdout.split()


def test_compiled_code_is_kept_in_the_user_s_cache(tmp_path):
    assert run(XDG_CACHE_HOME=str(tmp_path), HOME="/nonexistent")[0] == "8.0"
    [folder] = (tmp_path / "nanograd").iterdir()
    assert folder.name.startswith("kernels-")
    assert any(folder.rglob("*.nbi"))


def test_an_unwritable_cache_is_no_obstacle(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR"):
        total, folder = run(**{name: str(tmp_path / "file"), "TMPDIR": str(tmp_path)})
        assert total == "8.0"
        assert folder.startswith(str(tmp_path / "nanograd-kernels-"))
        assert not Path(folder).exists(), "a temporary folder goes when the process does"


def test_a_folder_of_the_user_s_choice_is_kept(tmp_path):
    assert run(NUMBA_CACHE_DIR=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "other"))[1] == str(tmp_path)


WAITING = """
import os, sys
from nanograd import kernels
kernels.load()
print(*(os.environ.get(name) for name in sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("theirs", "found"),
    [
        ({}, ["None", "1000", "1", "10"]),
        ({"OMP_WAIT_POLICY": "active"}, ["active", "None", "None", "10"]),
        ({"GOMP_SPINCOUNT": "7", "OPENBLAS_THREAD_TIMEOUT": "4"}, ["None", "7", "1", "4"]),
    ],
)
def test_how_threads_wait_is_set_unless_the_user_has_set_it(theirs, found):
    names = ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OPENBLAS_THREAD_TIMEOUT"]
    environment = {name: value for name, value in os.environ.items() if name not in names} | theirs
    command = [sys.executable, "-c", WAITING, *names]
    assert subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.split() == found


IMPORT = """
import os, sys
class Spy:
    def find_spec(name, path=None, target=None):
        if name == "numpy":
            print(os.environ.get("OPENBLAS_THREAD_TIMEOUT"))
sys.meta_path.insert(0, Spy)
import nanograd
"""


def test_openblas_hears_of_it_before_numpy_is_imported():
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_THREAD_TIMEOUT"}
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["10"]


def test_twins_wait_until_they_are_loaded(twins):
    x = Tensor(np.ones((2, 4), np.float32), requires_grad=True)
    norm = nn.LayerNorm(4)
    assert norm(x).node.rule is not ops.layer_norm.formula
    with backend.formulas_only():
        assert norm(x).node.rule is ops.layer_norm.formula


def test_the_environment_can_keep_twins_off(twins, monkeypatch):
    monkeypatch.setenv("NANOGRAD_KERNELS", "0")
    kernels.load()
    assert not backend.kernels_enabled()


def test_the_memory_estimate_knows_how_many_logits_are_held():
    from nanograd import memory
    from nanograd.kernels.cpu import loss

    assert memory.CHUNK == loss.CHUNK


MODEL = {"vocab_size": 64, "context_length": 8, "n_layers": 1, "n_heads": 1, "d_model": 8}


def kind(*, model=MODEL, optimizer="adamw", matmul_precision="float32", layout="windows"):
    """JSON of a nanograd.warm_up.Kind."""
    optim = msgspec.to_builtins(OptimConfig(optimizer=optimizer).resolved(accumulate=1))
    return json.dumps({"model": model, "optim": optim, "matmul_precision": matmul_precision, "layout": layout})


SMALLEST = kind()


@pytest.fixture
def code_folder(tmp_path, monkeypatch):
    """Compiled code is kept there, in the processes that are started too."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    compilation.code_folder.cache_clear()
    yield tmp_path
    compilation.code_folder.cache_clear()


def parts(kind=SMALLEST, *, monkeypatch):
    """What `compile_elsewhere` would start."""
    with monkeypatch.context() as patch:
        patch.setattr(compilation, "Compilation", list)
        return kernels.compile_elsewhere(kind)


def test_each_kind_of_run_is_compiled_once(code_folder, monkeypatch):
    assert parts(monkeypatch=monkeypatch) == ["attention and norms", "products"]
    compilation.note_compiled("attention and norms", SMALLEST)
    assert parts(monkeypatch=monkeypatch) == ["products"]
    compilation.note_compiled("products", SMALLEST)
    assert parts(monkeypatch=monkeypatch) is None
    assert parts(kind(model={**MODEL, "vocab_size": 65}), monkeypatch=monkeypatch) is None


@pytest.mark.parametrize(
    "other",
    [
        {"matmul_precision": "bf16"},
        {"layout": "packed"},
        {"optimizer": "lion"},
        {"model": {**MODEL, "dropout": 0.1}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_kind_of_run_is_compiled_apart(other, code_folder, monkeypatch):
    for part in compilation.PARTS:
        compilation.note_compiled(part, SMALLEST)
    assert parts(kind(**other), monkeypatch=monkeypatch) == ["attention and norms", "products"]
    compilation.note_compiled("products", kind(**other))
    assert parts(kind(**other), monkeypatch=monkeypatch) == ["attention and norms"]


def test_every_twin_is_in_one_part():
    files = {path.stem for path in (Path(kernels.__file__).parent / "cpu").glob("*.py")}
    named = [name for names in compilation.PARTS.values() for name in names]
    registering = {
        stem for stem in files if ".twin(np" in (Path(kernels.__file__).parent / f"cpu/{stem}.py").read_text()
    }
    assert len(named) == len(set(named))
    assert registering <= set(named) <= files


def test_a_compiler_that_fails_is_named_and_stops_nothing(code_folder, caplog, monkeypatch):
    nonsense = kind(model={"n_heads": "three"})
    compiling = kernels.compile_elsewhere(nonsense)
    compiling.wait()
    assert [record.args[0] for record in caplog.records] == ["attention and norms", "products"]
    assert "n_heads" in caplog.text
    assert parts(nonsense, monkeypatch=monkeypatch), "tried again next time"


def test_no_process_for_a_compiler_stops_nothing(code_folder, caplog, monkeypatch):
    def no_more(*arguments, **settings):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(compilation.subprocess, "Popen", no_more)
    assert kernels.compile_elsewhere(SMALLEST) is None
    assert "temporarily unavailable" in caplog.text


def test_where_only_one_process_can_be_started_it_is_ended(code_folder, monkeypatch):
    start, started = subprocess.Popen, []

    def only_one(*arguments, **settings):
        if started:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        started.append(start(*arguments, **settings))
        return started[0]

    monkeypatch.setattr(compilation.subprocess, "Popen", only_one)
    assert kernels.compile_elsewhere(SMALLEST) is None
    assert started[0].returncode == -signal.SIGKILL


@pytest.mark.parametrize("end", ["kill", "forget"])
def test_no_compiler_outlives_its_run(code_folder, end):
    compiling = kernels.compile_elsewhere(SMALLEST)
    if end == "kill":
        compiling.kill()
    else:  # as when the run is killed: the system closes what it held
        for process in compiling.processes.values():
            process.stdin.close()
    for process in compiling.processes.values():
        with process:
            assert process.wait(timeout=300) != 0


@pytest.mark.parametrize("chosen", [False, True])
def test_a_full_disk_is_no_place_for_compiled_code(chosen, tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(compilation, "cache_folder", lambda: tmp_path / "full")
    if chosen:
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "full"))
    monkeypatch.setattr(compilation.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 0))
    monkeypatch.setattr(compilation.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "elsewhere"))
    compilation.code_folder.cache_clear()
    assert compilation.code_folder() == tmp_path / "elsewhere"
    assert bool(caplog.records) == chosen
    compilation.code_folder.cache_clear()


@pytest.mark.slow
def test_the_warm_up_compiles_what_a_run_needs(code_folder):
    compiling = kernels.compile_elsewhere(SMALLEST)
    compiling.wait()
    assert kernels.compile_elsewhere(SMALLEST) is None
    compiled = {path.name.split(".")[0] for path in code_folder.rglob("*.nbi")}
    assert compiled >= {"attention_tiles", "normalization", "activation", "indexing"}


@pytest.mark.slow
def test_the_warm_up_compiles_the_optimizer(code_folder):
    """Even if this model has so few parameters that its run would leave them to the formulas."""
    compiling = kernels.compile_elsewhere(kind(optimizer="muon"))
    compiling.wait()
    assert {"optim", "newton_schulz"} <= {path.name.split(".")[0] for path in code_folder.rglob("*.nbi")}
