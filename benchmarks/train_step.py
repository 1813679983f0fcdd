"""A whole training step: the same GPT, weights and batches in nanograd and in each installed peer.

    python -m benchmarks.train_step --shape A50k|A8k|B|C --precision float32|bf16|both
        [--peers torch,torch-bf16,torch-compile,torch-compile-bf16,jax,tinygrad]
        [--steps 20] [--threads 2] [--json FILE]
    python -m benchmarks.train_step --plot FILE     draws the newest run of each shape in FILE into a PNG beside it

Every engine has a process of its own and the same number of threads; they take turns. Where other programs run, set
OMP_WAIT_POLICY=passive: PyTorch's threads spin while they wait, which seems to cost them most beside a busy neighbour.
An engine's first steps, in which it compiles, are shown but not among the times. One that needs ten times as long as
the first engine takes one step a turn.

No time is believed before the losses agree: at every step to 1e-3 between two engines that compute in float32, else
to 2 %. `ratio` is the time of the fastest peer over that of the engine, `ratio_float32` the same among the engines
that compute in float32. `share_of_peak` compares the step's arithmetic with nanograd's product of two square matrices,
which does nothing else.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import turns
from benchmarks.engines import OURS, PEERS, SHAPES, arithmetic, prepare, version_of, why_not
from benchmarks.steps_picture import draw
from benchmarks.turns import ContestantError, Lines, ask, say
from nanograd import kernels, terminal

TURNS = 5
FIRST_STEPS = 3  # in which engines compile and memory is first touched: their losses count, their times don't
SLOW = 10  # times the first engine's step: then one step a turn is enough
TOLERANCE, BF16_TOLERANCE = 1e-3, 2e-2
Record = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, check, print, append; or draw. Raises ValueError where engines disagree."""
    options = parse(argv)
    if options.plot is not None:
        print(draw(options.plot))
        return 0
    turns.check_kernels()
    turns.check_appendable(options.json)
    precisions = list(OURS) if options.precision == "both" else [options.precision]
    for precision in precisions:
        kernels.check_matmul_precision(precision, "cpu")
    turns.set_threads(options.threads)
    engines = [*(OURS[precision] for precision in precisions), *can_run(options.peers)]
    run = measure(engines, options.shape, options.steps, options.threads)
    check_losses({engine: found.losses for engine, found in run.items()})
    records = [record | {"shape": options.shape, "threads": options.threads} for record in compare(run, options.shape)]
    show(records)
    turns.append(options.json, records)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line. Unknown names end the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    visible = "{" + ",".join(name for name in SHAPES if name != "test") + "}"
    parser.add_argument("--shape", choices=list(SHAPES), default="A8k", metavar=visible)
    parser.add_argument("--precision", choices=[*OURS, "both"], default="float32", help="of nanograd's products")
    parser.add_argument("--peers", help=f"of {', '.join(PEERS)} (default: all that can run here; empty: none)")
    parser.add_argument("--steps", type=int, default=20, help=f"that are timed, after {FIRST_STEPS} that are not")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default: all cores")
    parser.add_argument("--json", type=Path, help="append one line per engine to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw what --json wrote, and measure nothing")
    options = parser.parse_args(argv)
    options.peers = PEERS if options.peers is None else [name for name in options.peers.split(",") if name]
    if unknown := set(options.peers) - set(PEERS):
        parser.error(f"--peers: {', '.join(sorted(unknown))} unknown; there are {', '.join(PEERS)}")
    if options.steps < 1 or options.threads < 1:
        parser.error(f"--steps {options.steps} and --threads {options.threads} must be 1 or more")
    return options


def can_run(peers: Sequence[str]) -> list[str]:
    """The peers that can run here; a line for each of the others."""
    reasons = {peer: why_not(peer) for peer in dict.fromkeys(peers)}
    for peer, reason in reasons.items():
        if reason is not None:
            say(f"{peer} is left out: {reason}")
    return [peer for peer, reason in reasons.items() if reason is None]


class Found:
    """What was seen of one engine."""

    def __init__(self) -> None:
        self.first_ms: list[float] = []
        self.ms: list[float] = []
        self.losses: list[float] = []
        self.peak_mb = 0.0
        self.product_peak: float | None = None  # GFLOP/s; None for a peer

    def take(self, engine: str, lines: Lines, steps: int, times: list[float]) -> None:
        """Have the engine take `steps` steps, whose milliseconds go to `times`."""
        ms, losses, self.peak_mb = ask(engine, lines[engine], steps)
        times += ms
        self.losses += losses


Run = dict[str, Found]  # engine → what was seen of it


