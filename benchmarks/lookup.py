"""Finding a token three ways: brute force, binary search, hash table.

    python -m benchmarks.lookup [--text FILE_OR_FOLDER] [--vocab-sizes 512 4096 32768]

Trains a vocabulary of each size on the text (by default the embedded Wikipedia excerpt), checks that the three agree,
and prints microseconds for one look-up: of tokens that are there, of words that are not, and of the longest match,
which asks for one length after the other. Medians; the three take turns.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pre_process.corpus import documents
from pre_process.tokenizer import Tokenizer
from pre_process.tokenizer.lookup import BinarySearchLookup, BruteForceLookup, HashLookup, Lookup

WAYS: dict[str, type[Lookup]] = {
    "brute force": BruteForceLookup,
    "binary search": BinarySearchLookup,
    "hash table": HashLookup,
}
SAMPLES, REPEATS = 60, 5


def main(argv: Sequence[str] | None = None) -> int:
    """Train, compare, measure and print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a file or folder of text (the embedded Wikipedia excerpt)")
    parser.add_argument("--vocab-sizes", type=int, nargs="+", default=[512, 4096, 32768], metavar="N")
    options = parser.parse_args(argv)
    try:
        texts = list(documents(options.text))
        for vocab_size in options.vocab_sizes:
            tokenizer = Tokenizer.train(texts, vocab_size=vocab_size, min_frequency=1)
            show(measure(tokenizer.vocabulary.ids, texts[0].encode()[:20_000]), tokenizer.vocab_size)
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")
    return 0


def measure(ids: dict[bytes, int], data: bytes) -> dict[str, dict[str, float]]:
    """Task → way → microseconds for one look-up. Raises AssertionError if the ways do not agree."""
    rng = random.Random(0)
    hits = rng.choices(list(ids), k=SAMPLES)
    misses = [token + b"\x00" + token for token in hits]
    starts = rng.choices(range(len(data) - 50), k=SAMPLES // 3)
    ways = {name: way(ids) for name, way in WAYS.items()}
    tasks: dict[str, Callable[[Lookup], list[object]]] = {
        "a token": lambda lookup: [lookup.find(token) for token in hits],
        "no token": lambda lookup: [lookup.find(token) for token in misses],
        "longest match": lambda lookup: [lookup.longest_match(data, start) for start in starts],
    }
    found: dict[str, dict[str, float]] = {}
    for task, run in tasks.items():
        answers = [run(way) for way in ways.values()]
        assert all(answer == answers[0] for answer in answers), f"{task}: the three ways do not agree"
        found[task] = {name: 1e6 * seconds / len(answers[0]) for name, seconds in _in_turns(run, ways).items()}
    return found


def _in_turns(run: Callable[[Lookup], object], ways: dict[str, Lookup]) -> dict[str, float]:
    """The median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            start = time.perf_counter()
            run(way)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def show(found: dict[str, dict[str, float]], vocab_size: int) -> None:
    """Print one table."""
    print(f"\n{vocab_size} tokens, µs for one look-up; and how many times as long as the hash table")
    print(f"{'':15}" + "".join(f"{task:>24}" for task in found))
    for name in WAYS:
        times = [(row[name], row[name] / row["hash table"]) for row in found.values()]
        print(f"{name:15}" + "".join(f"{time_:12.2f} ({ratio:7.1f} ×)" for time_, ratio in times))


if __name__ == "__main__":
    raise SystemExit(main())
