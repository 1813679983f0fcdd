"""The matrix product alone at the shapes of a training step: ours, NumPy's (OpenBLAS), and PyTorch's where installed.

    python -m benchmarks.gemm [--precision float32|bf16] [--rounds 15] [--threads 2] [--only forward] [--best]

Prints GFLOP/s (of the median call), ratios, and the share of the peak: what the micro-kernel alone reaches on data in
the first-level cache, on all threads. "large and square" is the best that whole products reach; `product_peak` in
nanograd/kernels/cpu/peak.py measures that in a fifth of a second. For each linear layer (tokens × in → out) there are
three products: forward x Wᵀ + b, input gradient dy W, and weight gradient W.grad += dyᵀ x. In bf16, PyTorch runs under
autocast. Every contestant has a process of its own, because idle threads of one may spin on the cores of another. They
take turns, so that a machine that slows down slows all of them. --json appends one line per product to a file.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.turns import settle, wake_up

LAYERS = {  # tokens, in, out
    "width 256: query, key, value": (2048, 256, 768),
    "width 256: up": (2048, 256, 1024),
    "width 256: down": (2048, 1024, 256),
    "width 256: head, a chunk": (512, 256, 8192),
    "width 128: up": (768, 128, 512),
    "width 768: up": (256, 768, 3072),
    "large and square": (2048, 2048, 2048),
    "decoding, one sequence": (1, 768, 3072),
    "decoding, eight sequences": (8, 768, 3072),
}
KINDS = ("forward", "input gradient", "weight gradient")
PEAK = ("peak", "peak")
CALLS = 4  # in a turn
Subject = tuple[str, str]  # layer, kind
Run = Callable[[], Any]


def operations(subject: Subject) -> float:
    """Additions and multiplications, in units of 10⁹."""
    tokens, d_in, d_out = LAYERS[subject[0]]
    return 2e-9 * tokens * d_in * d_out


def arrays(subject: Subject) -> dict[str, np.ndarray]:
    """The same for every contestant."""
    tokens, d_in, d_out = LAYERS[subject[0]]
    rng = np.random.default_rng(0)
    shapes = {"x": (tokens, d_in), "w": (d_out, d_in), "b": (d_out,), "y": (tokens, d_out), "dy": (tokens, d_out)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def ours(subject: Subject, precision: Any) -> Run:
    """nanograd.kernels.cpu.gemm.product"""
    from nanograd.kernels.cpu.gemm import product

    a, kind = arrays(subject), KINDS.index(subject[1])
    x, w, b, y, dy = a.values()
    dx, dw = np.empty_like(x), np.zeros_like(w)
    runs: list[Run] = [
        lambda: product(x, w, y, transpose_b=True, bias=b, precision=precision),
        lambda: product(dy, w, dx, precision=precision),
        lambda: product(dy, x, dw, transpose_a=True, accumulate=True, precision=precision),
    ]
    return runs[kind]


def numpy_s(subject: Subject) -> Run:
    """np.matmul into an array that is there; without a beta, adding takes a second pass"""
    a, kind = arrays(subject), KINDS.index(subject[1])
    x, w, b, y, dy = a.values()
    dx, dw, more = np.empty_like(x), np.zeros_like(w), np.empty_like(w)
    runs: list[Run] = [
        lambda: np.add(np.matmul(x, w.T, out=y), b, out=y),
        lambda: np.matmul(dy, w, out=dx),
        lambda: np.add(dw, np.matmul(dy.T, x, out=more), out=dw),
    ]
    return runs[kind]


def torch_s(subject: Subject, precision: str) -> Run:
    """addmm, into arrays that are there; in bf16 what autocast does: operands cast, the result in bf16"""
    import torch

    kind = KINDS.index(subject[1])
    x, w, b, y, dy = (torch.from_numpy(a) for a in arrays(subject).values())
    dx, dw = torch.empty_like(x), torch.zeros_like(w)
    if precision == "bf16":
        half = torch.bfloat16
        dy = dy.to(half)  # autocast's gradients arrive in bf16
        return [
            lambda: torch.nn.functional.linear(x.to(half), w.to(half), b.to(half)),
            lambda: dy @ w.to(half),
            lambda: dw.add_(dy.T @ x.to(half)),
        ][kind]
    return [
        lambda: torch.addmm(b, x, w.T, out=y),
        lambda: torch.mm(dy, w, out=dx),
        lambda: dw.addmm_(dy.T, x),
    ][kind]


def micro_kernel_alone(precision: str, repeats: int = 20_000) -> Run:
    """Every thread multiplies one tile that stays in its first-level cache."""
    from numba import get_num_threads, njit, prange

    from nanograd.kernels.cpu.micro_kernel import TILE_COLUMNS, TILE_ROWS, multiply_tile
    from nanograd.kernels.cpu.support import aligned_empty

    threads, steps, stride = get_num_threads(), PEAK_STEPS, PEAK_STEPS + 16
    lanes = np.float32 if precision == "float32" else np.uint32
    a, b = aligned_empty((threads, TILE_ROWS * stride), lanes), aligned_empty((threads, steps * TILE_COLUMNS), lanes)
    a[:], b[:], out = 0, 0, np.zeros((threads, TILE_ROWS, TILE_COLUMNS), np.float32)

    @njit(parallel=True)
    def run(a: np.ndarray, b: np.ndarray, out: np.ndarray, address: int) -> None:
        for t in prange(threads):
            at = address + t * 4 * TILE_ROWS * TILE_COLUMNS
            absent = (at, TILE_COLUMNS, 0)
            for _ in range(repeats):
                tile = (at, TILE_COLUMNS, TILE_ROWS, TILE_COLUMNS)
                multiply_tile(a[t], (0, stride, 1), b[t], 0, steps, tile, absent, absent)

    return lambda: run(a, b, out, out.ctypes.data)


PEAK_STEPS = 256


def peak_operations(precision: str, threads: int, repeats: int = 20_000) -> float:
    return 2e-9 * 12 * 32 * PEAK_STEPS * repeats * threads * (1 if precision == "float32" else 2)


def prepare(contestant: str, subject: Subject, precision: str) -> Run:
    """What one contestant does in one call."""
    if subject == PEAK:
        return micro_kernel_alone(precision)
    if contestant == "numpy":
        return numpy_s(subject)
    return torch_s(subject, precision) if contestant == "torch" else ours(subject, precision)


def serve(contestant: str, threads: int, precision: str, connection: Connection) -> None:
    """A contestant's process: for each subject that it receives, it runs CALLS times and answers seconds."""
    if contestant == "torch":
        import torch

        torch.set_num_threads(threads)
    runs: dict[Subject, Run] = {}
    while (subject := connection.recv()) is not None:
        if subject not in runs:
            runs[subject] = prepare(contestant, subject, precision)
            runs[subject]()
        wake_up(runs[subject])
        connection.send([_seconds(runs[subject]) for _ in range(CALLS)])


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(
    subjects: list[Subject], contestants: list[str], rounds: int, threads: int, precision: str, best: bool
) -> dict[tuple[Subject, str], float]:
    """(subject, contestant) → seconds of the median call, or of the best; taken in turns."""
    context, lines = multiprocessing.get_context("spawn"), {}
    for contestant in contestants:
        lines[contestant], theirs = context.Pipe()
        context.Process(target=serve, args=(contestant, threads, precision, theirs), daemon=True).start()
    turns = [(subject, contestant) for subject in subjects for contestant in contestants] + [(PEAK, "ours")]
    times: dict[tuple[Subject, str], list[float]] = {turn: [] for turn in turns}
    for _ in range(rounds):
        for subject, contestant in turns:
            settle()
            lines[contestant].send(subject)
            times[subject, contestant] += lines[contestant].recv()
    for line in lines.values():
        line.send(None)
    times[PEAK, "ours"] = [min(times[PEAK, "ours"])]  # it is a limit
    return {turn: min(values) if best else statistics.median(values) for turn, values in times.items()}


