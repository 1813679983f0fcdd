"""Encoding and decoding beside tiktoken, Hugging Face's tokenizers and rs_bpe, on the same texts with the same ids.

    python -m benchmarks.tokenizer [--text ../shared/data/books] [--megabytes 8] [--repeats 5] [--jsonl FILE]

One vocabulary is trained on the text and given to all; rs_bpe has only cl100k_base, so there we take its ranks. The ids
are compared first, and unless they are equal nothing is measured. The contestants take turns, so that a machine that
slows down slows all of them; on one core each is alone on it. "cold" means that no piece is remembered from an earlier
text. Printed are medians in MB of UTF-8 a second, and how many times the peer's speed that is.

Worst cases are 1 MB in one piece (or nearly): seconds, and the time for a byte as a multiple of ordinary text's. At the
end a new process encodes 11 MB twice: with everything to compile first, and with compiled code on disk.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tokenizer_peers import Peer, installed, nanograd, on_cores, rs_bpe
from pre_process.corpus import documents
from pre_process.tokenizer import Tokenizer

Record = dict[str, Any]

OURS_COLD, OURS_WARM = "nanograd, cold", "nanograd, warm"
DOCUMENT = 8192  # characters of a document, and those up to the end of its line
WORST = 1_000_000  # characters
SLOWEST = {"tokenizers"}  # one repeat will do: its ratio is far from any target


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print tables, and write the records where --jsonl says."""
    options = parse(argv)
    try:
        batch = list(cut(options.text, options.megabytes))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    n_bytes = sum(len(text.encode()) for text in batch)
    print(f"{len(batch)} documents, {n_bytes / 1e6:.1f} MB; a vocabulary of {options.vocab_size}", flush=True)
    tokenizer = Tokenizer.train(batch, vocab_size=options.vocab_size, special_tokens=[])
    peers = {name: make(tokenizer) for name, make in installed().items()}
    ours = nanograd(tokenizer)
    records = []
    for cores in (1, 2):
        with on_cores(cores):
            records += encoding(ours, peers, batch, n_bytes, options.repeats, f"encode, {cores} core(s)")
            if find_spec("rs_bpe"):
                theirs, same_ranks = rs_bpe()
                named = f"encode cl100k_base, {cores} core(s)"
                records += encoding(nanograd(same_ranks), {"rs_bpe": theirs}, batch, n_bytes, options.repeats, named)
    with on_cores(1):
        records += decoding(ours, peers, batch, n_bytes, options.repeats)
        records += worst_cases(ours, peers, batch, options.repeats)
    records += first_use(tokenizer)
    if options.jsonl:
        options.jsonl.write_text("".join(json.dumps(record) + "\n" for record in records))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a file or folder of text (the embedded Wikipedia excerpt)")
    parser.add_argument("--megabytes", type=float, default=8, help="how much of it (8)")
    parser.add_argument("--vocab-size", type=int, default=32768, metavar="N", help="tokens (32768)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns of each contestant (5)")
    parser.add_argument("--jsonl", type=Path, metavar="FILE", help="where to write the numbers, a record a line")
    return parser.parse_args(argv)


def cut(source: Path | None, megabytes: float) -> Iterator[str]:
    """Documents of some DOCUMENT characters, cut at line ends."""
    left = int(megabytes * 1e6)
    for text in documents(source):
        start = 0
        while start < len(text) and left > 0:
            end = text.find("\n", start + DOCUMENT) + 1 or len(text)
            yield text[start:end]
            left -= end - start
            start = end


def in_turns(contestants: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats):
        for name, run in contestants.items():
            if turn and name in SLOWEST:
                continue
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def encoding(
    ours: Peer, peers: dict[str, Peer], batch: list[str], n_bytes: int, repeats: int, title: str
) -> list[Record]:
    """A batch of documents to ids."""

    def cold() -> None:
        ours.forget()
        ours.encode(batch)

    expected = ours.encode(batch).ids
    for name, peer in peers.items():
        found = np.concatenate([np.array(ids) for ids in encoded(peer, batch)])
        if not np.array_equal(found, expected):
            raise SystemExit(f"{title}: {name} gives other ids, so nothing is measured")
    contestants: dict[str, Callable[[], object]] = {OURS_COLD: cold, OURS_WARM: partial(ours.encode, batch)}
    contestants |= {name: partial(peer.encode, batch) for name, peer in peers.items()}
    return show(title, in_turns(contestants, repeats), n_bytes)


def encoded(peer: Peer, batch: list[str]) -> Sequence[Sequence[int]]:
    """A list of ids for each text."""
    found = peer.encode(batch)
    return found[0] if isinstance(found, tuple) else found  # rs_bpe adds counts and seconds


