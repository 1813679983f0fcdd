"""What the engine charges for one operation, beside its arithmetic: a chain of × and + on 8×8 arrays.

    python -m benchmarks.op_overhead

Prints microseconds per operation, forward and backward together: the median over repeats, and the best in brackets.
The contestants take turns, so that a machine that slows down slows all of them. torch is measured where installed.
"""

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

from nanograd import ops
from nanograd.tensor import Tensor, no_grad

CHAIN, REPEATS = 100, 200  # operations in a chain; how often each contestant runs it


def with_nanograd() -> None:
    """The chain as a user writes it; two leaves receive all their gradients in place."""
    y = X
    for _ in range(CHAIN // 2):
        y = ops.add(ops.mul(y, W), X)
    y.backward(DY)


def without_graph() -> None:
    """The same forward inside no_grad: twice, so that it counts as many operations as a forward and a backward."""
    with no_grad():
        for _ in range(2):
            y = X
            for _ in range(CHAIN // 2):
                y = ops.add(ops.mul(y, W), X)


def with_numpy_alone() -> None:
    """The arithmetic alone: the same values and gradients, written out by hand."""
    x, w, seen = X.data, W.data, []
    y = x
    for _ in range(CHAIN // 2):
        seen.append(y)
        y = y * w + x
    dy, dx, dw = DY, np.zeros_like(x), np.zeros_like(w)
    for y in reversed(seen):
        dx += dy
        dw += dy * y
        dy = dy * w
    dx += dy


def torch_contestant() -> Callable[[], None]:
    """The same chain in PyTorch, on one thread."""
    import torch

    torch.set_num_threads(1)
    x, w = (torch.from_numpy(t.data.copy()).requires_grad_() for t in (X, W))
    dy = torch.from_numpy(DY)

    def with_torch() -> None:
        y = x
        for _ in range(CHAIN // 2):
            y = torch.add(torch.mul(y, w), x)
        y.backward(dy)

    return with_torch


def measure(contestants: list[Callable[[], None]]) -> dict[str, list[float]]:
    """name → microseconds per operation, one number for each repeat."""
    times: dict[str, list[float]] = {contestant.__name__: [] for contestant in contestants}
    for _ in range(REPEATS):
        for contestant in contestants:
            start = time.perf_counter()
            contestant()
            times[contestant.__name__].append((time.perf_counter() - start) * 1e6 / CHAIN)
    return times


def main() -> None:
    """Measure and print a table."""
    contestants = [with_nanograd, without_graph, with_numpy_alone]
    if find_spec("torch"):
        contestants.append(torch_contestant())
    times = measure(contestants)
    ours = statistics.median(times["with_nanograd"])
    print("µs per operation (8×8 float32), forward and backward: median (best), and its ratio to nanograd's")
    for name, found in times.items():
        median = statistics.median(found)
        print(f"{name.replace('_', ' '):18} {median:6.2f} ({min(found):5.2f})  {median / ours:5.2f}×")


X, W = (Tensor(np.full((8, 8), value, np.float32), requires_grad=True) for value in (0.1, 0.9))
DY = np.ones((8, 8), np.float32)

if __name__ == "__main__":
    main()
