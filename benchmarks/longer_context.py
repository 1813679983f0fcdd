"""Trained on short texts, read on longer ones: validation loss at 1, 2 and 4 times the training context.

    python -m benchmarks.longer_context [--steps 400] [--seed 0] [--kinds rotary,alibi,…] [--json FILE] [--threads 1]

Trains `nanograd.train` (preset tiny, context 128, random start) once for each kind of positions, lets the model read
the same validation tokens in windows of 128, 256 and 512, and prints nats per token. Rotary positions are read as they
are and with each scaling, by the factor that the window is longer. "far" counts only tokens that have at least the
training context before them in their window (at 1 ×: half of it): whoever understands the distances predicts them
better than the rest.
Losses don't depend on how busy the machine is. A run of 400 steps takes about a minute on a quiet core.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TIMES = 1, 2, 4
KINDS = "sinusoidal", "learned", "none", "rotary", "alibi"
SCALINGS: tuple[Any, ...] = ("none", "linear", "ntk", "dynamic", "yarn", "llama3")


def train(kind: str, steps: int, seed: int, folder: Path) -> None:
    """A run in `folder`. Raises CalledProcessError."""
    command = [sys.executable, "-m", "nanograd.train", "--positions", kind, "--init", "random", "--out", str(folder)]
    command += ["--steps", str(steps), "--seed", str(seed), "--sample-every", "0", "--sample-tokens", "0"]
    subprocess.run([*command, "--eval-every", str(steps)], check=True, stdout=subprocess.DEVNULL)


def read(kind: str, folder: Path) -> Iterator[dict[str, Any]]:
    """How well the model reads at each context, with each scaling that it can have."""
    from nanograd import kernels
    from nanograd.io.checkpoint import load_model
    from nanograd.models import stretch

    kernels.load()
    model, _ = load_model(folder)
    trained_on = model.config.context_length
    for times in TIMES:
        for scaling in SCALINGS if kind == "rotary" and times > 1 else ["none"]:
            try:
                longer = stretch(model, times * trained_on, rotary_scaling=scaling)
            except ValueError as error:
                yield {"kind": kind, "scaling": scaling, "times": times, "error": str(error)}
                continue
            nats = losses(longer, validation_ids(folder, times * trained_on))
            far = nats[:, trained_on if times > 1 else trained_on // 2 :]
            yield {
                "kind": kind, "scaling": scaling, "times": times, "loss": float(nats.mean()), "far": float(far.mean())
            }  # fmt: skip


def validation_ids(folder: Path, context_length: int, tokens: int = 32_768) -> np.ndarray:
    """(N, T + 1) ids: the first so many validation tokens, cut into windows."""
    from nanograd import terminal
    from nanograd.config import from_command_line
    from nanograd.prepare import prepare
    from nanograd.settings import PRESETS
    from pre_process.token_shards import open_tokens

    config = from_command_line(PRESETS, ["--config", str(folder / "config.toml")], prog="", about="")
    ids = open_tokens(prepare(config, terminal.progress_bar).folder, "val")
    starts = np.arange(0, min(tokens, len(ids) - context_length), context_length)
    return np.asarray(ids[starts[:, None] + np.arange(context_length + 1)], np.int64)


def losses(model: Any, windows: np.ndarray, batch: int = 4) -> np.ndarray:
    """(N, T) nats of each target."""
    from nanograd.tensor import no_grad

    found = []
    with no_grad():
        for first in range(0, len(windows), batch):
            rows = windows[first : first + batch]
            logits = model(rows[:, :-1]).data
            logits -= logits.max(axis=-1, keepdims=True)
            right = np.take_along_axis(logits, rows[:, 1:, None], axis=-1)[..., 0]
            found.append(np.log(np.exp(logits).sum(axis=-1)) - right)
    return np.concatenate(found)


def show(records: list[dict[str, Any]]) -> None:
    """The table: a line for each kind and scaling, nats for all tokens and for the far ones."""
    print(f"{'positions':<18}" + "".join(f"{f'{times} × context':>20}" for times in TIMES) + "   nats: all (far)")
    rows = {(r["kind"], s) for r in records for s in (SCALINGS[1:] if r["kind"] == "rotary" else ()) or ["none"]}
    rows |= {(r["kind"], "none") for r in records}
    for kind, scaling in sorted(rows, key=lambda row: (KINDS.index(row[0]), SCALINGS.index(row[1]))):
        cells = {r["times"]: r for r in records if r["kind"] == kind and r["scaling"] in (scaling, "none")}
        cells |= {r["times"]: r for r in records if (r["kind"], r["scaling"]) == (kind, scaling)}
        texts = [f"{r['loss']:.3f} ({r['far']:.3f})" if "loss" in r else "no vectors" for r in cells.values()]
        print(f"{kind + ('' if scaling == 'none' else ' ' + scaling):<18}" + "".join(f"{text:>20}" for text in texts))


def main(argv: list[str] | None = None) -> None:
    """Train, read, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="training steps (400)")
    parser.add_argument("--seed", type=int, default=0, help="of the run (0)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of positions, separated by commas (all)")
    parser.add_argument("--json", type=Path, help="add the records to this file, and don't measure again what is there")
    parser.add_argument("--threads", type=int, default=1, help="of training (1)")
    arguments = parser.parse_args(argv)
    for variable in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(arguments.threads)
    path: Path | None = arguments.json
    records = [json.loads(line) for line in path.read_text().splitlines()] if path and path.exists() else []
    for kind in [kind for kind in arguments.kinds.split(",") if kind not in {r["kind"] for r in records}]:
        with tempfile.TemporaryDirectory() as folder:
            train(kind, arguments.steps, arguments.seed, Path(folder, "run"))
            new = list(read(kind, Path(folder, "run")))
        records += new
        if path:
            with path.open("a") as file:
                file.writelines(json.dumps(record) + "\n" for record in new)
    show(records)


if __name__ == "__main__":
    main()