def decoding(ours: Peer, peers: dict[str, Peer], batch: list[str], n_bytes: int, repeats: int) -> list[Record]:
    """Ids to one str: from an array here, from a list there."""
    ids = ours.encode(batch).ids
    contestants: dict[str, Callable[[], object]] = {"nanograd": partial(ours.decode, ids)}
    contestants |= {name: partial(peer.decode, ids.tolist()) for name, peer in peers.items()}
    for name, run in contestants.items():
        if run() != "".join(batch):
            raise SystemExit(f"decode: {name} gives another text")
    return show("decode, 1 core", in_turns(contestants, repeats), n_bytes)


def show(title: str, seconds: dict[str, float], n_bytes: int) -> list[Record]:
    """Print one table; the same as records."""
    print(f"\n{title:28}{'MB/s':>10}{'of its speed, we have':>24}")
    first = next(iter(seconds.values()))
    for name, time_ in seconds.items():
        ratio = "" if name.startswith("nanograd") else f"{time_ / first:22.1f} ×"
        print(f"{name:28}{n_bytes / 1e6 / time_:10.1f}{ratio}", flush=True)
    return [
        {"task": title, "contestant": name, "seconds": time_, "bytes": n_bytes, "ratio": time_ / first}
        for name, time_ in seconds.items()
    ]


def worst_texts(batch: list[str]) -> dict[str, str]:
    """A million characters each of what has stopped tokenizers before."""
    rng = random.Random(0)
    ordinary = "".join(batch)[:WORST]
    return {
        "ordinary text": ordinary,
        "one letter": "a" * WORST,
        "random letters": "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=WORST)),
        "text without spaces": "".join(c for c in "".join(batch) if c.isalpha())[:WORST],
        "spaces": " " * WORST,
        "newlines": "\n" * WORST,
        "=": "=" * WORST,
        "digits": "".join(rng.choices("0123456789", k=WORST)),
        "Latin-1": "".join(rng.choices([chr(c) for c in range(0xC0, 0x100)], k=WORST)),
        "Han": "".join(rng.choices([chr(c) for c in range(0x4E00, 0x9FA6)], k=WORST // 3)),
    }


def worst_cases(ours: Peer, peers: dict[str, Peer], batch: list[str], repeats: int) -> list[Record]:
    """Seconds for one hard text; what cannot do it says "fails"."""
    records = []
    print(
        f"\n{'1 MB of …':22}"
        + "".join(f"{name:>14}" for name in ("nanograd", *peers))
        + "   a byte, of ordinary text's"
    )
    for title, text in worst_texts(batch).items():
        ours.forget()
        seconds = {"nanograd": in_turns({"": partial(ours.encode, [text])}, repeats)[""]}
        seconds |= {name: _seconds_or_failure(peer, text) for name, peer in peers.items()}
        per_byte = seconds["nanograd"] / len(text.encode())
        records.append({"task": f"worst case: {title}", "seconds": seconds, "bytes": len(text.encode())})
        ordinary = records[0]["seconds"]["nanograd"] / records[0]["bytes"]
        times = "".join(f"{'fails' if time_ is None else f'{time_:.3f} s':>14}" for time_ in seconds.values())
        print(f"{title:22}{times}{per_byte / ordinary:10.1f} ×", flush=True)
    return records


def _seconds_or_failure(peer: Peer, text: str) -> float | None:
    start = time.perf_counter()
    try:
        with silent_stderr():
            peer.encode([text])
    except KeyboardInterrupt:
        raise
    except BaseException:  # a panic of Rust code is no Exception
        return None
    return time.perf_counter() - start


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Nothing is written to the process's standard error: a panic prints a page."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


FIRST_USE = """
import sys, time
from pre_process.tokenizer import Tokenizer
tokenizer, start = Tokenizer.load(sys.argv[1]), time.perf_counter()
tokenizer.encode("All work and no play. " * 500_000)
print(time.perf_counter() - start)
"""


def first_use(tokenizer: Tokenizer) -> list[Record]:
    """Seconds until a new process has encoded 11 MB: where nothing is compiled yet, and where it was before."""
    records: list[Record] = []
    print()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        environment = os.environ | {"NUMBA_CACHE_DIR": str(Path(folder) / "compiled")}
        for title in ("after installing", "in a later process"):
            command = [sys.executable, "-c", FIRST_USE, folder]
            run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            records.append({"task": f"first use {title}", "seconds": float(run.stdout)})
            print(f"first use {title}: {float(run.stdout):.1f} s", flush=True)
    return records


if __name__ == "__main__":
    raise SystemExit(main())
