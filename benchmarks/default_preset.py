"""Is the default run's model better than what nanoGPT's recipe makes of the same text in the same time?

    python -m benchmarks.default_preset [--seeds 5] [--seconds S] [--threads 2] [--data TEXT] [--json FILE]

Ours is `python -m nanograd.train` without flags; its seconds are those of its steps and of its word vectors. nanoGPT's
recipe in PyTorch (benchmarks/small_gpt.py: GPT-2's layout, AdamW with betas 0.9 and 0.95, weight decay 0.1, warm-up and
cosine) then gets exactly as many seconds for the same token files, and its schedule goes by the clock, so it ends where
the time does. It gets its best: of eager and compiled PyTorch, float32 and bf16, the one whose step is the fastest; of
three learning rates, and of two widths (as many parameters as ours, and as wide as ours) what is best with seed 0.
Compiling, libraries, preparing tokens and validation count for neither. All held-out documents are priced for both by
nanograd.evaluation, every token once, so bits per byte are of the same bytes.

Each run is a process of its own, one at a time, and a line of --json; a second call runs only what is missing there.
--seconds gives both another length of time: ours takes the steps that fit.
"""

import argparse
import hashlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import turns
from benchmarks.default_contestants import OURS, prepare, same_size
from benchmarks.turns import ask, say
from nanograd import terminal
from nanograd.mixing import prepare_all
from nanograd.settings import PRESETS, TrainConfig
from nanograd.warm_up import compiled_kernels

PEERS = ("torch", "torch-bf16", "torch-compile", "torch-compile-bf16")
RATES = (1e-3, 2e-3, 4e-3)
SWEEP_SEED = 0
Record = dict[str, Any]


class Runs:
    """What has been measured, and how to measure what has not."""

    def __init__(self, config: TrainConfig, threads: int, path: Path) -> None:
        self.config, self.threads, self.path = config, threads, path
        settings = msgspec.structs.replace(config, text=msgspec.structs.replace(config.text, cache=None))
        self.settings = hashlib.sha256(msgspec.json.encode(settings)).hexdigest()[:8]  # others are other runs
        self.known = turns.read(path) if path.exists() else []

    def find(self, contestant: str, **question: Any) -> Record:
        """The record of this run; it runs now, if the file has none."""
        wanted = {"contestant": contestant, "settings": self.settings, "threads": self.threads, **question}
        for record in self.known:
            if wanted.items() <= record.items():
                return record
        say(f"{contestant}: " + ", ".join(f"{name} {value}" for name, value in question.items()) + " …")
        with turns.processes(prepare, [contestant], self.config, self.threads) as lines:
            found = wanted | ask(contestant, lines[contestant], question)
        say("  " + ("%(ms).1f ms a step" if "ms" in found else "%(bits_per_byte).4f bits per byte") % found)
        self.known.append(found)
        turns.append(self.path, [found])
        return found


def fastest_peer(runs: Runs, shape: Record) -> str:
    """Which PyTorch takes the least time for a step."""
    found = {name: runs.find(name, seed=SWEEP_SEED, lr=RATES[0], **shape, what="step")["ms"] for name in PEERS}
    return min(found, key=lambda name: found[name])


def best_peer(runs: Runs, seconds: float, shapes: Sequence[Record]) -> Record:
    """Contestant and settings of the peer at its best: learning rates at the first shape, then the other shapes."""
    name = fastest_peer(runs, shapes[0])
    tried = [(rate, shapes[0]) for rate in RATES]

    def loss(candidate: tuple[float, Record]) -> float:
        rate, shape = candidate
        return float(runs.find(name, seed=SWEEP_SEED, lr=rate, **shape, seconds=seconds)["loss"])

    best_rate, _ = min(tried, key=loss)
    rate, shape = min([(best_rate, shape) for shape in shapes], key=loss)
    return {"contestant": name, "lr": rate, **shape}


def compare(runs: Runs, seeds: int, seconds: float | None) -> list[tuple[Record, Record]]:
    """Ours and the peer's run of each seed."""
    model, pairs, peer = runs.config.model, [], None
    shapes = [dict(zip(("width", "heads"), same_size(model), strict=True))]
    if (narrow := {"width": model.d_model, "heads": model.n_heads}) not in shapes:
        shapes.append(narrow)
    for seed in range(seeds):
        ours = runs.find(OURS, seed=seed, seconds=seconds)
        time = round(ours["spent"], 1) if seconds is None else seconds
        if peer is None:
            peer = best_peer(runs, time, shapes)
        pairs.append((ours, runs.find(**peer, seed=seed, seconds=time)))
    return pairs


