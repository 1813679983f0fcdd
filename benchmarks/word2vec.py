"""word2vec beside gensim: words per second, and how good the vectors are.

    python -m benchmarks.word2vec [--text ../shared/data/books] [--rounds 3] [--threads 2] [--json FILE]
    python -m benchmarks.word2vec --quality [--seeds 3] [--epochs 5]    adds a few minutes

All read one file of words, a sentence a line, and must find the same vocabulary, or no time is printed. Each contestant
has a process of its own and takes its turns, one epoch at a time; gensim is given its words both ways, as a file and as
lists, and its better way counts. Words per second are raw: those that thinning out leaves out count too. Vectors of 100
numbers, window 5, 5 negatives, words that occur 5 times. Medians, with the slowest and the fastest in brackets.
"""

import argparse
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import turns
from benchmarks.word2vec_contestants import ARCHITECTURES, SCAN, Gensim, Ours, Question, Reply
from nanograd import terminal
from pre_process.corpus import documents
from pre_process.word2vec.evaluate import ANALOGIES, SIMLEX, WORDSIM

OURS, FROM_FILE, FROM_LISTS = "nanograd", "gensim (file)", "gensim (lists)"
CONTESTANTS = (OURS, FROM_FILE, FROM_LISTS)
LONGEST = 10_000  # words in a line: gensim drops what is behind them
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

Found = dict[tuple[str, str], list[float]]  # (what, contestant) → seconds of each turn


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, append; returns the exit code."""
    options = parse(argv)
    turns.set_threads(options.threads)
    turns.check_appendable(options.json)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "words.txt"
        n_words = write_corpus(options.text, path)
        with turns.processes(prepare, CONTESTANTS, path, options.threads) as lines:
            records = show_speed(measure(lines, options.rounds), n_words, options.threads)
            if options.quality:
                records += show_quality(judge(lines, records, options.epochs, options.seeds), options.epochs)
    turns.append(
        options.json, [record | {"threads": options.threads, "machine": turns.machine()} for record in records]
    )
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a file or folder of text (the embedded Wikipedia excerpt)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each contestant (3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="default: all cores")
    parser.add_argument("--quality", action="store_true", help="train to the end and measure the vectors too")
    parser.add_argument("--epochs", type=int, default=5, metavar="N", help="of --quality (5)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="of --quality (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append a line for each number")
    options = parser.parse_args(argv)
    if min(options.rounds, options.threads, options.epochs, options.seeds) < 1:
        parser.error("--rounds, --threads, --epochs and --seeds must be at least 1")
    return options


def write_corpus(source: Path | None, path: Path) -> int:
    """The words of a text, in lower case, a line of the text a line of the file; how many there are."""
    n_words = 0
    with path.open("w", encoding="utf-8") as file:
        for words in sentences(source):
            file.write(" ".join(words) + "\n")
            n_words += len(words)
    return n_words


def sentences(source: Path | None) -> Iterator[list[str]]:
    """The words of each line of the text."""
    for text in documents(source):
        for line in text.lower().splitlines():
            words = _WORD.findall(line)
            yield from (words[start : start + LONGEST] for start in range(0, len(words), LONGEST))


def prepare(contestant: str, path: Path, threads: int) -> Callable[[Question], Reply]:
    """What a contestant's process does when it is asked."""
    return Ours(path, threads) if contestant == OURS else Gensim(path, threads, as_lists=contestant == FROM_LISTS)


def measure(lines: turns.Lines, rounds: int) -> Found:
    """Seconds of each turn. Raises ValueError unless all find the same vocabulary."""
    found: Found = {(what, contestant): [] for what in (*ARCHITECTURES, SCAN) for contestant in CONTESTANTS}
    vocabularies: dict[str, str] = {}
    for turn in range(rounds):
        for what, contestant in found:
            turns.say(f"round {turn + 1} of {rounds}: {what}, {contestant}")
            answer = turns.ask(contestant, lines[contestant], Question(what))
            found[what, contestant].append(answer.seconds)
            vocabularies[contestant] = f"{answer.n_words} words, {answer.n_kept} kept, {answer.vocabulary[:12]}"
    if len(set(vocabularies.values())) > 1:
        raise ValueError(f"the contestants find different words, so no time counts: {vocabularies}")
    return found


