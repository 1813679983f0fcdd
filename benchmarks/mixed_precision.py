"""What computing in 16 bits costs in quality: the same training runs in float32, bf16 and fp16, on real text.

    python -m benchmarks.mixed_precision [--data PATH] [--steps 500] [--seeds 0,1,2] [--json FILE]

A small decoder (2 layers, width 64), by the formulas alone, from the same weights on the same batches, with the
optimizer's float32 master weights and fp16's loss scale as `nanograd.train --precision` has them. Compares the curves
of the training loss, smoothed over 25 steps, and the loss on the same validation tokens after the last step. The code
is 1 if a curve or a validation loss is ever off by more than 1 %.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from msgspec.structs import replace

from benchmarks import turns
from benchmarks.precision import TOLERANCE, Record, validation_loss
from nanograd import terminal
from nanograd.backend import formulas_only
from nanograd.data import TrainingBatches, open_tokens
from nanograd.loss_scale import LossScale
from nanograd.models import DecoderLM
from nanograd.optim import FlatParameters, NonFiniteGradientError, clip_scale
from nanograd.optim_settings import learning_rate_of, make_optimizer
from nanograd.precision import Precision
from nanograd.prepare import prepare
from nanograd.settings import PRESETS, TrainConfig

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
SMOOTHED = 25  # steps: a single batch's loss says little


def train(config: TrainConfig, tokens: Path) -> dict[str, Any]:
    """The loss of each step, the validation loss after the last, and how many steps fp16 had to leave out."""
    model = DecoderLM(config.model, seed=config.seed)
    flat, T = FlatParameters(model, precision=config.precision, seed=config.seed), config.model.context_length
    optimizer, loss_scale, losses = make_optimizer(config.optim, flat), LossScale(config.precision), []
    batches = TrainingBatches(
        open_tokens(tokens, "train"), batch_size=config.batch_size, context_length=T, seed=config.seed
    )
    for step in range(config.steps):
        loss, S = model.loss(*batches.batch(step)), loss_scale.scale
        loss.backward(loss_scale.first_gradient(loss))
        losses.append(loss.item())
        try:
            norm, scale = clip_scale(flat, S * config.optim.clip_norm)
        except NonFiniteGradientError as error:
            norm, scale = error.norm, 1.0
        if loss_scale.check(losses[-1], norm):
            flat.zero_grad()
            continue
        optimizer.step(learning_rate_of(config.optim, step, config.steps), scale=scale / S, zero_grad=True)
    validation = validation_loss(model.eval(), tokens)
    return {"losses": losses, "validation": validation, "overflows": loss_scale.state.overflows}


def smoothed(losses: Sequence[float]) -> np.ndarray:
    """Means over SMOOTHED steps, or over all of them where there are fewer."""
    width = min(SMOOTHED, len(losses))
    return np.convolve(losses, np.full(width, 1 / width), "valid")


def compare(config: TrainConfig, seeds: Sequence[int]) -> list[Record]:
    """One record for each seed and each type of 16 bits."""
    tokens, records = prepare(config, terminal.progress_bar).folder, []
    for seed in seeds:
        with formulas_only(), np.errstate(over="ignore", invalid="ignore"):  # fp16 overflows: its scale sees to it
            runs = {p: train(replace(config, seed=seed, precision=p), tokens) for p in PRECISIONS}
        exact = runs.pop("float32")
        turns.say(f"seed {seed}: validation loss {exact['validation']:.4f} in float32")
        for precision, run in runs.items():
            curves = smoothed(run["losses"]) / smoothed(exact["losses"]) - 1
            record = {"seed": seed, "steps": config.steps, "precision": precision, "overflows": run["overflows"]}
            record |= {"float32": exact["validation"], "validation": run["validation"]}
            records.append({**record, "curve": curves[np.abs(curves).argmax()].item()})
    return records


def off(record: Record) -> float:
    """How far the validation loss is off, as a share."""
    return float(record["validation"] / record["float32"] - 1)


def show(records: list[Record]) -> None:
    """The table on the terminal."""
    print(f"after {records[0]['steps']} steps    float32   16 bits     off by  curve's worst  overflows")
    for r in records:
        name = f"seed {r['seed']}, {r['precision']}"
        numbers = f"{r['float32']:10.4f}{r['validation']:10.4f}{off(r):+11.3%}{r['curve']:+15.3%}{r['overflows']:11}"
        print(f"{name:16}{numbers}")


def main(argv: Sequence[str] | None = None) -> int:
    """Train, compare, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="text as for nanograd.train (default: the embedded Wikipedia excerpt)")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", default="0,1,2", help="separated by commas (default 0,1,2)")
    parser.add_argument("--json", type=Path, help="append one line per run to this file")
    options = parser.parse_args(argv)
    if options.steps < 1:
        parser.error(f"--steps {options.steps} must be 1 or more")
    if not all(seed.isdecimal() for seed in options.seeds.split(",")):
        parser.error(f"--seeds {options.seeds}: numbers separated by commas are wanted")
    turns.check_appendable(options.json)
    tiny = PRESETS["tiny"]
    model = replace(tiny.model, vocab_size=1024, context_length=64, n_layers=2, n_heads=2, d_model=64)
    optim = tiny.optim.resolved(accumulate=1)
    config = replace(tiny, data=options.data, steps=options.steps, init="random", optim=optim, model=model)
    records = compare(config, [int(seed) for seed in options.seeds.split(",")])
    show(records)
    turns.append(options.json, records)
    return int(any(max(abs(off(record)), abs(record["curve"])) > TOLERANCE for record in records))


if __name__ == "__main__":
    sys.exit(terminal.run(main))
