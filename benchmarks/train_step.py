"""A whole training step, measured against PyTorch: the same GPT, weights and batches in each installed engine.

    python -m benchmarks.train_step --shape A50k|A8k|B|C --precision float32|bf16
        [--peers torch,torch-bf16,torch-compile,torch-compile-bf16] [--steps 20] [--threads 2] [--json FILE]
    python -m benchmarks.train_step --plot FILE     draws FILE's measurements into a PNG beside it

Every engine has a process of its own and the same number of threads. They take turns, so that a machine that slows
down slows all of them. Where other programs run, set OMP_WAIT_POLICY=passive: PyTorch's threads spin while they wait,
which seems to cost them most beside a busy neighbour.

No time is believed before the losses agree: at every step to 1e-3 between two engines that compute in float32, else
to 2 %. `ratio` is the time of the fastest peer over that of the engine.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import SHAPES, serve
from nanograd import kernels, terminal

PEERS = ("torch", "torch-bf16", "torch-compile", "torch-compile-bf16")
NO_TWIN = ("jax", "tinygrad")
TURNS = 5
WARM_UP = 2  # first steps, in which engines compile and memory is first touched: their losses count, their times don't
TOLERANCE, BF16_TOLERANCE = 1e-3, 2e-2
Record = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, check, print, append; or draw. Raises ValueError where engines disagree."""
    options = parse(argv)
    if options.plot is not None:
        print(draw(options.plot))
        return 0
    kernels.check_matmul_precision(options.precision, "cpu")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # the engines' processes read them when they import
    ours = "nanograd-bf16" if options.precision == "bf16" else "nanograd"
    engines = [ours, *installed(options.peers)]
    measured = measure(engines, options.shape, options.steps, options.threads)
    check_losses({engine: losses for engine, (_, losses, _) in measured.items()})
    found = records(measured, options.shape, options.threads)
    show(found)
    if options.json is not None:
        with options.json.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in found)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line. Unknown names end the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    visible = "{" + ",".join(name for name in SHAPES if name != "test") + "}"
    parser.add_argument("--shape", choices=list(SHAPES), default="A8k", metavar=visible)
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32", help="of nanograd's products")
    parser.add_argument("--peers", default=",".join(PEERS[:2]), help=f"of {', '.join(PEERS)}; empty: none")
    parser.add_argument("--steps", type=int, default=20, help=f"that are timed, after {WARM_UP} that are not")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default: all cores")
    parser.add_argument("--json", type=Path, help="append one line per engine to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw what --json wrote, and measure nothing")
    options = parser.parse_args(argv)
    options.peers = [name for name in options.peers.split(",") if name]
    if unknown := set(options.peers) - {*PEERS, *NO_TWIN}:
        parser.error(f"--peers: {', '.join(sorted(unknown))} unknown; there are {', '.join(PEERS)}")
    if options.steps < 1 or options.threads < 1:
        parser.error(f"--steps {options.steps} and --threads {options.threads} must be 1 or more")
    return options


def installed(peers: Sequence[str]) -> list[str]:
    """The peers that can run here; a line for each of the others."""
    found = []
    for peer in dict.fromkeys(peers):
        if peer in NO_TWIN:
            print(f"{peer} is left out: its twin of the model is not written yet", file=sys.stderr)
        elif find_spec("torch") is None:
            print(f"{peer} is left out: it is not installed (pip install 'nanograd[peers]')", file=sys.stderr)
        else:
            found.append(peer)
    return found


Measured = dict[str, tuple[list[float], list[float], float]]  # engine → ms, losses, peak MB


def measure(engines: Sequence[str], shape: str, steps: int, threads: int) -> Measured:
    """Steps in turns, and each round begins with another engine."""
    counts = [len(part) for part in np.array_split(np.arange(steps), min(TURNS, steps))]
    with ExitStack() as stack:
        lines = {engine: stack.enter_context(process(engine, shape, threads)) for engine in engines}
        measured = {engine: ask(engine, line, WARM_UP) for engine, line in lines.items()}
        for times, _, _ in measured.values():
            times.clear()
        for turn, count in enumerate(counts):
            first = turn % len(engines)
            for engine in [*engines[first:], *engines[:first]]:
                ms, losses, _ = measured[engine]
                more_ms, more_losses, peak = ask(engine, lines[engine], count)
                measured[engine] = (ms + more_ms, losses + more_losses, peak)
    return measured


