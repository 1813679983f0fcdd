"""What products in bf16 cost in quality: the same training runs in float32 and in bf16, on real text.

    python -m benchmarks.precision [--data PATH] [--steps 200] [--seeds 0,1,2] [--json FILE]

The preset `tiny`, from the same weights on the same batches. Compares the loss on the same validation tokens after the
last step, and the mean loss of the last tenth of the batches. The code is 1 if one of them is off by more than 1 %.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from benchmarks import turns
from nanograd import kernels, terminal
from nanograd.data import TrainingBatches, open_tokens, validation_batches
from nanograd.models import DecoderLM
from nanograd.optim import FlatParameters, clip_scale
from nanograd.optim_settings import learning_rate_of, make_optimizer
from nanograd.prepare import prepare
from nanograd.settings import PRESETS, TrainConfig
from nanograd.tensor import no_grad

TOLERANCE = 0.01
Precision = Literal["float32", "bf16"]
Record = dict[str, Any]


def train(config: TrainConfig, tokens: Path, precision: Precision) -> tuple[float, float]:
    """Validation loss after config.steps steps, and the mean of the last tenth of the training losses."""
    kernels.load(precision)
    model = DecoderLM(config.model, seed=config.seed)
    flat, T = FlatParameters(model), config.model.context_length
    optimizer, losses = make_optimizer(config.optim, flat, model.hidden_matrices()), []
    batches = TrainingBatches(
        open_tokens(tokens, "train"), batch_size=config.batch_size, context_length=T, seed=config.seed
    )
    for step in range(config.steps):
        loss = model.loss(*batches.batch(step))
        loss.backward()
        _, scale = clip_scale(flat, config.optim.clip_norm)
        optimizer.step(learning_rate_of(config.optim, step, config.steps), scale=scale, zero_grad=True)
        losses.append(loss.item())
    return validation_loss(model.eval(), tokens), float(np.mean(losses[-max(1, config.steps // 10) :]))


@no_grad()
def validation_loss(model: DecoderLM, tokens: Path) -> float:
    """Nats per token of at most 16,384 validation tokens, always the same ones."""
    windows = validation_batches(
        open_tokens(tokens, "val"), batch_size=16, context_length=model.config.context_length, max_tokens=16_384
    )
    weighted = [(model.loss(*window).item(), window.n_targets) for window in windows]
    return float(np.average([loss for loss, _ in weighted], weights=[size for _, size in weighted]))


def compare(config: TrainConfig, seeds: Sequence[int]) -> list[Record]:
    """One record for each seed. Raises ValueError where the CPU has no bf16 products."""
    kernels.check_matmul_precision("bf16", "cpu")
    tokens, records = prepare(config, terminal.progress_bar).folder, []
    precisions: tuple[Precision, ...] = ("bf16", "float32")  # in this order: float32 is what products compute in again
    for seed in seeds:
        seeded = msgspec.structs.replace(config, seed=seed)
        found = {precision: train(seeded, tokens, precision) for precision in precisions}
        turns.say(f"seed {seed}: validation loss " + ", ".join(f"{name} {loss[0]:.4f}" for name, loss in found.items()))
        record: Record = {"seed": seed, "steps": config.steps}
        for i, kind in enumerate(("validation", "training")):
            half, full = found["bf16"][i], found["float32"][i]
            record[kind] = {"bf16": half, "float32": full, "off": half / full - 1}
        records.append(record)
    return records


def show(records: list[Record]) -> None:
    """The table on the terminal."""
    print(f"loss after {records[0]['steps']} steps" + " " * 12 + "float32      bf16  bf16 is off by")
    for record in records:
        for kind in ("validation", "training"):
            loss = record[kind]
            name = f"seed {record['seed']}, {kind}"
            print(f"{name:30}{loss['float32']:11.4f}{loss['bf16']:10.4f}{loss['off']:+16.3%}")


def main(argv: Sequence[str] | None = None) -> int:
    """Train, compare, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="text as for nanograd.train (default: the embedded Wikipedia excerpt)")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", default="0,1,2", help="separated by commas (default 0,1,2)")
    parser.add_argument("--json", type=Path, help="append one line per seed to this file")
    options = parser.parse_args(argv)
    if options.steps < 1:
        parser.error(f"--steps {options.steps} must be 1 or more")
    if not all(seed.isdecimal() for seed in options.seeds.split(",")):
        parser.error(f"--seeds {options.seeds}: numbers separated by commas are wanted")
    turns.check_appendable(options.json)
    tiny = PRESETS["tiny"]
    optim = tiny.optim.resolved(accumulate=1)
    config = msgspec.structs.replace(tiny, data=options.data, steps=options.steps, init="random", optim=optim)
    records = compare(config, [int(seed) for seed in options.seeds.split(",")])
    show(records)
    turns.append(options.json, records)
    return int(any(abs(record[kind]["off"]) > TOLERANCE for record in records for kind in ("validation", "training")))


if __name__ == "__main__":
    sys.exit(terminal.run(main))
