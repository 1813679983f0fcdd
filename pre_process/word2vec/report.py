"""What `python -m pre_process.word2vec` prints: progress, neighbours, the tables of an evaluation."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pre_process.terminal import printable, short
from pre_process.word2vec.evaluate import Evaluation
from pre_process.word2vec.word_vectors import WordVectors

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Near = Sequence[tuple[str, float]]  # words with their cosines, the nearest first


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Yield `show("training words", done, total)`: a bar with speed and time left, on standard error if a terminal.

    total is 0 where it isn't known yet.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{thousands(task.speed)} {task.description.split()[-1]}/s" if task.speed else "")

    console, tasks = Console(stderr=True), dict[str, TaskID]()
    columns = TextColumn("{task.description}"), BarColumn(), Speed(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bar.update(task, visible=False)
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=total or None)

        yield show


def thousands(number: float) -> str:
    """1234567 → "1.23 M", 56789 → "57 k", 12 → "12"."""
    if number >= 999_500:
        return f"{number / 1e6:.2f} M"
    return f"{number / 1e3:.0f} k" if number >= 999.5 else f"{number:.0f}"


def neighbours_table(columns: Mapping[str, Near]) -> "Table":
    """A column for each word or question: what is nearest, with its cosine. All have as many."""
    table = _table()
    for title in columns:
        table.add_column(printable(title), overflow="fold")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*(f"{short(word)} {cosine:.2f}" for word, cosine in row))
    return table


def print_evaluation(console: "Console", found: Evaluation) -> None:
    """Both correlations and the analogies, and how much of each test the vocabulary covers."""
    table = _table("", "score", "asked", "out of vocabulary")
    for name, pairs in found.pairs.items():
        score = "–" if pairs.spearman is None else f"{pairs.spearman:.3f}"
        table.add_row(name, score, f"{pairs.used:,} of {pairs.total:,} pairs", _lacking(pairs.used, pairs.total))
    total = found.analogies
    table.add_row(
        "analogies", _share(total.share), f"{total.asked:,} of {found.n_analogies:,} questions",
        _lacking(total.asked, found.n_analogies),
    )  # fmt: skip
    console.print(table)
    console.print("pairs: Spearman's correlation with people; analogies: share of right answers")
    kinds = _table("analogies of the kind", "right", "asked", "share")
    for section in (section for section in found.sections if section.asked):
        kinds.add_row(section.name, f"{section.right:,}", f"{section.asked:,}", _share(section.share))
    if kinds.rows:
        console.print(kinds)


def as_record(found: Evaluation) -> dict[str, Any]:
    """The same for machines; shares are numbers from 0 to 1, null where nothing was asked."""
    sections = [dataclasses.asdict(section) | {"share": section.share} for section in found.sections]
    analogies = {"share": found.analogies.share, "right": found.analogies.right, "asked": found.analogies.asked}
    pairs = {name: dataclasses.asdict(pairs) for name, pairs in found.pairs.items()}
    return pairs | {"analogies": analogies | {"total": found.n_analogies, "sections": sections}}


def print_training(console: "Console", rows: Sequence[tuple[str, str]], words: WordVectors) -> None:
    """What training took, in rows, and what stands near some words of medium frequency."""
    table = _table("", "")
    table.columns[1].justify, table.show_header = "left", False
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(neighbours_table({short(word): words.nearest(word, 5) for word in _examples(words.words)}))


def _examples(words: Sequence[str]) -> list[str]:
    """Four words, a little rarer each, from the hundredth on if there are so many; longer ones say more."""
    candidates = [word for word in words[min(100, len(words) // 4) :] if len(word) > 3] or list(words)
    return [candidates[place] for place in (0, 100, 300, 700) if place < len(candidates)]


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _lacking(used: int, total: int) -> str:
    return f"{(total - used) / total:.1%}"


def _table(*titles: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, title in enumerate(titles):
        table.add_column(title, justify="right" if place else "left")
    return table