def show_speed(found: Found, n_words: int, threads: int) -> list[dict[str, Any]]:
    """Print a row for each kind of work; the same as records."""
    print(f"{n_words:,} words, {threads} threads, {turns.machine()}: million words per second")
    print(f"{'':12}" + "".join(f"{contestant:>24}" for contestant in CONTESTANTS) + f"{'our speed is':>16}")
    records = []
    for what in (*ARCHITECTURES, SCAN):
        seconds = {contestant: found[what, contestant] for contestant in CONTESTANTS}
        best = min(statistics.median(seconds[contestant]) for contestant in CONTESTANTS[1:])
        ratio = best / statistics.median(seconds[OURS])
        print(
            f"{what:12}" + "".join(f"{_rate(n_words, seconds[name]):>24}" for name in CONTESTANTS) + f"{ratio:14.1f} ×"
        )
        for contestant, all_seconds in seconds.items():
            speed = n_words / statistics.median(all_seconds)
            records.append({"what": what, "contestant": contestant, "words_per_second": speed, "seconds": all_seconds,
                            "words": n_words, "ratio": best / statistics.median(all_seconds)})  # fmt: skip
    return records


def _rate(n_words: int, seconds: Sequence[float]) -> str:
    middle, low, high = (n_words / 1e6 / value for value in (statistics.median(seconds), max(seconds), min(seconds)))
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def judge(lines: turns.Lines, speeds: Sequence[dict[str, Any]], epochs: int, seeds: int) -> list[dict[str, Any]]:
    """Scores of vectors that were trained to the end: ours, and gensim's from the input that it is faster with."""
    records = []
    for what in ARCHITECTURES:
        theirs = max((speed for speed in speeds if speed["what"] == what and speed["contestant"] != OURS),
                     key=lambda speed: speed["words_per_second"])  # fmt: skip
        for seed in range(seeds):
            for contestant in (OURS, theirs["contestant"]):
                turns.say(f"seed {seed + 1} of {seeds}: {what}, {contestant}")
                answer = turns.ask(contestant, lines[contestant], Question(what, epochs, seed, measure=True))
                turns.say("  ".join(f"{test} {score:.3f}" for test, score in answer.scores.items()))
                record = {"what": what, "contestant": contestant, "seed": seed, "epochs": epochs}
                records.append(record | {"seconds": answer.seconds, "scores": answer.scores})
    return records


def show_quality(records: list[dict[str, Any]], epochs: int) -> list[dict[str, Any]]:
    """Print means over the seeds, with the lowest and the highest; the same records."""
    tests = (WORDSIM, SIMLEX, ANALOGIES)
    for what in ARCHITECTURES:
        print(f"\n{what}, {epochs} epochs" + "".join(f"{test:>24}" for test in tests) + f"{'seconds':>10}")
        for contestant in dict.fromkeys(record["contestant"] for record in records if record["what"] == what):
            mine = [record for record in records if (record["what"], record["contestant"]) == (what, contestant)]
            cells = (_spread([record["scores"][test] for record in mine]) for test in tests)
            seconds = statistics.median(record["seconds"] for record in mine)
            print(f"{contestant:{len(what) + 10}}" + "".join(f"{cell:>24}" for cell in cells) + f"{seconds:10.1f}")
    return records


def _spread(scores: Sequence[float]) -> str:
    return f"{statistics.mean(scores):.3f} ({min(scores):.3f}–{max(scores):.3f})"


if __name__ == "__main__":
    sys.exit(terminal.run(main))
