"""Loading the twins: when they run, where compiled code is kept, what a machine without a writable home does."""

import os
import subprocess
import sys

import numpy as np
import pytest

from nanograd import Tensor, backend, kernels, nn, ops

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
    total, folder = run(XDG_CACHE_HOME=str(tmp_path / "file"), TMPDIR=str(tmp_path))
    assert total == "8.0"
    assert folder.startswith(str(tmp_path / "nanograd-kernels-"))


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


@pytest.mark.slow
def test_the_warm_up_compiles_what_a_run_needs(tmp_path):
    config = '{"vocab_size": 64, "context_length": 8, "n_layers": 1, "n_heads": 1, "d_model": 8}'
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "nanograd.warm_up", config, "float32"], check=True, env=environment)
    compiled = {path.name.split("-")[0] for path in tmp_path.rglob("*.nbi")}
    assert {name.split(".")[0] for name in compiled} >= {"attention_tiles", "normalization", "activation", "loss"}
