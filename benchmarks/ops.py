"""Each operation alone, forward and backward: the formula, its compiled twin, and PyTorch where installed.

    python -m benchmarks.ops [--rounds 15] [--only layer_norm gelu] [--json FILE]

Prints milliseconds (the median over rounds), ratios, and how much of the memory bandwidth the twin used: the bytes it
cannot avoid to read and write, against what a copy on all threads moves in the same time. Arrays that stay in the cache
from one operation to the next, as they do here and in a training step, may go beyond 100 %.
Every contestant has a process of its own, because idle threads of one may spin on the cores of another. They take
turns, so that a machine that slows down slows all of them. All of them, PyTorch too, keep freed memory for their next
arrays: otherwise page faults would be compared. The embedding's gradient is added to the one that is there; PyTorch
makes an array for all of the vocabulary each time. --json appends one line per operation to a file.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

ROWS, PARAMETERS = 2048, 11_000_000
CALLS = 4  # in a turn; the first only brings the arrays back into the cache
Run = Callable[[], Any]


@dataclass(frozen=True)
class Subject:
    """One operation on arrays of these shapes; `passes` is how often memory of the first one's size must be moved."""

    op: str
    shapes: tuple[tuple[int, ...], ...]
    passes: int
    settings: dict[str, Any]
    integers: int = 0  # if positive: a last array of ROWS integers below it
    label: str = ""

    @property
    def name(self) -> str:
        """What --only and the table call it."""
        return self.label or self.op

    def arrays(self) -> list[Any]:
        """The same for every contestant; integers are drawn as words are, some often and most seldom."""
        rng = np.random.default_rng(0)
        arrays: list[Any] = [rng.standard_normal(shape, np.float32) for shape in self.shapes]
        if self.integers:
            share = 1 / np.arange(1, self.integers + 1)
            arrays.append(rng.choice(self.integers, ROWS, p=share / share.sum()))
        return arrays

    def bytes(self) -> int:
        """What the operation cannot avoid to move, forward and backward together."""
        width = 4 * (ROWS * self.shapes[0][1] if self.shapes[0][1:] else PARAMETERS)
        return self.passes * width


NARROW, WIDE = (ROWS, 256), (ROWS, 1024)
SUBJECTS = [
    Subject("layer_norm", (NARROW, (256,), (256,)), 5, {}),
    Subject("rms_norm", (NARROW, (256,)), 5, {}),
    Subject("gelu", (WIDE,), 5, {}),
    Subject("gelu", (WIDE,), 5, {"approximate": "tanh"}, label="gelu_tanh"),
    Subject("silu", (WIDE,), 5, {}),
    Subject("relu", (WIDE,), 5, {}),
    Subject("softmax", (WIDE,), 5, {}),
    Subject("log_softmax", (WIDE,), 5, {}),
    Subject("dropout", (WIDE,), 4, {"p": 0.1, "key": (1, 2)}),
    Subject("embedding", ((50257, 256),), 5, {}, integers=50257),
    Subject("cross_entropy", ((ROWS, 8192),), 3, {}, integers=8192),
    Subject("adamw", ((PARAMETERS,),), 9, {}, label="clip_and_adamw"),
]


def prepare(contestant: str, subject: Subject) -> Run:
    """What one contestant does in one call."""
    if contestant == "torch":
        return _torch_optimizer(subject) if subject.op == "adamw" else _torch_op(subject)
    return _our_optimizer(subject, contestant) if subject.op == "adamw" else _our_op(subject, contestant)


def _our_op(subject: Subject, contestant: str) -> Run:
    """The pair of functions itself; gradients of weights are added where they belong, as in training."""
    from nanograd import ops

    op, arrays = getattr(ops, subject.op), subject.arrays()
    rule = op.formula if contestant == "formula" else op.twins[np][0]
    needs = tuple(x.dtype == np.float32 for x in arrays)
    into: Any = tuple(np.zeros_like(x) if x.dtype == np.float32 else None for x in arrays)
    extra = {"into": into} if rule.accumulates else {}
    dy = np.random.default_rng(1).standard_normal(rule.forward(np, *arrays, **subject.settings)[0].shape, np.float32)

    def run() -> None:
        _, saved = rule.forward(np, *arrays, **subject.settings)
        gradients = rule.backward(np, dy, *saved, needs=needs, **extra, **subject.settings)
        if subject.op == "embedding" and not rule.accumulates:
            np.add(into[0], gradients[0], out=into[0])  # what the engine does with it

    return run


def _our_optimizer(subject: Subject, contestant: str) -> Run:
    from nanograd import backend
    from nanograd.nn import Module, Parameter
    from nanograd.optim import AdamW, FlatParameters, clip_scale

    module = Module()
    module.weight = Parameter(subject.arrays()[0].reshape(-1, 1000))
    flat = FlatParameters(module)
    optimizer = AdamW(flat)

    def run() -> None:
        flat.gradients[:1000] = 1
        _, scale = clip_scale(flat, 1.0)
        optimizer.step(1e-3, scale=scale, zero_grad=True)

    def with_formulas() -> None:
        with backend.formulas_only():
            run()

    return with_formulas if contestant == "formula" else run


