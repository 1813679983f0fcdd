"""Do word vectors help the language model? The same decoder from random, from word2vec's and from frozen vectors.

    python -m benchmarks.embedding_start [--data PATH …] [--steps 1000] [--seeds 0,1,2] [--json FILE] [--quick]

Runs `nanograd.train` (preset tiny, one thread) for every text, start and seed; batches depend on the seed alone. Prints
validation losses against tokens seen, and how many tokens it takes to reach a loss, and draws both. Every finished run
is a line of --json, and a second call runs only what is missing there: a run of 1,000 steps takes two minutes.
--quick takes 60 steps and one seed. --start NAME=FLAGS adds a start, as in --start "deep=--word2vec-epochs 20".
"""

import argparse
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import embedding_curves, turns
from nanograd import terminal
from nanograd.config import from_command_line
from nanograd.prepare import cache_folder, prepare
from nanograd.settings import PRESETS

OWN_OUTPUT_LAYER = "--no-tie-embeddings"  # frozen vectors need one, so the others are also measured with it
STARTS = {
    "random": "--init random --tie-embeddings",
    "word2vec": "--init word2vec --tie-embeddings",
    "random, untied": f"--init random {OWN_OUTPUT_LAYER}",
    "word2vec, untied": f"--init word2vec {OWN_OUTPUT_LAYER}",
    # what can't grow starts as long as it should be: times √192, components of size 1
    "frozen word2vec": f"--init word2vec --freeze-embeddings --embedding-std 0.072 {OWN_OUTPUT_LAYER}",
}
EMBEDDED = "Wikipedia excerpt"  # what --data "" stands for
EVALUATIONS = 20
Record = dict[str, Any]


def measure(data: str, flags: str, seed: int, steps: int, cache: Path) -> Record:
    """Train once. curve: (tokens, validation loss), …; seconds of processor time for the vectors and for the run."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [
            *shlex.split(flags),
            f"--seed={seed}",
            f"--steps={steps}",
            f"--eval-every={max(1, steps // EVALUATIONS)}",
        ]
        argv += ["--sample-every=0", "--sample-tokens=0", f"--cache={cache}", f"--out={folder}/run"]
        argv += [f"--data={data}"] if data else []
        word2vec_seconds = prepare_text(argv)
        before = cpu_seconds_of_children()
        train(argv)
        lines = turns.read(Path(folder, "run", "metrics.jsonl"))
    return {
        "curve": [(line["tokens"], line["val_loss"]) for line in lines if "val_loss" in line],
        "unigram_loss": lines[-1]["unigram_loss"],
        "word2vec_seconds": word2vec_seconds,
        "training_seconds": cpu_seconds_of_children() - before,
    }


def train(argv: Sequence[str]) -> None:
    """nanograd.train in a process of its own. Raises ValueError with its last line if it fails."""
    command = [sys.executable, "-m", "nanograd.train", *argv]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        last = " ".join(done.stderr.splitlines()[-1:])
        raise ValueError(f"{shlex.join(command[1:])} ended with code {done.returncode}: {last}")


def prepare_text(argv: Sequence[str]) -> float:
    """Tokenizer, token files and word vectors into the cache; returns the seconds that the vectors took (0: none)."""
    config = from_command_line(PRESETS, argv, prog="nanograd.train", about="")
    for vectors in cache_folder(config).glob("word2vec-*"):  # those of another start may be the same
        vectors.unlink()
    prepare(msgspec.structs.replace(config, init="random"), terminal.progress_bar)
    start = time.process_time()
    prepare(config, terminal.progress_bar)
    return time.process_time() - start if config.init == "word2vec" else 0.0


def cpu_seconds_of_children() -> float:
    """Processor time of all processes that have ended: it does not depend on what else the machine does."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_missing(wanted: Sequence[Record], path: Path) -> list[Record]:
    """One record for each of `wanted`: those that `path` holds already, and the others, appended as they end."""
    known = {key(record): record for record in (turns.read(path) if path.exists() else [])}
    with tempfile.TemporaryDirectory(prefix="embedding_start") as cache:
        for number, record in enumerate(wanted, 1):
            if key(record) in known:
                continue
            turns.say(f"{number} of {len(wanted)}: {record['corpus']}, {record['start']}, seed {record['seed']} …")
            found = measure(record["data"], record["flags"], record["seed"], record["steps"], Path(cache))
            known[key(record)] = record | found
            turns.append(path, [known[key(record)]])
            turns.say(f"  validation loss {found['curve'][-1][1]:.4f} after {record['steps']} steps")
    return [known[key(record)] for record in wanted]


def key(record: Record) -> tuple[Any, ...]:
    """What makes two runs the same."""
    return tuple(record[name] for name in ("data", "flags", "seed", "steps"))


def wanted_runs(texts: Sequence[str], starts: dict[str, str], seeds: Sequence[int], steps: int) -> list[Record]:
    """What to run, text by text and seed by seed: an interrupted measurement holds whole comparisons."""
    return [
        {
            "corpus": Path(data).name or EMBEDDED,
            "data": data,
            "start": name,
            "flags": flags,
            "seed": seed,
            "steps": steps,
        }
        for data in texts
        for seed in seeds
        for name, flags in starts.items()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, print the tables, draw the picture."""
    options = parse(argv)
    turns.check_appendable(options.json)
    turns.set_threads(1)
    starts = {name: STARTS[name] for name in options.only} | dict(options.start)
    records = run_missing(wanted_runs(options.data, starts, options.seeds, options.steps), options.json)
    embedding_curves.show(records)
    if options.picture:
        embedding_curves.draw(records, options.picture)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", nargs="+", default=[""], help='texts as for nanograd.train ("": the embedded excerpt)'
    )
    parser.add_argument("--steps", type=_count, default=1000)
    parser.add_argument("--seeds", type=_seeds, default=[0, 1, 2], help="separated by commas (default 0,1,2)")
    parser.add_argument("--only", nargs="+", default=list(STARTS), choices=list(STARTS), help="the starts to run")
    parser.add_argument(
        "--start", type=_start, action="append", default=[], metavar="NAME=FLAGS", help="one more start"
    )
    parser.add_argument("--quick", action="store_true", help="60 steps, one seed")
    parser.add_argument("--json", type=Path, default=Path(tempfile.gettempdir(), "embedding_start.jsonl"))
    parser.add_argument("--picture", type=Path, help="draw the curves into this file, a .png")
    options = parser.parse_args(argv)
    if options.quick:
        options.steps, options.seeds = 60, [0]
    return options


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more")
    return int(text)


def _seeds(text: str) -> list[int]:
    if not all(seed.isdecimal() for seed in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text}: numbers separated by commas are wanted")
    return [int(seed) for seed in text.split(",")]


def _start(text: str) -> tuple[str, str]:
    name, equals, flags = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text}: NAME=FLAGS is wanted")
    return name, flags


if __name__ == "__main__":
    sys.exit(terminal.run(main))