@contextmanager
def process(engine: str, shape: str, threads: int) -> Iterator[Connection]:
    """An engine in a process of its own, at the other end of the line."""
    context = multiprocessing.get_context("spawn")
    line, theirs = context.Pipe()
    server = context.Process(target=serve, args=(engine, shape, threads, theirs), daemon=True)
    server.start()
    theirs.close()
    try:
        yield line
    finally:
        line.close()  # the engine ends, unless it is in the middle of something
        server.join(5)
        server.terminate()
        server.join()


def ask(engine: str, line: Connection, steps: int) -> tuple[list[float], list[float], float]:
    """Have `steps` steps taken: ms, losses, peak MB. Raises ValueError if the engine's process has ended."""
    try:
        line.send(steps)
        ms, losses, peak = line.recv()
    except (EOFError, OSError):
        raise ValueError(f"{engine} has stopped: its own message stands above") from None
    return ms, losses, peak


def check_losses(losses: dict[str, list[float]]) -> None:
    """Raise ValueError unless all engines compute the same: to TOLERANCE at every step, with bf16 to BF16_TOLERANCE."""
    reference = min(losses, key=lambda engine: "bf16" in engine)  # the first that computes in float32, if any
    expected = np.array(losses[reference])
    for engine, found in losses.items():
        tolerance = BF16_TOLERANCE if "bf16" in engine + reference else TOLERANCE
        off = np.abs(np.array(found) - expected) / np.abs(expected)
        if not (off <= tolerance).all():  # so written, NaN is a disagreement too
            step = int(np.argmax(~(off <= tolerance)))
            raise ValueError(
                f"the losses disagree, so no time counts: at step {step + 1} {engine} has {found[step]:.6f}, "
                f"{reference} {expected[step]:.6f}; allowed are {tolerance:.1%}"
            )


def records(measured: Measured, shape: str, threads: int) -> list[Record]:
    """What a line of --json holds, one for each engine."""
    config, B = SHAPES[shape]
    median = {engine: float(np.median(ms)) for engine, (ms, _, _) in measured.items()}
    fastest_peer = min((ms for engine, ms in median.items() if not engine.startswith("nanograd")), default=None)
    return [
        {
            "engine": engine,
            "shape": shape,
            "ms": median[engine],
            "p10": float(np.percentile(ms, 10)),
            "p90": float(np.percentile(ms, 90)),
            "tokens_per_second": 1e3 * B * config.context_length / median[engine],
            "peak_mb": peak,
            "losses": losses,
            "ratio": None if fastest_peer is None else fastest_peer / median[engine],
            "threads": threads,
            "machine": machine(),
        }
        for engine, (ms, losses, peak) in measured.items()
    ]


def machine() -> str:
    """The processor and the number of its cores that this process may see."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def show(found: list[Record]) -> None:
    """The table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    first = found[0]
    table = Table(title=f"training step, shape {first['shape']}, {first['threads']} threads, {first['machine']}")
    for heading in ("engine", "ms", "p10", "p90", "tokens/s", "peak MB", "ratio", "last loss"):
        table.add_column(heading, justify="left" if heading == "engine" else "right", no_wrap=True)
    for r in found:
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f} ×"
        times = [f"{r[key]:,.1f}" for key in ("ms", "p10", "p90")]
        rest = [f"{r['tokens_per_second']:,.0f}", f"{r['peak_mb']:,.0f}", ratio, f"{r['losses'][-1]:.4f}"]
        table.add_row(r["engine"], *times, *rest)
    Console(width=None if sys.stdout.isatty() else 100).print(table)


def draw(path: Path) -> Path:
    """A panel of bars for each shape, tokens/s of the newest measurement of every engine; returns the PNG's path."""
    from matplotlib.figure import Figure

    newest: dict[str, dict[str, Record]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        newest.setdefault(record["shape"], {})[record["engine"]] = record
    if not newest:
        raise ValueError(f"{path} holds no measurement: name a file that --json wrote")
    figure = Figure(figsize=(9, 1 + 1.8 * len(newest)), layout="constrained")
    panels = figure.subplots(len(newest), squeeze=False)[:, 0]
    for axes, (shape, engines) in zip(panels, newest.items(), strict=True):
        names = sorted(engines, key=lambda engine: engines[engine]["tokens_per_second"])
        colors = ["tab:orange" if name.startswith("nanograd") else "tab:gray" for name in names]
        bars = axes.barh(names, [engines[name]["tokens_per_second"] for name in names], color=colors)
        axes.bar_label(bars, fmt="{:,.0f}", padding=3)
        axes.set(title=f"shape {shape}", xlabel="tokens/s", xmargin=0.1)
    figure.savefig(path.with_suffix(".png"), dpi=120)
    return path.with_suffix(".png")


if __name__ == "__main__":
    sys.exit(terminal.run(main))
