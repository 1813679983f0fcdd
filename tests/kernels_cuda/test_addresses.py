"""The tests of every kernel once more under AddressSanitizer: no thread leaves what is its block's to read or write."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanograd.kernels.cuda.emulation import EmulationError, find_compiler

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
FAMILIES = sorted(path.name for path in HERE.glob("test_cuda_*.py"))


@pytest.fixture(scope="module")
def sanitizer() -> str:
    """The library that has to be in the process before Python's own memory is handed out."""
    pytest.importorskip("cupy")
    try:
        asked = [*find_compiler(), "-print-file-name=libasan.so"]
    except EmulationError as error:
        pytest.skip(str(error))
    path = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    if not Path(path).is_absolute():
        pytest.skip("this compiler has no libasan.so")
    return path


def under_sanitizer(library: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps what it has until the end
        "EMULATOR_FLAGS": "-fsanitize=address -g -O1",
    }
    return subprocess.run(
        [sys.executable, *command], env=environment, cwd=HERE.parents[1], capture_output=True, text=True
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_no_kernel_leaves_its_memory(sanitizer, family):
    options = ["-x", "-q", "-p", "no:xdist", "-k", "ascending and not skew"]
    done = under_sanitizer(sanitizer, "-m", "pytest", *options, str(HERE / family))
    assert done.returncode == 0, done.stdout + done.stderr


PLANTED = """
from tests.kernels_cuda.test_emulator import run, zeros
run("shared_one_too_short", zeros(128), threads=128, flags=("-fsanitize=address", "-g", "-O1"))
"""


def test_a_shared_array_that_is_too_short_is_reported_with_its_line(sanitizer):
    done = under_sanitizer(sanitizer, "-c", PLANTED)
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert "shared_one_too_short" in done.stderr
    assert "faults.cu:" in done.stderr
