"""How long until a small GPT is as good as PyTorch's: the field's setting there, `--preset speedrun` here.

    python -m benchmarks.speedrun [--data tinyshakespeare.txt] [--seeds 5] [--threads 2] [--json FILE] [--draw PNG]

PyTorch trains the field's small GPT on characters (benchmarks/small_gpt.py). The validation loss that it has in the
end, seed by seed, is what nanograd has to reach, with at most as many parameters. Both learn from the first 90 % of the
text and are judged by all of the rest, in windows of 64 side by side. Each has a process of its own and they take turns
of a tenth of a run, so that a machine that slows down slows both; each turn ends with a validation: of an eighth of the
text for the picture, in the last three turns of all of it, and only these decide. Time is that of the steps: batches,
backward, optimizer, and for torch.compile the compiling (of the first seed; it remembers). Validation doesn't count,
nor does making token files. "Set-up" is what comes before the first step: libraries, model, compiled kernels (made
before the race). The first seed decides whether PyTorch or torch.compile is faster; it races on alone with nanograd.
--quick takes one seed and a tenth of the steps: it shows that everything runs, and nothing else.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import turns
from benchmarks.turns import Answer, Lines, ask, is_installed, say
from nanograd import terminal
from nanograd.data.batches import Batch, validation_batches
from nanograd.settings import PRESETS, TrainConfig

TURNS, JUDGED, SAMPLE = 10, 3, 8  # turns of a run; of them judged by the whole text; else every so many windows
WINDOW = 64  # of validation, for both
Record = dict[str, Any]
Run = Iterator[Record]  # a record for each turn


def prepare(contestant: str, config: TrainConfig, threads: int, quick: bool) -> Answer:
    """A contestant's process: for a seed it takes the next turn of that seed's run, and answers how far it is."""
    runs: dict[int, Run] = {}

    def answer(seed: int) -> Record:
        if seed not in runs:
            runs.clear()  # one model at a time
            runs[seed] = ours(config, seed) if contestant == "nanograd" else torchs(
                config, seed, threads, quick, compiled=contestant == "torch-compile"
            )  # fmt: skip
        return next(runs[seed])

    return answer


def ours(config: TrainConfig, seed: int) -> Run:
    """As `python -m nanograd.train --preset speedrun` trains, without checkpoints and display."""
    start = time.perf_counter()
    from nanograd import backend, kernels
    from nanograd.evaluation import mean_loss
    from nanograd.trainer import Trainer

    backend.keep_freed_memory()
    kernels.load(config.matmul_precision)
    prepared = token_files(config)
    trainer = Trainer(msgspec.structs.replace(config, seed=seed, eval_tokens=1), prepared)
    windows = in_windows(characters(prepared)[1])
    numbers = iter(range(1, config.steps + 1))

    def validate(every: int) -> float:
        with trainer.optimizer.averaged():
            return mean_loss(trainer.model, windows[::every], config.device)

    yield from turn_by_turn(
        lambda: trainer.step(next(numbers)), validate, config.steps, trainer.model.n_parameters(), start
    )


def torchs(config: TrainConfig, seed: int, threads: int, quick: bool, *, compiled: bool) -> Run:
    """The field's setting. Characters are numbered anew: only those that occur, and nothing that parts documents."""
    start = time.perf_counter()
    from benchmarks import small_gpt

    train, held_out = characters(token_files(config))
    alphabet = np.unique(np.concatenate([train, held_out]))
    train, held_out = (np.searchsorted(alphabet, ids) for ids in (train, held_out))
    recipe = small_gpt.CHARACTERS
    recipe = replace(recipe, steps=recipe.steps // 10) if quick else recipe
    run = small_gpt.Training(train, len(alphabet), recipe, seed=seed, threads=threads, compiled=compiled)
    windows, done = in_windows(held_out), itertools.count()
    parameters = sum(p.numel() for p in run.model.parameters())
    yield from turn_by_turn(
        lambda: run.step(next(done)), lambda every: run.validate(windows[::every]), recipe.steps, parameters, start
    )


def turn_by_turn(
    step: Callable[[], Any], validate: Callable[[int], float], steps: int, parameters: int, start: float
) -> Run:
    """Take the steps in TURNS parts, and say after each how many they are, how long they took and what they led to."""
    setup, seconds, done = time.perf_counter() - start, 0.0, 0
    for turn in range(1, TURNS + 1):
        goal = steps * turn // TURNS
        began = time.perf_counter()
        for _ in range(goal - done):
            step()
        seconds, done = seconds + time.perf_counter() - began, goal
        judged = turn > TURNS - JUDGED
        record = {"step": done, "seconds": seconds, "setup": setup, "parameters": parameters, "judged": judged}
        yield {**record, "loss": validate(1 if judged else SAMPLE)}


def compile_kernels(config: TrainConfig) -> None:
    """Two steps in another process, so that the race finds all compiled code on disk. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "nanograd.train", "--preset", "speedrun", "--data", str(config.data)]
        command += ["--steps", "2", "--eval-tokens", "64", "--sample-tokens", "0", "--out", f"{folder}/run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def token_files(config: TrainConfig) -> Any:
    """The prepared text, made by whoever asks first."""
    from nanograd.mixing import prepare_all

    return prepare_all(config, terminal.progress_bar)


def characters(prepared: Any) -> tuple[np.ndarray, np.ndarray]:
    """The ids (n,) of the text that is learned and of the text held out, without those that end a document."""
    from nanograd.data import open_tokens

    end = prepared.tokenizer.end_of_text_id
    sides = [np.asarray(open_tokens(prepared.folder, split)[:], np.int64) for split in ("train", "val")]
    return sides[0][sides[0] != end], sides[1][sides[1] != end]


def in_windows(ids: np.ndarray) -> list[Batch]:
    """All of a text, cut into windows side by side, in batches."""
    return list(validation_batches(ids, batch_size=32, context_length=WINDOW))


def race(lines: Lines, seed: int) -> list[Record]:
    """A run of each contestant, by turns."""
    records = []
    for turn in range(TURNS):
        for contestant, line in lines.items():
            records.append({"contestant": contestant, "seed": seed, **ask(contestant, line, seed)})
        last = records[-len(lines) :]
        say(f"seed {seed}, turn {turn + 1} of {TURNS}: " + ", ".join(
            f"{r['contestant']} {r['loss']:.3f} after {r['seconds']:.1f} s" for r in last))  # fmt: skip
    return records


def faster(records: list[Record]) -> str:
    """Which of the two PyTorchs took less time for its run, compiling included."""
    last = {r["contestant"]: r["seconds"] for r in records if r["contestant"] != "nanograd"}
    return min(last, key=lambda name: last[name])


def verdict(records: list[Record], peer: str) -> list[Record]:
    """For each seed the peer's loss in the end, and how long both took to get there; None: nanograd never did."""
    rows, setup = [], {r["contestant"]: r["setup"] for r in reversed(records)}  # of the first seed: it loads libraries
    for seed in sorted({r["seed"] for r in records}):
        theirs = [r for r in records if (r["contestant"], r["seed"]) == (peer, seed)][-1]
        mine = [r for r in records if (r["contestant"], r["seed"]) == ("nanograd", seed)]
        there = next((r for r in mine if r["judged"] and r["loss"] <= theirs["loss"]), None)
        row = {"seed": seed, "peer": peer, "loss": theirs["loss"], "torch_steps": theirs["step"]}
        row |= {"torch_seconds": theirs["seconds"], "final_loss": mine[-1]["loss"], "steps": None, "seconds": None}
        if there is not None:
            row |= {"steps": there["step"], "seconds": there["seconds"]}
            row["ratio"] = theirs["seconds"] / there["seconds"]
            whole = theirs["seconds"] + setup[peer], there["seconds"] + setup["nanograd"]
            row["ratio_with_setup"] = whole[0] / whole[1]
        rows.append(row)
    return rows


def show(rows: list[Record]) -> None:
    """The table, and the medians over seeds."""
    print(f"{'seed':>4}{'loss':>9}{'PyTorch':>18}{'nanograd':>18}{'ratio':>9}{'with set-up':>13}{'ends at':>10}")
    for row in rows:
        left = f"{row['seed']:>4}{row['loss']:>9.4f}{row['torch_seconds']:>8.2f} s, {row['torch_steps']:>5,}"
        right = f"{'never':>20}{'':>22}"
        if row["seconds"] is not None:
            right = f"{row['seconds']:>11.2f} s, {row['steps']:>5,}"
            right += f"{row['ratio']:>7.2f} ×{row['ratio_with_setup']:>11.2f} ×"
        print(f"{left} {right}{row['final_loss']:>10.4f}")
    ratios = [(row["ratio"], row["ratio_with_setup"]) for row in rows if row["seconds"] is not None]
    if len(ratios) == len(rows):
        medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
        print(f"median over {len(rows)} seeds: {medians[0]:.2f} × as fast as {rows[0]['peer']}, "
              f"{medians[1]:.2f} × with set-up; worst {min(ratios)[0]:.2f} ×")  # fmt: skip


def draw(records: list[Record], peer: str, path: Path) -> None:
    """Validation loss against seconds of training, a line for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for contestant, color in ((peer, "tab:gray"), ("nanograd", "tab:orange")):
        for seed in sorted({r["seed"] for r in records}):
            run = [r for r in records if (r["contestant"], r["seed"]) == (contestant, seed)]
            label = f"{contestant}, {run[-1]['step']:,} steps" if seed == 0 else None
            axes.plot([r["seconds"] for r in run], [r["loss"] for r in run], color=color, label=label, linewidth=1)
    ends = [row["loss"] for row in verdict(records, peer)]
    axes.axhline(statistics.mean(ends), color="black", linewidth=0.6, linestyle="--")
    axes.set(
        xlabel="seconds of training", ylabel="validation loss, nats per character", ylim=(None, 2.6), xlim=(0, None)
    )
    axes.legend()
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None) -> int:
    """Race, then say who won. Returns the exit code."""
    arguments = parse(argv)
    turns.check_kernels()
    if not is_installed("torch"):
        raise ValueError("the yardstick is PyTorch: pip install torch")
    for path in (arguments.json, arguments.draw):
        turns.check_appendable(path)
    config = settings(arguments.data, arguments.quick)
    turns.set_threads(arguments.threads)
    compile_kernels(config)  # and the token files
    records: list[Record] = []
    contestants = ["nanograd", "torch", "torch-compile"]
    with turns.processes(prepare, contestants, config, arguments.threads, arguments.quick) as lines:
        for seed in range(arguments.seeds):
            records += race(lines, seed)
            lines = {name: lines[name] for name in ("nanograd", faster(records))}
    peer = faster(records)
    sizes = {r["contestant"]: r["parameters"] for r in records}
    print(f"{sizes['nanograd']:,} parameters, {peer} {sizes[peer]:,}; {arguments.threads} threads; {turns.machine()}")
    show(verdict(records, peer))
    turns.append(arguments.json, records)
    if arguments.draw:
        draw(records, peer, arguments.draw)
    return 0


def settings(data: str, quick: bool) -> TrainConfig:
    """Those of the preset, resolved as the command line would. Raises ValueError for data that is not there."""
    if not Path(data).is_file():
        raise ValueError(f"{data} is no file: give --data a text, for example tinyshakespeare.txt")
    config = msgspec.structs.replace(PRESETS["speedrun"], device="cpu")
    return msgspec.structs.replace(
        config,
        data=data,
        steps=max(TURNS, config.steps // 10) if quick else config.steps,
        optim=config.optim.resolved(accumulate=config.accumulate),
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The flags. Ends the program for numbers that make no sense."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="tinyshakespeare.txt", help="a text in one file (tinyshakespeare.txt)")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each (5)")
    parser.add_argument("--threads", type=int, default=2, help="of each contestant (2)")
    parser.add_argument("--quick", action="store_true", help="one seed, a tenth of the steps: does it run?")
    parser.add_argument("--json", type=Path, help="add a line for every turn to this file")
    parser.add_argument("--draw", type=Path, help="draw loss against time into this PNG")
    arguments = parser.parse_args(argv)
    if arguments.seeds < 1 or arguments.threads < 1:
        parser.error("--seeds and --threads must be 1 or more")
    arguments.seeds = 1 if arguments.quick else arguments.seeds
    return arguments


if __name__ == "__main__":
    sys.exit(terminal.run(main))
