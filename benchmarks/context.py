"""The cost of a token in training as the context grows, at a fixed number of tokens in a step.

    python -m benchmarks.context [--engines nanograd,nanograd-bf16,torch] [--tokens 4096] [--steps 5] [--json FILE]
    python -m benchmarks.context --plot FILE     draws the newest run in FILE into a PNG beside it

Only attention should cost more, and only by its own arithmetic: T² for a sequence of T tokens, so T for each token.
The last column says whether it does: how many GFLOP/s the operations beyond those of the shortest context were done in,
by the time beyond its time. The same rate at every T is a cost that grows as attention's arithmetic does; a falling
one is something else that grows too. Every engine has a process of its own; they take turns.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import turns
from benchmarks.engines import OURS, PEERS, arithmetic, batch, gpt, make_step, timed, why_not
from benchmarks.turns import Answer, ask, say
from nanograd import terminal
from nanograd.models import DecoderLMConfig

CONTEXTS = 128, 256, 512, 1024, 2048, 4096
MODEL = gpt(1024, 128, n_layers=4, d_model=256, n_heads=8)
DEFAULT = "nanograd,nanograd-bf16,torch"
FIRST_STEPS = 2
Record = dict[str, Any]


def model_at(T: int) -> DecoderLMConfig:
    """The same model with a longer context."""
    return msgspec.structs.replace(MODEL, context_length=T)


def prepare(engine: str, tokens: int, threads: int) -> Answer:
    """An engine's process: asked for (T, steps) it takes them with a model of that context and answers their ms."""
    models: dict[int, Any] = {}

    def answer(question: tuple[int, int]) -> list[float]:
        T, steps = question
        B, config = tokens // T, model_at(T)
        take_step = models[T] = models.get(T) or make_step(engine, config, threads)
        return [timed(take_step, *batch(config, B, i))[0] for i in range(steps)]

    return answer


def measure(engines: Sequence[str], contexts: Sequence[int], tokens: int, steps: int, threads: int) -> list[Record]:
    """One record for each engine and context."""
    times: dict[tuple[str, int], list[float]] = {(engine, T): [] for T in contexts for engine in engines}
    with turns.processes(prepare, engines, tokens, threads) as lines:
        for T in contexts:
            first = {engine: max(ask(engine, lines[engine], (T, FIRST_STEPS))) / 1e3 for engine in engines}
            say(f"context {T}: first steps " + ", ".join(f"{engine} {s:.1f} s" for engine, s in first.items()))
        for _ in range(steps):
            for engine, T in times:
                times[engine, T] += ask(engine, lines[engine], (T, 1))
    context = {"tokens": tokens, "threads": threads, "machine": turns.machine()}
    context["run"] = datetime.now().astimezone().isoformat(timespec="seconds")
    return [record(engine, T, times, tokens) | context for engine in engines for T in contexts]