def records(seconds: dict[tuple[Subject, str], float], precision: str, threads: int) -> list[dict[str, Any]]:
    """One for each product: GFLOP/s of every contestant, our ratio to each, our share of the peak."""
    peak = peak_operations(precision, threads) / seconds[PEAK, "ours"]
    found = []
    for subject in dict.fromkeys(subject for subject, _ in seconds if subject != PEAK):
        rates = {c: operations(subject) / value for (s, c), value in seconds.items() if s == subject}
        ratio = {c: rates["ours"] / rate for c, rate in rates.items()}
        record = {"layer": subject[0], "kind": subject[1], "shape": LAYERS[subject[0]], "precision": precision}
        found.append(record | {"threads": threads, "gflops": rates, "ratio": ratio, "peak": peak})
    return found


def show(found: list[dict[str, Any]], contestants: list[str]) -> None:
    """The table on the terminal."""
    first = found[0]
    print(f"GFLOP/s, {first['precision']}, {first['threads']} threads; peak {first['peak']:.0f}")
    headings = [*contestants, *(f"/ {c}" for c in contestants[1:]), "of peak"]
    print(f"{'':48}" + "".join(f"{heading:>9}" for heading in headings))
    for record in found:
        rates = "".join(f"{record['gflops'][c]:9.0f}" for c in contestants)
        ratios = "".join(f"{record['ratio'][c]:8.2f}×" for c in contestants[1:])
        share = record["gflops"]["ours"] / record["peak"]
        print(f"{record['layer'] + ', ' + record['kind']:48}{rates}{ratios}{share:9.0%}")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="products whose name contains this")
    parser.add_argument("--best", action="store_true", help="of the fastest call: for a machine that has other work")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # read by the contestants' processes, when they import
    contestants = ["ours", "numpy", *(["torch"] if find_spec("torch") else [])]
    subjects = [(layer, kind) for layer in LAYERS for kind in KINDS[: 3 if LAYERS[layer][0] > 8 else 1]]
    subjects = [subject for subject in subjects if options.only in ", ".join(subject)]
    seconds = measure(subjects, contestants, options.rounds, options.threads, options.precision, options.best)
    found = records(seconds, options.precision, options.threads)
    show(found, contestants)
    if options.json:
        with options.json.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in found)


if __name__ == "__main__":
    main()
