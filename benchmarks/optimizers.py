"""What a step of each optimizer costs, beside PyTorch's; and how far it gets in a few steps of training.

    python -m benchmarks.optimizers [--rounds 5] [--only adamw muon] [--threads 2] [--json FILE]
    python -m benchmarks.optimizers --losses [--steps 200] [--data PATH] [--only …]

The first prints the milliseconds of one update of all parameters (the median over rounds), gradients given, for the
models `tiny` and `small`. PyTorch's are the fused ones where it has them, else those with foreach; its Muon takes the
same matrices as ours (packed queries, keys and values whole), its AdamW the rest, and it has no Lion. Each contestant
has a process of its own, and they take turns. The second trains `tiny` from random weights on the same batches, with a
learning rate that suits each (from a few that were tried), and prints its loss on the same validation tokens.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import turns
from benchmarks.turns import Answer, ask, milliseconds, wake_up
from nanograd import kernels, terminal
from nanograd.models import PRESETS as MODELS
from nanograd.models import DecoderLM
from nanograd.optim import FlatParameters
from nanograd.optim_settings import OptimConfig, make_optimizer
from nanograd.settings import PRESETS, TrainConfig

OPTIMIZERS: dict[str, dict[str, float]] = {  # with the learning rate of the second table
    "adamw": {"lr": 2e-3},
    "adam": {"lr": 2e-3},
    "sgd": {"lr": 0.3},
    "lion": {"lr": 3e-4},
    "adafactor": {"lr": 2e-3},
    "muon": {"lr": 4e-3},
}
SHAPES = "tiny", "small"
CALLS = 2  # in a turn
Record = dict[str, Any]


def prepare(contestant: str, threads: int) -> Answer:
    """A contestant's process: for (optimizer, model) it takes CALLS steps and answers milliseconds."""
    from nanograd import backend

    backend.keep_freed_memory()
    if contestant == "torch":
        import torch

        torch.set_num_threads(threads)
    else:
        kernels.load("float32")
    runs: dict[Any, Any] = {}

    def answer(question: Any) -> list[float]:
        if question not in runs:
            runs.clear()  # one model at a time
            runs[question] = (torchs if contestant == "torch" else ours)(*question)
            runs[question]()
        wake_up(runs[question])
        return [milliseconds(runs[question]) for _ in range(CALLS)]

    return answer


def ours(name: str, shape: str) -> Any:
    """One step of our optimizer."""
    model = DecoderLM(MODELS[shape])
    flat = FlatParameters(model)
    flat.gradients[...] = gradients(len(flat.gradients))
    optimizer = make_optimizer(OptimConfig(optimizer=name).resolved(accumulate=1), flat, model.hidden_matrices())
    return lambda: optimizer.step(1e-6)


def torchs(name: str, shape: str) -> Any:
    """One step of PyTorch's, with the same settings."""
    import torch

    model = DecoderLM(MODELS[shape])
    named = {key: torch.from_numpy(p.data).requires_grad_() for key, p in model.named_parameters()}
    for p in named.values():
        p.grad = torch.from_numpy(gradients(p.numel()).reshape(p.shape))
    all_of_them, hidden = list(named.values()), set(model.hidden_matrices())
    others = [p for key, p in named.items() if key not in hidden]
    matrices = [p for key, p in named.items() if key in hidden]
    optim = torch.optim
    make: dict[str, Any] = {
        "adamw": lambda: [optim.AdamW(all_of_them, lr=1e-6, fused=True)],
        "adam": lambda: [optim.Adam(all_of_them, lr=1e-6, fused=True)],
        "sgd": lambda: [optim.SGD(all_of_them, lr=1e-6, momentum=0.9, fused=True)],
        "adafactor": lambda: [optim.Adafactor(all_of_them, lr=1e-6, foreach=True)],
        "muon": lambda: [optim.Muon(matrices, lr=1e-6), optim.AdamW(others, lr=1e-6, fused=True)],
    }
    optimizers = make[name]()
    return lambda: [optimizer.step() for optimizer in optimizers]