def measure(engines: Sequence[str], shape: str, steps: int, threads: int) -> Run:
    """Steps in turns, and each round begins with another engine. A peer that fails in its first steps is left out."""
    counts = [len(part) for part in np.array_split(np.arange(steps), min(TURNS, steps))]
    with turns.processes(prepare, engines, shape, threads) as lines:
        run = first_steps(engines, lines)
        for turn, count in enumerate(counts):
            first = turn % len(run)
            for engine in [*list(run)[first:], *list(run)[:first]]:
                slow = run[engine].first_ms[-1] > SLOW * run[engines[0]].first_ms[-1]
                run[engine].take(engine, lines, 1 if slow else count, run[engine].ms)
        for engine in set(run) & set(OURS.values()):
            run[engine].product_peak = ask(engine, lines[engine], "product peak")
    return run


def first_steps(engines: Sequence[str], lines: Lines) -> Run:
    """Those that compile; one line for each engine."""
    run: Run = {}
    for engine in engines:
        found = Found()
        try:
            found.take(engine, lines, FIRST_STEPS, found.first_ms)
        except ContestantError as error:
            if engine in OURS.values():
                raise
            say(f"{engine} is left out: {error}")
            continue
        run[engine] = found
        say(f"{engine}: first steps {', '.join(f'{ms / 1e3:.2f}' for ms in found.first_ms)} s")
    return run


def check_losses(losses: dict[str, list[float]]) -> None:
    """Raise ValueError unless all engines compute the same: to TOLERANCE at every step, with bf16 to BF16_TOLERANCE."""
    reference = min(losses, key=in_bf16)  # the first that computes in float32, if any
    for engine, found in losses.items():
        expected = np.array(losses[reference][: len(found)])
        tolerance = BF16_TOLERANCE if in_bf16(engine) or in_bf16(reference) else TOLERANCE
        off = np.abs(np.array(found[: len(expected)]) - expected) / np.abs(expected)
        if not (off <= tolerance).all():  # so written, NaN is a disagreement too
            step = int(np.argmax(~(off <= tolerance)))
            raise ValueError(
                f"the losses disagree, so no time counts: at step {step + 1} {engine} has {found[step]:.6f}, "
                f"{reference} {expected[step]:.6f}; allowed are {tolerance:.1%}"
            )


def in_bf16(engine: str) -> bool:
    """Whether its products are."""
    return engine.endswith("-bf16")


def compare(run: Run, shape: str) -> list[Record]:
    """What a line of --json holds, one for each engine."""
    config, B = SHAPES[shape]
    ms = {engine: float(np.median(found.ms)) for engine, found in run.items()}
    peers = {engine: ms[engine] for engine in ms if engine not in OURS.values()}
    fastest = min(peers.values(), default=None)
    fastest_float32 = min((peers[engine] for engine in peers if not in_bf16(engine)), default=None)
    context = {"machine": turns.machine(), "run": datetime.now().astimezone().isoformat(timespec="seconds")}
    return [
        {
            "engine": engine,
            "ms": ms[engine],
            "p10": float(np.percentile(found.ms, 10)),
            "p90": float(np.percentile(found.ms, 90)),
            "tokens_per_second": 1e3 * B * config.context_length / ms[engine],
            "peak_mb": found.peak_mb,
            "losses": found.losses,
            "ratio": fastest and fastest / ms[engine],
            "ratio_float32": None if in_bf16(engine) else fastest_float32 and fastest_float32 / ms[engine],
            "share_of_peak": found.product_peak and 1e3 * arithmetic(config, B) / ms[engine] / found.product_peak,
            "first_steps_ms": found.first_ms,
            "version": version_of(engine),
            **context,
        }
        for engine, found in run.items()
    ]


def show(records: list[Record]) -> None:
    """The table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    first = records[0]
    table = Table(title=f"training step, shape {first['shape']}, {first['threads']} threads, {first['machine']}")
    for heading in ("engine", "ms", "p10", "p90", "tokens/s", "peak MB", "ratio", "(float32)", "of peak", "loss"):
        table.add_column(heading, justify="left" if heading == "engine" else "right", no_wrap=True)
    for r in records:
        times = [f"{r[key]:,.1f}" for key in ("ms", "p10", "p90")]
        ratios = ["" if r[key] is None else f"{r[key]:.2f} ×" for key in ("ratio", "ratio_float32")]
        share = "" if r["share_of_peak"] is None else f"{r['share_of_peak']:.0%}"
        rates = [f"{r['tokens_per_second']:,.0f}", f"{r['peak_mb']:,.0f}"]
        table.add_row(r["engine"], *times, *rates, *ratios, share, f"{r['losses'][-1]:.4f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    sys.exit(terminal.run(main))
