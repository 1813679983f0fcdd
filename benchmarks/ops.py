"""Each operation alone, forward and backward: the formula, its compiled twin, and PyTorch where installed.

    python -m benchmarks.ops [--rounds 15] [--only layer_norm gelu] [--threads 2] [--json FILE]

Prints milliseconds (the median over rounds), ratios, and how near the twin is to the machine's limit. For products and
attention that is the product peak: their arithmetic against nanograd's product of two square matrices. For the rest it
is the memory's bandwidth: the bytes they cannot avoid to read and write, against what a copy on all threads moves in
the same time. Arrays that stay in the cache from one operation to the next may go beyond 100 %.
Every contestant has a process of its own; they take turns. All of them, PyTorch too, keep freed memory for their next
arrays: otherwise page faults would be compared. Gradients of weights are added to those that are there; PyTorch makes
new arrays each time.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import op_subjects, turns
from benchmarks.op_subjects import SUBJECTS, Run, Subject
from benchmarks.turns import Answer, ask, milliseconds, wake_up
from nanograd import kernels, terminal

CALLS = 3  # in a turn
Times = dict[tuple[int, str], list[float]]  # (number of the subject, contestant) → milliseconds
Record = dict[str, Any]


def prepare(contestant: str, threads: int) -> Answer:
    """A contestant's process: for a subject's number it runs it CALLS times and answers milliseconds."""
    from nanograd import backend

    backend.keep_freed_memory()
    if contestant == "torch":
        import torch

        from tests import torch_twin  # noqa: F401  it sets a number of threads when it is imported

        torch.set_num_threads(threads)
    elif contestant == "twin":
        kernels.load()
    runs: dict[int, Run] = {}

    def answer(question: Any) -> Any:
        if question == "limits":
            from nanograd.kernels.cpu.peak import product_peak

            return copy_bandwidth(), product_peak()
        if question not in runs:
            runs[question] = run_of(contestant, SUBJECTS[question])
            runs[question]()
        wake_up(runs[question])
        return [milliseconds(runs[question]) for _ in range(CALLS)]

    return answer


def run_of(contestant: str, subject: Subject) -> Run:
    """What one contestant does in one call."""
    if subject.op == "adamw":
        return op_subjects.torchs_optimizer(subject) if contestant == "torch" else op_subjects.our_optimizer(subject)
    return op_subjects.torchs(subject) if contestant == "torch" else op_subjects.ours(subject)


def copy_bandwidth(size: int = 1 << 25, repeats: int = 15) -> float:
    """10⁹ bytes per second, read and written together, that all threads copy from one large array to another."""
    from numba import njit, prange

    @njit(parallel=True)
    def copy(x: np.ndarray, y: np.ndarray) -> None:
        for i in prange(x.size):
            y[i] = x[i]

    x, y = np.ones((2, size), np.float32)
    copy(x, y)
    return 8e-6 * size / min(milliseconds(lambda: copy(x, y)) for _ in range(repeats))


def measure(numbers: Sequence[int], contestants: Sequence[str], rounds: int, threads: int) -> tuple[Times, list[float]]:
    """Times in turns; the machine's limits: GB/s of a copy, GFLOP/s of a product, the better of before and after."""
    times: Times = {(number, contestant): [] for number in numbers for contestant in contestants}
    with turns.processes(prepare, contestants, threads) as lines:
        limits = [ask("twin", lines["twin"], "limits")]
        for _ in range(rounds):
            for number, contestant in times:
                times[number, contestant] += ask(contestant, lines[contestant], number)
        limits.append(ask("twin", lines["twin"], "limits"))
    return times, [max(pair) for pair in zip(*limits, strict=True)]


def compare(times: Times, limits: Sequence[float], threads: int) -> list[Record]:
    """One record for each subject: median, p10 and p90 of every contestant, ratios to the twin, share of the limit."""
    (gb_per_s, gflops), context = limits, {"threads": threads, "machine": turns.machine()}
    context["run"] = datetime.now().astimezone().isoformat(timespec="seconds")
    found = []
    for number in dict.fromkeys(number for number, _ in times):
        subject = SUBJECTS[number]
        of = {contestant: np.array(values) for (n, contestant), values in times.items() if n == number}
        ms = {contestant: float(np.median(values)) for contestant, values in of.items()}
        at_the_limit = 1e3 * subject.gflop / gflops if subject.gflop else 1e-6 * subject.bytes() / gb_per_s
        record: Record = {
            "op": subject.name,
            "inputs": [list(x) if isinstance(x, tuple) else None if x is None else "integers" for x in subject.inputs],
            "ms": ms,
            "p10": {contestant: float(np.percentile(values, 10)) for contestant, values in of.items()},
            "p90": {contestant: float(np.percentile(values, 90)) for contestant, values in of.items()},
            "ratio": {contestant: value / ms["twin"] for contestant, value in ms.items()},
            "limit": "product peak" if subject.gflop else "bandwidth",
            "share_of_limit": at_the_limit / ms["twin"],
            "copy_gb_per_s": gb_per_s,
            "product_gflops": gflops,
        }
        found.append(record | context)
    return found


def show(found: list[Record], contestants: list[str]) -> None:
    """The table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    first = found[0]
    limits = f"a copy moves {first['copy_gb_per_s']:.0f} GB/s, a product makes {first['product_gflops']:.0f} GFLOP/s"
    table = Table(title=f"forward + backward, ms; {first['threads']} threads, {first['machine']}: {limits}")
    others = [contestant for contestant in contestants if contestant != "twin"]
    for heading in ("operation", *contestants, *(f"{other} / twin" for other in others), "of the limit", ""):
        table.add_column(heading, justify="left" if heading in ("operation", "") else "right", no_wrap=True)
    for record in found:
        ms = [f"{record['ms'][contestant]:.2f}" for contestant in contestants]
        ratios = [f"{record['ratio'][other]:.2f} ×" for other in others]
        table.add_row(record["op"], *ms, *ratios, f"{record['share_of_limit']:.0%}", record["limit"])
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, append. Raises ValueError if the environment keeps the twins off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contestant (default 15)")
    names = [subject.name for subject in SUBJECTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="OP", help=", ".join(names))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default: all cores")
    parser.add_argument("--json", type=Path, help="append one line for each operation to this file")
    options = parser.parse_args(argv)
    if options.rounds < 1 or options.threads < 1:
        parser.error(f"--rounds {options.rounds} and --threads {options.threads} must be 1 or more")
    turns.check_kernels()
    turns.check_appendable(options.json)
    turns.set_threads(options.threads)
    contestants = ["formula", "twin", *(["torch"] if turns.is_installed("torch") else [])]
    numbers = [number for number, name in enumerate(names) if name in options.only]
    found = compare(*measure(numbers, contestants, options.rounds, options.threads), options.threads)
    show(found, contestants)
    turns.append(options.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(terminal.run(main))
