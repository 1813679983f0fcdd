"""What int8 weights cost and save when one token is read: y = x Wᵀ for one row x, float32 beside int8.

    OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python -m benchmarks.quantized          half a minute, one thread

Both are timed in turn; the median of each counts. The time is that of reading the weights, so a matrix that fits into
no cache gains most. float32 is BLAS's, or our own product's, whichever is faster.
"""

import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np

from nanograd import kernels, ops
from nanograd.ops.quantized import encoded
from nanograd.tensor import no_grad

SHAPES = [(768, 768), (3072, 768), (768, 3072), (4096, 4096), (16384, 4096)]  # (out, in): GPT-2's, and larger


def seconds_in_turn(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median of each, over rounds in which all have one call."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def compare(out: int, width: int, rounds: int) -> dict[str, float]:
    """Seconds for one row of x: BLAS, our product, int8's formula and its twin."""
    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal((out, width), np.float32), rng.standard_normal((1, width), np.float32)
    codes, scale = encoded(weight, "int8")
    calls: dict[str, Callable[[], object]] = {
        "BLAS": lambda: x @ weight.T,
        "ours": lambda: ops.linear(x, weight),
        "int8": lambda: ops.quantized_linear(x, codes, scale),
    }
    for call in calls.values():
        call()  # compiled, and the memory is there
    return seconds_in_turn(calls, rounds)


def table(shapes: list[tuple[int, int]], rounds: int) -> Iterator[str]:
    """A line for each shape."""
    yield f"{'out × in':>14}{'BLAS µs':>10}{'ours µs':>10}{'int8 µs':>10}   int8 is faster by"
    for out, width in shapes:
        found = compare(out, width, rounds)
        ratio = min(found["BLAS"], found["ours"]) / found["int8"]
        times = "".join(f"{1e6 * found[name]:>10.0f}" for name in ("BLAS", "ours", "int8"))
        yield f"{f'{out} × {width}':>14}{times}   {ratio:.2f} ×"


def main() -> None:
    """Print the table."""
    kernels.load()
    with no_grad():
        for line in table(SHAPES, 60):
            print(line, flush=True)


if __name__ == "__main__":
    main()
