"""Floor 6. Programs that are run beside: the tests that need a GPU, compute-sanitizer, the peer in PyTorch."""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from nanograd.gpucheck.budget import LeftOutError, OutOfTimeError
from nanograd.gpucheck.history import ROOT

TESTS = ["-q", "-p", "no:cacheprovider", "--device", "cuda", "-m", "cuda"]
SANITIZED = "softmax or layer_norm or cross_entropy"  # a hundredth of the speed: a small set


def run(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """A program in the project's folder. Raises OutOfTimeError, LeftOutError."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise OutOfTimeError from None
    except OSError as error:
        raise LeftOutError(f"{command[0]}: {error.strerror}") from None


def last_line(text: str) -> str:
    """Of what a program printed."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "").strip()


def gpu_tests(seconds: float) -> dict[str, Any]:
    """Every operation, kernel and model that tests/ compares with the CPU. Raises RuntimeError if one differs."""
    if not (ROOT / "tests").is_dir() or importlib.util.find_spec("pytest") is None:
        raise LeftOutError("the tests are not here: run it in a clone, with pip install -e '.[test]'")
    done = run([sys.executable, "-m", "pytest", *TESTS, "tests"], seconds)
    said = last_line(done.stdout)
    if done.returncode:
        raise RuntimeError(f"tests on the GPU, exit code {done.returncode}: {said or last_line(done.stderr)}")
    return {"pytest": said}


def sanitizer(seconds: float) -> dict[str, Any]:
    """memcheck and racecheck over a few of these tests. Raises RuntimeError for what they find."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        raise LeftOutError("compute-sanitizer is not here: it comes with the CUDA toolkit")
    said = {}
    for check in ("memcheck", "racecheck"):
        command = [tool, "--tool", check, "--error-exitcode", "9", sys.executable, "-m", "pytest", *TESTS]
        done = run([*command, "-k", SANITIZED, "tests"], seconds / 2)
        said[check] = last_line(done.stdout)
        if done.returncode == 9:
            raise RuntimeError(f"{check}: {said[check]}")
    return said


def peer(seconds: float, *arguments: str) -> dict[str, Any]:
    """What benchmarks/gpu_peer.py measures: PyTorch on the same card, in a process of its own."""
    if importlib.util.find_spec("torch") is None or not (ROOT / "benchmarks" / "gpu_peer.py").exists():
        raise LeftOutError("PyTorch is not installed here, or this is no clone")
    done = run([sys.executable, "-m", "benchmarks.gpu_peer", *arguments], seconds)
    if done.returncode:
        raise RuntimeError(f"PyTorch: {last_line(done.stderr)}")
    figures: dict[str, Any] = json.loads(last_line(done.stdout))
    return figures