def _torch_op(subject: Subject) -> Run:
    import torch
    from torch.nn import functional

    arrays = [torch.from_numpy(x).requires_grad_(x.dtype == np.float32) for x in subject.arrays()]
    wanted = [x for x in arrays if x.requires_grad]
    functions: dict[str, Callable[..., Any]] = {
        "layer_norm": lambda x, w, b: functional.layer_norm(x, w.shape, w, b),
        "rms_norm": lambda x, w: functional.rms_norm(x, w.shape, w),
        "softmax": lambda x: functional.softmax(x, -1),
        "log_softmax": lambda x: functional.log_softmax(x, -1),
        "dropout": lambda x, p, key: functional.dropout(x, p),
        "embedding": lambda w, ids: functional.embedding(ids, w),
    }
    function = functions.get(subject.op) or getattr(functional, subject.op)
    dy = torch.randn(function(*arrays, **subject.settings).shape)
    return lambda: torch.autograd.grad(function(*arrays, **subject.settings), wanted, dy)


def _torch_optimizer(subject: Subject) -> Run:
    import torch

    weight = torch.nn.Parameter(torch.from_numpy(subject.arrays()[0]))
    optimizer = torch.optim.AdamW([weight], lr=1e-3, fused=True)
    weight.grad = torch.zeros_like(weight)

    def run() -> None:
        weight.grad[:1000] = 1  # type: ignore[index]
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return run


def serve(contestant: str, threads: int, connection: Connection) -> None:
    """A contestant's process: for each subject's number it receives, it runs CALLS times and answers milliseconds."""
    from nanograd import backend

    backend.keep_freed_memory()
    if contestant == "torch":
        import torch

        torch.set_num_threads(threads)
    else:
        from nanograd.kernels.cpu import activation, dropout, indexing, normalization, optim, softmax  # noqa: F401

    runs: dict[int, Run] = {}
    while (number := connection.recv()) is not None:
        if number not in runs:
            runs[number] = prepare(contestant, SUBJECTS[number])
            runs[number]()
        connection.send([_milliseconds(runs[number]) for _ in range(CALLS)][1:])


def _milliseconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def copy_bandwidth(size: int = 1 << 25, repeats: int = 15) -> float:
    """Bytes per second, read and written together, that all threads copy from one large array to another."""
    from numba import njit, prange

    @njit(parallel=True)
    def copy(x: np.ndarray, y: np.ndarray) -> None:
        for i in prange(x.size):
            y[i] = x[i]

    x, y = np.ones((2, size), np.float32)
    copy(x, y)
    return 8 * size / (min(_milliseconds(lambda: copy(x, y)) for _ in range(repeats)) / 1e3)


def measure(
    numbers: list[int], contestants: list[str], rounds: int, threads: int
) -> dict[tuple[int, str], list[float]]:
    """(subject, contestant) → milliseconds, in turns."""
    context, processes, lines = multiprocessing.get_context("spawn"), [], {}
    for contestant in contestants:
        lines[contestant], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(contestant, threads, theirs), daemon=True))
        processes[-1].start()
    times: dict[tuple[int, str], list[float]] = {(n, c): [] for n in numbers for c in contestants}
    for _ in range(rounds):
        for number, contestant in times:
            lines[contestant].send(number)
            times[number, contestant] += lines[contestant].recv()
    for contestant in contestants:
        lines[contestant].send(None)
    for process in processes:
        process.join()
    return times


def records(times: dict[tuple[int, str], list[float]], bandwidth: float, threads: int) -> list[dict[str, Any]]:
    """One for each subject: median, p10 and p90 of every contestant, ratios to the twin, share of the bandwidth."""
    found = []
    for number in dict.fromkeys(number for number, _ in times):
        subject = SUBJECTS[number]
        of = {contestant: sorted(values) for (n, contestant), values in times.items() if n == number}
        ms = {contestant: statistics.median(values) for contestant, values in of.items()}
        found.append(
            {
                "op": subject.name,
                "shapes": subject.shapes,
                "threads": threads,
                "ms": ms,
                "p10": {contestant: values[len(values) // 10] for contestant, values in of.items()},
                "p90": {contestant: values[-1 - len(values) // 10] for contestant, values in of.items()},
                "ratio": {contestant: value / ms["twin"] for contestant, value in ms.items()},
                "bandwidth_share": subject.bytes() / (ms["twin"] / 1e3) / bandwidth,
                "copy_gb_per_s": bandwidth / 1e9,
                "machine": platform.machine(),
            }
        )
    return found


def show(found: list[dict[str, Any]], contestants: list[str]) -> None:
    """The table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    title = f"forward + backward, ms; {found[0]['threads']} threads, a copy moves {found[0]['copy_gb_per_s']:.0f} GB/s"
    table = Table(title=title)
    others = [contestant for contestant in contestants if contestant != "twin"]
    for heading in ("operation", *contestants, *(f"{other} / twin" for other in others), "of bandwidth"):
        table.add_column(heading, justify="left" if heading == "operation" else "right")
    for record in found:
        ms = [f"{record['ms'][contestant]:.2f}" for contestant in contestants]
        ratios = [f"{record['ratio'][other]:.2f} ×" for other in others]
        table.add_row(record["op"], *ms, *ratios, f"{record['bandwidth_share']:.0%}")
    Console().print(table)


def main(argv: list[str] | None = None) -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contestant (default 15)")
    names = [subject.name for subject in SUBJECTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="OP", help=", ".join(names))
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--json", type=Path, help="append one line for each operation to this file")
    arguments = parser.parse_args(argv)
    for variable in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(arguments.threads)
    contestants = ["formula", "twin", *(["torch"] if find_spec("torch") else [])]
    numbers = [number for number, name in enumerate(names) if name in arguments.only]
    before = copy_bandwidth()
    times = measure(numbers, contestants, arguments.rounds, arguments.threads)
    found = records(times, max(before, copy_bandwidth()), arguments.threads)
    show(found, contestants)
    if arguments.json is not None:
        with arguments.json.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in found)


if __name__ == "__main__":
    main()