def show(pairs: Sequence[tuple[Record, Record]], runs: Runs) -> None:
    """The sweep, the table, and the means over seeds."""
    peer = pairs[0][1]
    for r in runs.known:
        if r["settings"] == runs.settings and r["contestant"] in PEERS and r["seed"] == SWEEP_SEED:
            result = f"{r['ms']:.1f} ms a step" if "ms" in r else f"{r['bits_per_byte']:.4f} bits per byte"
            print(f"  tried: {r['contestant']}, width {r['width']}, lr {r['lr']:g}: {result}")
    print(f"{OURS}: {pairs[0][0]['parameters']:,} parameters; {peer['contestant']}: {peer['parameters']:,} (width "
          f"{peer['width']}), lr {peer['lr']:g}; {peer['tokens']:,} validation tokens; {turns.machine()}")  # fmt: skip
    print(f"{'seed':>4}{'seconds':>9}{'steps':>13}{'nats per token':>18}{'bits per byte':>18}{'ratio':>8}")
    for ours, theirs in pairs:
        print(f"{ours['seed']:>4}{ours['spent']:>9.1f}{ours['steps']:>7,}{theirs['steps']:>6,}"
              f"{ours['loss']:>10.4f}{theirs['loss']:>8.4f}{ours['bits_per_byte']:>10.4f}{theirs['bits_per_byte']:>8.4f}"
              f"{ours['bits_per_byte'] / theirs['bits_per_byte']:>8.4f}")  # fmt: skip
    for name, unit in (("loss", "nats per token"), ("bits_per_byte", "bits per byte")):
        mine, others = ([pair[i][name] for pair in pairs] for i in (0, 1))
        lower = 100 * (1 - statistics.mean(mine) / statistics.mean(others))
        print(f"{unit}: {OURS} {spread(mine)}, PyTorch {spread(others)}: {lower:.1f} % lower, "
              f"in {sum(m < o for m, o in zip(mine, others, strict=True))} of {len(mine)} seeds")  # fmt: skip


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values) if len(values) > 1 else 0:.4f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, then say who is better."""
    arguments = parse(argv)
    turns.check_kernels()
    if not turns.is_installed("torch"):
        raise ValueError("the recipe to compare with runs in PyTorch: pip install torch")
    turns.check_appendable(arguments.json)
    turns.set_threads(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="default_preset") as cache:  # so that word vectors are never found
        config = settings(arguments.data, cache)
        with compiled_kernels(config):
            prepare_all(config, terminal.progress_bar)
        for vectors in Path(cache).glob("word2vec-*"):
            vectors.unlink()
        runs = Runs(config, arguments.threads, arguments.json)
        show(compare(runs, arguments.seeds, arguments.seconds), runs)
    return 0


def settings(data: str | None, cache: str) -> TrainConfig:
    """The default preset's, resolved as the command line would."""
    config = msgspec.structs.replace(PRESETS["tiny"], device="cpu")
    return msgspec.structs.replace(
        config,
        data=data,
        text=msgspec.structs.replace(config.text, cache=cache),
        optim=config.optim.resolved(accumulate=config.accumulate),
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags. Ends the program for numbers that make no sense."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each (5)")
    parser.add_argument("--seconds", type=float, help="of training, for both (what our run takes, seed by seed)")
    parser.add_argument("--threads", type=int, default=2, help="of each contestant (2)")
    parser.add_argument("--data", help="text as for nanograd.train (the embedded Wikipedia excerpt)")
    parser.add_argument("--json", type=Path, default=Path(tempfile.gettempdir(), "default_preset.jsonl"))
    arguments = parser.parse_args(argv)
    if arguments.seeds < 1 or arguments.threads < 1 or not (arguments.seconds is None or arguments.seconds > 0):
        parser.error("--seeds and --threads must be 1 or more, --seconds above 0")
    return arguments


if __name__ == "__main__":
    sys.exit(terminal.run(main))