def record(engine: str, T: int, times: dict[tuple[str, int], list[float]], tokens: int) -> Record:
    """What a line of --json holds."""
    shortest = min(T for _, T in times)
    ms, shortest_ms = (float(np.median(times[engine, context])) for context in (T, shortest))
    gflop, least = (arithmetic(model_at(context), tokens // context) for context in (T, shortest))
    more = ms - shortest_ms
    return {
        "engine": engine,
        "context": T,
        "ms": ms,
        "p10": float(np.percentile(times[engine, T], 10)),
        "p90": float(np.percentile(times[engine, T], 90)),
        "us_per_token": 1e3 * ms / tokens,
        "growth": ms / shortest_ms,
        "gflop": gflop,
        "arithmetic_growth": gflop / least,
        "added_gflops": 1e3 * (gflop - least) / more if more > 0 else None,
    }


def show(records: list[Record]) -> None:
    """The table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    first = records[0]
    title = f"training step of {first['tokens']:,} tokens, {first['threads']} threads, {first['machine']}"
    table = Table(title=title)
    headings = ("ms", "p10", "p90", "µs/token", "growth", "arithmetic", "growth", "added GFLOP/s")
    for heading in ("engine", "context", *headings):
        table.add_column(heading, justify="left" if heading == "engine" else "right", no_wrap=True)
    for r in records:
        added = "" if r["added_gflops"] is None else f"{r['added_gflops']:,.0f}"
        times = [f"{r[key]:,.1f}" for key in ("ms", "p10", "p90", "us_per_token")]
        growth = [f"{r['growth']:.2f} ×", f"{r['gflop']:,.0f} GFLOP", f"{r['arithmetic_growth']:.2f} ×", added]
        end = r is records[-1] or records[records.index(r) + 1]["engine"] != r["engine"]
        table.add_row(r["engine"], str(r["context"]), *times, *growth, end_section=end)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def draw(path: Path) -> Path:
    """Cost of a token against the context, and what arithmetic alone would make of it; returns the PNG's path."""
    from matplotlib.figure import Figure

    records = turns.read(path)
    try:
        newest = [r for r in records if r["run"] == records[-1]["run"]]
        curves = {r["engine"]: [x for x in newest if x["engine"] == r["engine"]] for r in newest}
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        for engine, curve in curves.items():
            contexts, base = [r["context"] for r in curve], curve[0]["us_per_token"]
            [line] = axes.plot(contexts, [r["us_per_token"] for r in curve], "o-", label=engine)
            expected = [base * r["arithmetic_growth"] for r in curve]
            axes.plot(contexts, expected, ":", color=line.get_color(), label=f"{engine}, had only its arithmetic grown")
        axes.set(
            xlabel="context",
            ylabel="µs per token",
            title=f"{newest[0]['machine']} · {newest[0]['run']}",
            ylim=(0, None),
        )
    except KeyError as error:
        raise ValueError(f"{path} is not from benchmarks.context: a line has no {error}") from None
    axes.set_xscale("log", base=2)
    axes.set_xticks(contexts, [str(T) for T in contexts])
    axes.legend(fontsize=8)
    figure.savefig(path.with_suffix(".png"), dpi=120)
    return path.with_suffix(".png")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, append; or draw."""
    options = parse(argv)
    if options.plot is not None:
        print(draw(options.plot))
        return 0
    turns.check_kernels()
    turns.check_appendable(options.json)
    turns.set_threads(options.threads)
    contexts = [T for T in CONTEXTS if options.tokens % T == 0]
    records = measure(options.engines, contexts, options.tokens, options.steps, options.threads)
    show(records)
    turns.append(options.json, records)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line. Unknown names end the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = (*OURS.values(), *PEERS)
    parser.add_argument("--engines", default=DEFAULT, help=f"of {', '.join(known)} (default {DEFAULT})")
    parser.add_argument("--tokens", type=int, default=4096, help="sequences × context, a multiple of 128")
    parser.add_argument("--steps", type=int, default=5, help=f"that are timed, after {FIRST_STEPS} that are not")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default: all cores")
    parser.add_argument("--json", type=Path, help="append one line per engine and context to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw what --json wrote, and measure nothing")
    options = parser.parse_args(argv)
    options.engines = [name for name in options.engines.split(",") if name]
    if unknown := set(options.engines) - set(known):
        parser.error(f"--engines: {', '.join(sorted(unknown))} unknown; there are {', '.join(known)}")
    if options.tokens < 128 or options.tokens % 128 or options.steps < 1 or options.threads < 1:
        parser.error("--tokens must be a multiple of 128, --steps and --threads 1 or more")
    reasons = {engine: why_not(engine) for engine in options.engines}
    for engine, reason in reasons.items():
        if reason is not None:
            say(f"{engine} is left out: {reason}")
    options.engines = [engine for engine, reason in reasons.items() if reason is None]
    if not options.engines:
        parser.error("--engines: none of them can run here")
    return options


if __name__ == "__main__":
    sys.exit(terminal.run(main))
