"""No race: every parallel twin again and again on the same input.

The process has four threads, on whatever number of cores: the fewer cores, the more often one thread is interrupted
in the middle of a row while another goes on.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from nanograd import ops
from nanograd.testing import Case, value_and_gradients
from tests.nanograd.test_twins import LARGE

B, T, C, V = 4, 70, 96, 700
CASES = [
    *LARGE,
    Case(ops.linear, (B * T, C), (4 * C, C), (4 * C,)),
    Case(ops.matmul, (B * T, C), (C, 4 * C)),
    Case(ops.packed_attention, (B, T, 3 * C), None, n_heads=4, causal=True),
    Case(
        ops.packed_attention,
        (B, T, 3 * C),
        None,
        np.arange(T) // 30 * 30,
        n_heads=4,
        causal=True,
        slopes=(1, 0.5, 0.2, 0),
    ),
    Case(ops.linear_cross_entropy, (B, T, C), (V, C), None, np.arange(B * T).reshape(B, T) % V),
    Case(ops.embedding, (V, C), np.arange(B * T) % 7),
]
TIMES = 25
ROOT = Path(__file__).parents[2]


def digest(case: Case) -> str:
    """Of the value and of all gradients."""
    y, gradients = value_and_gradients(lambda *tensors: case.call(tensors), case.draw(dtype=np.float32))
    joined = b"".join(np.ascontiguousarray(x).tobytes() for x in [y, *gradients] if x is not None)
    return hashlib.sha256(joined).hexdigest()


def print_digests(times: int) -> None:
    """What a process of its own does: for each case the different results of `times` calls."""
    from nanograd import kernels

    kernels.load()
    print(json.dumps({f"{i}: {case!r}": sorted({digest(case) for _ in range(times)}) for i, case in enumerate(CASES)}))


def digests(times: int) -> dict[str, Any]:
    """Of a process with four threads."""
    threads = {"NUMBA_NUM_THREADS": "4", "OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1"}
    code = f"from tests.nanograd.test_no_race import print_digests; print_digests({times})"
    settings = os.environ | threads
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=settings, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_no_race():
    for case, results in digests(TIMES).items():
        assert len(results) == 1, f"{case}: {len(results)} different results of {TIMES} calls"
