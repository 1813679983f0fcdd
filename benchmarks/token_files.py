"""Text file → token file, beside tiktoken and Hugging Face's tokenizers: reading, encoding, writing, all of it.

    python -m benchmarks.token_files [--text ../shared/data/books] [--megabytes 50] [--rounds 3] [--threads 2]
        [--json FILE]

The text is cut into documents of about 8 KB, in one jsonl file, and repeated if it is shorter than --megabytes. All
have the same vocabulary, trained on the text. Ours plans the held-out part, writes shards with their hashes and waits
for the disk; the peers append ids to one array and write that. Each has its own process and takes its turns, with no
piece remembered. Unless all write the same ids (their number and sum), nothing is printed.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import turns
from benchmarks.tokenizer import cut
from benchmarks.tokenizer_peers import installed
from pre_process.corpus import documents
from pre_process.token_files import write_tokens
from pre_process.token_shards import open_tokens
from pre_process.tokenizer import Tokenizer

OURS = "nanograd"
Answer = tuple[float, int, int]  # milliseconds, ids, their sum


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, check, print, append; returns the exit code."""
    options = parse(argv)
    turns.set_threads(options.threads)
    turns.check_appendable(options.json)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_corpus(options.text, int(options.megabytes * 1e6), folder / "corpus.jsonl")
        tokenizer = Tokenizer.train(documents(folder / "corpus.jsonl"), vocab_size=options.vocab_size)
        tokenizer.save(folder)
        found = measure([OURS, *installed()], folder, options.rounds, options.threads)
    records = show(found, size, options.threads)
    turns.append(options.json, records)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a file or folder of text (the embedded Wikipedia excerpt)")
    parser.add_argument("--megabytes", type=float, default=50, help="of text (50)")
    parser.add_argument("--vocab-size", type=int, default=32768, metavar="N", help="tokens (32768)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each contestant (3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="default: all cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append one line for each contestant")
    return parser.parse_args(argv)


def write_corpus(source: Path | None, size: int, path: Path) -> int:
    """Documents of some 8 KB as jsonl, until there is enough; the UTF-8 bytes of their texts."""
    texts = list(cut(source, size / 1e6))
    once = sum(len(text.encode()) for text in texts)
    wanted = islice(chain.from_iterable(repeat(texts)), max(1, round(size / once * len(texts))))
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for text in wanted:
            file.write(json.dumps({"text": text}) + "\n")
            written += len(text.encode())
    return written


def prepare(contestant: str, folder: Path, threads: int) -> Callable[[Any], Answer]:
    """What a contestant's process does each time it is asked."""
    tokenizer, corpus, out = Tokenizer.load(folder), folder / "corpus.jsonl", folder / f"{contestant}-tokens"
    if contestant == OURS:
        write_ours(tokenizer, corpus, folder / "compile")  # the compiled code is loaded, or made, before the clock runs

    def run(question: Any) -> Answer:
        shutil.rmtree(out, ignore_errors=True)
        if contestant == OURS:
            fresh = Tokenizer.load(folder)
            ms = turns.milliseconds(lambda: write_ours(fresh, corpus, out))
            ids = [open_tokens(out, split)[:] for split in ("train", "val")]
        else:
            peer = installed()[contestant](tokenizer)
            ms = turns.milliseconds(lambda: write_theirs(peer.encode, tokenizer.end_of_text_id, corpus, out))
            ids = [np.fromfile(out / "tokens.bin", np.uint16)]
        return ms, sum(map(len, ids)), int(sum(part.sum(dtype=np.int64) for part in ids))

    return run


def write_ours(tokenizer: Tokenizer, corpus: Path, out: Path) -> None:
    """The whole of what a user gets."""
    write_tokens(out, lambda: documents(corpus), tokenizer, source="benchmark", source_sha256="")


def write_theirs(encode: Callable[[Sequence[str]], Any], end_of_text_id: int, corpus: Path, out: Path) -> None:
    """As short as it goes with a peer: its batch encoder, uint16, one file."""
    out.mkdir()
    rows = encode(list(documents(corpus)))
    np.concatenate([np.array([*row, end_of_text_id], np.uint16) for row in rows]).tofile(out / "tokens.bin")


def measure(contestants: Sequence[str], folder: Path, rounds: int, threads: int) -> dict[str, list[float]]:
    """Milliseconds of each. Raises ValueError unless all write the same ids."""
    times: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    written = set()
    with turns.processes(prepare, contestants, folder, threads) as lines:
        for turn in range(rounds):
            for contestant in contestants:
                turns.say(f"round {turn + 1} of {rounds}: {contestant}")
                ms, *ids = turns.ask(contestant, lines[contestant], None)
                times[contestant].append(ms)
                written.add(tuple(ids))
    if len(written) > 1:
        raise ValueError(f"the contestants write different ids, so no time counts: (number, sum) are {written}")
    return times


def show(times: dict[str, list[float]], size: int, threads: int) -> list[dict[str, Any]]:
    """Print the table; the same as records."""
    ours = statistics.median(times[OURS])
    print(f"{size / 1e6:.0f} MB of text to token files, {threads} threads, {turns.machine()}")
    print(f"{'':12}{'MB/s':>8}{'our speed is':>16}")
    records = []
    for contestant, values in times.items():
        ms = statistics.median(values)
        print(f"{contestant:12}{size / 1e3 / ms:8.1f}" + (f"{ms / ours:14.1f} ×" if contestant != OURS else ""))
        record = {"contestant": contestant, "ms": ms, "all_ms": values, "bytes": size, "ratio": ms / ours}
        records.append(record | {"threads": threads, "machine": turns.machine()})
    return records


if __name__ == "__main__":
    sys.exit(main())
