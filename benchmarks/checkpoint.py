"""What a checkpoint costs: the copy that a step waits for, the write beside the training, and the two together.

    python -m benchmarks.checkpoint [--preset tiny] [--rounds 12] [--out FOLDER] [--json FILE]

Blocks of training steps take turns: one without a checkpoint, one that begins with one. About a minute for `tiny`.

copy     the snapshot of weights and optimizer state; beside it one bare copy of as many bytes
write    files, hashes, fsyncs and rename, with no training beside; beside it the same bytes by write() and fsync
steps    of a block while the checkpoint is written; its share is told for a checkpoint every 200 steps
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import turns
from nanograd import backend, kernels, terminal
from nanograd.io.background import BackgroundWriter
from nanograd.io.run_checkpoints import write_checkpoint
from nanograd.io.training_state import Arrays, Snapshot, TrainingState
from nanograd.prepare import prepare
from nanograd.settings import PRESETS, TrainConfig
from nanograd.trainer import Trainer

EVERY = 200  # steps between two checkpoints, as the preset `tiny` has it
Record = dict[str, Any]


def measure(config: TrainConfig, rounds: int, folder: Path) -> Record:
    """Medians, in milliseconds."""
    backend.keep_freed_memory()  # as nanograd.train does
    kernels.load("float32")
    trainer = Trainer(config, prepare(config, terminal.progress_bar))
    turns.wake_up(lambda: trainer.step(1))
    step = float(np.median([turns.milliseconds(lambda: trainer.step(1)) for _ in range(10)]))
    run, arrays = Run(trainer, folder), trainer.snapshot()
    flat = np.concatenate([x.reshape(-1).view(np.uint8) for named in arrays.values() for x in named.values()])
    target = np.zeros_like(flat)
    found: dict[str, list[float]] = {name: [] for name in ("copy", "memcpy", "write", "bare write", "plain", "saving")}
    steps = max(10, round(1000 / step))  # a block of about a second
    for r in range(rounds):
        found["copy"].append(turns.milliseconds(trainer.snapshot))
        found["memcpy"].append(turns.milliseconds(lambda: np.copyto(target, flat)))
        found["write"].append(turns.milliseconds(lambda: run.write(arrays)))
        found["bare write"].append(turns.milliseconds(lambda: bare_write(folder / "bytes", flat)))
        blocks: list[tuple[str, Callable[[], None]]] = [
            ("plain", lambda: run.block(steps)),
            ("saving", lambda: run.block(steps, save=True)),
        ]
        for name, block in blocks if r % 2 else reversed(blocks):
            found[name].append(turns.milliseconds(block))
    medians = {name: float(np.median(times)) for name, times in found.items()}
    extra = float(np.median(np.subtract(found["saving"], found["plain"])))
    return {"preset": config.preset, "mb": flat.nbytes / 1e6, "steps": steps, "step": step, "extra": extra, **medians}


class Run:
    """A trainer whose checkpoints go to `folder`."""

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        self.trainer, self.folder, self.number = trainer, folder, 0

    def write(self, arrays: Arrays) -> None:
        """A checkpoint, as a run writes it; the one before is replaced."""
        state = TrainingState(step=1, tokens=0, record={}, is_recorded=True, seed=0, dropout_calls=0, next_batch=0,
                              metrics_bytes=0, val_loss=None, best_val_loss=None, made_with={})  # fmt: skip
        snapshot = Snapshot(arrays, state, lambda folder: None)
        write_checkpoint(self.folder, snapshot.write, step=1, val_loss=None, data_sha256="", tokenizer_sha256="")

    def block(self, steps: int, *, save: bool = False) -> None:
        """Steps, with a checkpoint written beside the first of them; waits until it is written."""
        with BackgroundWriter() as writer:
            if save:
                arrays = self.trainer.snapshot()
                writer.submit(lambda: self.write(arrays))
            for _ in range(steps):
                self.trainer.step(1)


def bare_write(path: Path, content: np.ndarray) -> None:
    """The same bytes in one file, nothing hashed."""
    with path.open("wb") as file:
        file.write(content.data)
        os.fsync(file.fileno())


def show(r: Record) -> None:
    """The table on the terminal."""
    lines = {
        "copy": (r["copy"], f"{r['copy'] / r['memcpy']:.2f} × a bare copy, {r['copy'] / r['step']:.2f} × a step"),
        "write": (r["write"], f"{r['write'] / r['bare write']:.2f} × a bare write, {r['mb'] / r['write']:.2f} GB/s"),
        "steps": (r["saving"], f"{r['steps']} of them beside a write; {r['plain']:.1f} ms without one"),
        "extra": (r["extra"], f"{r['extra'] / (EVERY * r['step']):.2%} of the time, with one every {EVERY} steps"),
    }
    print(f"{r['preset']}: {r['mb']:.1f} MB of weights and optimizer state, {r['step']:.1f} ms a step")
    for name, (milliseconds, words) in lines.items():
        print(f"  {name:8}{milliseconds:9.1f} ms   {words}")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, help="folder on the disk to be measured (default: that of this repository)")
    parser.add_argument("--json", type=Path, help="append one line to this file")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds} must be 1 or more")
    turns.check_kernels()
    turns.check_appendable(options.json)
    config = msgspec.structs.replace(PRESETS[options.preset], device="cpu", init="random")
    config = msgspec.structs.replace(config, optim=config.optim.resolved(accumulate=config.accumulate))
    with tempfile.TemporaryDirectory(dir=options.out or Path(__file__).parents[1], prefix=".checkpoints-") as folder:
        record = measure(config, options.rounds, Path(folder))
    show(record)
    turns.append(options.json, [record])


if __name__ == "__main__":
    sys.exit(terminal.run(main))
