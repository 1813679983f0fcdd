"""The tests of the kernels are tested: with a bug planted into a copy of the kernels, they have to fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nanograd.kernels.cuda.sources import FOLDER
from tests.kernels_cuda.mutations import MUTATIONS, Mutation

HERE = Path(__file__).parent
FAILED = 1  # pytest's exit code for failed tests; no tests, or a mistake in them, have others


def run_tests(test: str, kernels: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The tests of the kernels in that folder, each compiled for itself and without optimizing, which takes longer."""
    environment = {**os.environ, "KERNELS_UNDER_TEST": str(kernels), "XDG_CACHE_HOME": str(kernels / "cache")}
    environment["EMULATOR_FLAGS"] = "-O0"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:xdist", *options, str(HERE / test)]
    return subprocess.run(command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True)


def copy_of_kernels(folder: Path) -> Path:
    for path in [*FOLDER.glob("*.cu"), *FOLDER.glob("*.h")]:
        shutil.copy(path, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.file}: {mutation.name}")
def test_a_planted_bug_is_caught(mutation: Mutation, tmp_path: Path) -> None:
    source = copy_of_kernels(tmp_path) / mutation.file
    text = source.read_text(encoding="utf-8")
    source.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    done = run_tests(mutation.test, tmp_path)
    assert done.returncode == FAILED, f"nobody noticed\n{done.stdout}"
    assert f"{mutation.file} failed:" not in done.stdout, f"it does not compile\n{done.stdout}"


def test_each_bug_is_in_one_place_of_a_file():
    """Without a look at the other files a bug would be planted twice, or not at all."""
    for mutation in MUTATIONS:
        text = (FOLDER / mutation.file).read_text(encoding="utf-8")
        assert text.count(mutation.old) == 1, f"{mutation.file}: {mutation.name}"
        assert (HERE / mutation.test.partition("::")[0]).exists(), mutation.test


@pytest.mark.slow
def test_without_a_bug_the_copy_passes(tmp_path):
    done = run_tests("test_cuda_softmax.py", copy_of_kernels(tmp_path))
    assert done.returncode == 0, done.stdout
