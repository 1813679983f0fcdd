"""Learning a vocabulary beside Hugging Face's tokenizers and rustbpe: from the same texts to the same tokens.

    python -m benchmarks.tokenizer_training [--text ../shared/data/books] [--vocab-size 32768] [--jsonl FILE]

The contestants take turns, in a process of its own for each number of threads, which runs on so many cores. Every run's
tokens are compared, and if they are not the same no time is printed. rustbpe numbers bytes by value and the others as
Hugging Face does, which decides ties; so for it our merges are learnt once more with its numbers. Printed are medians,
and how many times as long as we a contestant takes. Our code is compiled before: that happens once on a machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from pre_process.corpus import documents
from pre_process.tokenizer import Tokenizer
from pre_process.tokenizer.byte_level import from_visible, utf8
from pre_process.tokenizer.pre_tokenize import PATTERNS, PatternName
from pre_process.tokenizer.vocabulary import Vocabulary

Record = dict[str, Any]
N_BYTES = 256  # the tokens before the first merge


class Contestant(NamedTuple):
    """`train` is what is timed: texts, vocab_size, threads; `tokens` are those that its merges have made, in order."""

    train: Callable[[list[str], int, int], Any]
    tokens: Callable[[Any], list[bytes]]
    numbers_bytes_by_value: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table for each number of threads."""
    options = parse(argv)
    if len(options.threads) > 1:
        return max([run_apart(options, threads) for threads in options.threads])
    [threads] = options.threads
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    texts = list(documents(options.text))
    n_bytes = sum(len(text.encode()) for text in texts)
    print(
        f"\n{len(texts)} documents, {n_bytes / 1e6:.1f} MB, {options.vocab_size} tokens, {threads} thread(s)",
        flush=True,
    )
    seconds = measure(contestants(options.pattern), texts, options, threads)
    common = {"threads": threads, "bytes": n_bytes, "vocab_size": options.vocab_size, "pattern": options.pattern}
    records = [record | common for record in show(seconds, n_bytes)]
    if options.jsonl:
        with options.jsonl.open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a file or folder of text (the embedded Wikipedia excerpt)")
    parser.add_argument("--vocab-size", type=int, default=32768, metavar="N", help="tokens (32768)")
    parser.add_argument("--pattern", choices=("gpt2", "cl100k"), default="gpt2", help="how text is cut (gpt2)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="numbers of threads (1 2)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="turns of each contestant (3)")
    parser.add_argument("--jsonl", type=Path, metavar="FILE", help="where to add the numbers, a record a line")
    return parser.parse_args(argv)


def run_apart(options: argparse.Namespace, threads: int) -> int:
    """The same for one number of threads: what the others make their threads from is read once in a process."""
    settings = {**vars(options), "threads": threads}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if value is not None]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    return subprocess.run([sys.executable, "-m", "benchmarks.tokenizer_training", *flags], env=environment).returncode


def contestants(pattern: PatternName) -> dict[str, Contestant]:
    """Those that are installed, ours first."""
    made = {"nanograd": nanograd(pattern)}
    for name, make in (("tokenizers", tokenizers), ("rustbpe", rustbpe)):
        if find_spec(name):
            made[f"{name} {version(name)}"] = make(pattern)
    return made


def nanograd(pattern: PatternName) -> Contestant:
    """This project's, compiled."""
    from pre_process.tokenizer import kernels

    kernels.LARGE = 0  # a sample may be so small that it would be done in Python
    Tokenizer.train(["compile now"], vocab_size=300)
    return Contestant(
        lambda texts, vocab_size, threads: Tokenizer.train(
            texts, vocab_size=vocab_size, pattern=pattern, special_tokens=[], min_frequency=1, threads=threads
        ),
        lambda tokenizer: list(tokenizer.vocabulary.tokens[N_BYTES:]),
    )


def tokenizers(pattern: PatternName) -> Contestant:
    """Hugging Face's."""
    from tokenizers import Regex, Tokenizer, models, trainers
    from tokenizers import pre_tokenizers as pre

    def train(texts: list[str], vocab_size: int, _: int) -> Any:
        tokenizer = Tokenizer(models.BPE())
        split = pre.Split(Regex(PATTERNS[pattern]), behavior="isolated")
        to_bytes = pre.ByteLevel(add_prefix_space=False, use_regex=pattern == "gpt2")
        tokenizer.pre_tokenizer = to_bytes if pattern == "gpt2" else pre.Sequence([split, to_bytes])
        alphabet = pre.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        return tokenizer

    def tokens(tokenizer: Any) -> list[bytes]:
        return [from_visible("".join(pair)) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]

    return Contestant(train, tokens)


def rustbpe(pattern: PatternName) -> Contestant:
    """The trainer of nanochat."""
    from rustbpe import Tokenizer

    def train(texts: list[str], vocab_size: int, _: int) -> Any:
        tokenizer = Tokenizer()
        tokenizer.train_from_iterator(iter(texts), vocab_size, pattern=PATTERNS[pattern])
        return tokenizer

    def tokens(tokenizer: Any) -> list[bytes]:
        ranked = sorted(tokenizer.get_mergeable_ranks(), key=lambda token: token[1])
        return [bytes(token) for token, _ in ranked[N_BYTES:]]

    return Contestant(train, tokens, numbers_bytes_by_value=True)


def with_bytes_by_value(texts: list[str], vocab_size: int, pattern: PatternName) -> list[bytes]:
    """The tokens that our merges make when bytes are numbered by their value."""
    from pre_process.tokenizer.kernels.training import CompiledPieces

    tokens = [bytes([byte]) for byte in range(N_BYTES)]
    pieces = CompiledPieces(map(utf8, texts), pattern, threads=1, counted=None)
    start = Vocabulary(tuple(tokens), (), {}, "byte")
    for left, right in pieces.learn_merges(start, n_merges=vocab_size - N_BYTES, min_frequency=1, progress=None):
        tokens.append(tokens[left] + tokens[right])
    return tokens[N_BYTES:]


def measure(
    made: dict[str, Contestant], texts: list[str], options: argparse.Namespace, threads: int
) -> dict[str, list[float]]:
    """name → seconds of each turn. Ends the program if two do not learn the same tokens."""
    by_value = with_bytes_by_value(texts, options.vocab_size, options.pattern)
    expected: list[bytes] | None = None
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(options.repeats):
        for name, contestant in made.items():
            start = time.perf_counter()
            trained = contestant.train(texts, options.vocab_size, threads)
            seconds[name].append(time.perf_counter() - start)
            learnt = contestant.tokens(trained)
            expected = learnt if expected is None else expected
            if learnt != (by_value if contestant.numbers_bytes_by_value else expected):
                raise SystemExit(f"{name} learns other tokens, so no time is printed")
    return seconds


def show(seconds: dict[str, list[float]], n_bytes: int) -> list[Record]:
    """Print the table; the same as records."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ours = medians["nanograd"]
    for name, median in medians.items():
        print(f"{name:20}{median:8.3f} s{n_bytes / 1e6 / median:9.1f} MB/s{median / ours:9.2f} ×", flush=True)
    return [
        {"contestant": name, "seconds": median, "turns": seconds[name], "ratio": median / ours}
        for name, median in medians.items()
    ]


if __name__ == "__main__":
    raise SystemExit(main())
