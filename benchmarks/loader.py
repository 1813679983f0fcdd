"""What surrounds a training step costs: loader, metrics, live table, alerts; beside steps on a batch that is there.

    python -m benchmarks.loader [--data PATH] [--rounds 60] [--json FILE]

The preset `tiny`, all contestants in turns, step by step; medians. About a minute. A step takes its batch from the
loader, goes forward and backward, clips and updates; `alone` is the making of a batch without the step. The whole loop
is that of `python -m nanograd.train` between two checkpoints; on a terminal the live table is drawn, and its price too.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import turns
from nanograd import kernels, terminal
from nanograd.data import Batch, Prefetch
from nanograd.data.opening import training_batches
from nanograd.models import DecoderLM
from nanograd.optim import AdamW, FlatParameters, clip_scale
from nanograd.prepare import Prepared, prepare
from nanograd.settings import PRESETS, LoaderConfig, TrainConfig
from nanograd.training_run import TrainingRun

LAYOUTS = "windows", "packed"
Record = dict[str, Any]


class Contestant:
    """Steps of a model of its own, on batches from `loader`, or on the first one for ever."""

    def __init__(self, config: TrainConfig, loader: Prefetch, *, again: bool) -> None:
        self.model = DecoderLM(config.model, seed=config.seed)
        self.parameters = FlatParameters(self.model)
        self.optimizer = AdamW(self.parameters)
        self.loader, self.steps = loader, 0
        self.first: Batch | None = loader.batch(0) if again else None

    def step(self) -> None:
        """One step, with the making of its batch."""
        batch = self.first or self.loader.batch(self.steps)
        self.model.loss(*batch).backward()
        _, scale = clip_scale(self.parameters, 1.0)
        self.optimizer.step(1e-4, scale=scale, zero_grad=True)
        self.steps += 1


@contextlib.contextmanager
def whole_loop(config: TrainConfig, prepared: Prepared) -> Iterator[Callable[[], None]]:
    """Steps as nanograd.train takes them, with all that follows each, in a run folder that vanishes."""
    never = 10**9
    optim = config.optim.resolved(accumulate=config.accumulate)
    endless = msgspec.structs.replace(config, steps=never, eval_every=never, sample_every=0, optim=optim)
    with tempfile.TemporaryDirectory(prefix="loop") as folder:
        run = TrainingRun(endless, prepared, Path(folder))
        with run.opened():
            yield run.take_step


def measure(config: TrainConfig, rounds: int) -> list[Record]:
    """One record for each layout."""
    kernels.load("float32")
    prepared = prepare(config, terminal.progress_bar)
    records = []
    for layout in LAYOUTS:
        chosen = msgspec.structs.replace(config, loader=LoaderConfig(layout=layout))
        with contextlib.ExitStack() as stack:
            loaders = [
                stack.enter_context(Prefetch(training_batches(chosen, prepared), ahead=ahead)) for ahead in (0, 0, 2)
            ]
            names = "one batch again", "from the loader", "from the loader, 2 ahead", "the whole loop"
            contestants = [Contestant(config, loader, again=not i) for i, loader in enumerate(loaders)]
            steps = [*(c.step for c in contestants), stack.enter_context(whole_loop(chosen, prepared))]
            runs = dict(zip(names, steps, strict=True))
            step = in_turns(runs, rounds)
            alone = np.median([turns.milliseconds(partial(loaders[0].batch, 1000 + i)) for i in range(500)])
        records.append({"layout": layout, "step_ms": step, "alone_ms": float(alone)})
    return records


def in_turns(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each; every round begins with another."""
    for run in runs.values():
        turns.wake_up(run)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for r in range(rounds):
        order = list(runs)[r % len(runs) :] + list(runs)[: r % len(runs)]
        for name in order:
            times[name].append(turns.milliseconds(runs[name]))
    return {name: float(np.median(found)) for name, found in times.items()}


def show(records: list[Record]) -> None:
    """The table on the terminal."""
    for record in records:
        bare = record["step_ms"]["one batch again"]
        print(
            f"{record['layout']}: a batch alone {record['alone_ms']:.3f} ms, {record['alone_ms'] / bare:.2%} of a step"
        )
        for name, step in record["step_ms"].items():
            print(f"  {name:26}{step:9.2f} ms a step{step / bare:9.3f} ×")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="text as for nanograd.train (default: the embedded Wikipedia excerpt)")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", type=Path, help="append one line per layout to this file")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds} must be 1 or more")
    turns.check_kernels()
    turns.check_appendable(options.json)
    config = msgspec.structs.replace(PRESETS["tiny"], device="cpu", data=options.data, init="random")
    records = measure(config, options.rounds)
    show(records)
    turns.append(options.json, records)


if __name__ == "__main__":
    sys.exit(terminal.run(main))