def gradients(size: int) -> np.ndarray:
    """Plausible ones."""
    return np.random.default_rng(0).standard_normal(size, np.float32) * np.float32(0.01)


def measure(names: Sequence[str], rounds: int, threads: int) -> list[Record]:
    """One record for each optimizer and model."""
    contestants = ["nanograd", *(["torch"] if turns.is_installed("torch") else [])]
    questions = [(shape, name) for shape in SHAPES for name in names]
    times: dict[Any, list[float]] = {}
    with turns.processes(prepare, contestants, threads) as lines:
        for shape, name in questions:
            for _ in range(rounds):
                for contestant, line in lines.items():
                    if (contestant, name) != ("torch", "lion"):
                        found = ask(contestant, line, (name, shape))
                        times.setdefault((shape, name, contestant), []).extend(found)
            turns.say(f"{shape}, {name}: done")
    medians = {key: statistics.median(found) for key, found in times.items()}
    return [
        {"model": shape, "optimizer": name, "ms": medians[shape, name, "nanograd"],
         "torch_ms": medians.get((shape, name, "torch")), "threads": threads, "machine": turns.machine()}
        for shape, name in questions
    ]  # fmt: skip


def show(records: Sequence[Record]) -> None:
    """The table on the terminal."""
    print(f"ms of one step, median{'':10}{'nanograd':>10}{'PyTorch':>10}{'PyTorch / nanograd':>20}")
    for record in records:
        theirs = record["torch_ms"]
        beside = f"{theirs:10.2f}{theirs / record['ms']:18.2f} ×" if theirs else ""
        print(f"{record['model'] + ', ' + record['optimizer']:32}{record['ms']:10.2f}{beside}")


def losses(names: Sequence[str], steps: int, data: str | None) -> list[Record]:
    """Validation loss of `tiny` after so many steps with each optimizer."""
    from nanograd.evaluation import mean_loss
    from nanograd.prepare import prepare as prepare_text
    from nanograd.trainer import Trainer

    kernels.load("float32")
    base = msgspec.structs.replace(PRESETS["tiny"], device="cpu", steps=steps, data=data, init="random")
    records = []
    for name in names:
        config = chosen(base, name)
        trainer = Trainer(config, prepare_text(config, terminal.progress_bar))
        for step in range(1, steps + 1):
            trainer.step(step)
        loss = mean_loss(trainer.model, trainer.validation, "cpu")
        records.append({"optimizer": name, "steps": steps, "lr": config.optim.lr, "loss": loss})
        turns.say(f"{name}, lr {config.optim.lr:g}: validation loss {loss:.4f} after {steps} steps")
    return records


def chosen(base: TrainConfig, name: str) -> TrainConfig:
    """`base` with another optimizer, its learning rate and a warm-up of a tenth of the steps."""
    optim = OptimConfig(optimizer=name, warmup_steps=max(1, base.steps // 10), **OPTIMIZERS[name])
    return msgspec.structs.replace(base, optim=optim.resolved(accumulate=base.accumulate))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(OPTIMIZERS), default=list(OPTIMIZERS), metavar="OPTIMIZER")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant (default 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--losses", action="store_true", help="train and compare losses instead of times")
    parser.add_argument("--steps", type=int, default=200, help="of --losses (default 200)")
    parser.add_argument("--data", help="text of --losses, as for nanograd.train (default: the Wikipedia excerpt)")
    parser.add_argument("--json", type=Path, help="append one line per result to this file")
    options = parser.parse_args(argv)
    if options.rounds < 1 or options.steps < 1:
        parser.error("--rounds and --steps must be 1 or more")
    turns.check_kernels()
    turns.check_appendable(options.json)
    turns.set_threads(options.threads)
    if options.losses:
        records = losses(options.only, options.steps, options.data)
    else:
        records = measure(options.only, options.rounds, options.threads)
        show(records)
    turns.append(options.json, records)
    return 0


if __name__ == "__main__":
    sys.exit(terminal.run(main))
