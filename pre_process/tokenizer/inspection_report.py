"""What `python -m pre_process.tokenizer inspect` prints: a text with its token borders, tables about the vocabulary."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pre_process.tokenizer.formats import TextTokenizer
from pre_process.tokenizer.inspection import Usage, encode, longest_tokens, readable, show

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# Neighbours differ in their background; these four are in every terminal, and black is readable on them.
_STYLES = tuple(f"black on bright_{colour}" for colour in ("cyan", "yellow", "green", "magenta"))
_EXAMPLES = 8


def print_text(console: "Console", tokenizer: TextTokenizer, text: str) -> None:
    """The text with a colour for each token; where there are no colours, with a bar between tokens."""
    if console.is_terminal and not console.no_color:
        console.print(_coloured(tokenizer, text), soft_wrap=True)
    else:
        console.print(show(tokenizer, text), soft_wrap=True)


def _coloured(tokenizer: TextTokenizer, text: str) -> "Text":
    from rich.text import Text

    tokens = (readable(tokenizer.token_bytes(int(token_id))) for token_id in encode(tokenizer, text))
    return Text.assemble(*((token, _STYLES[i % len(_STYLES)]) for i, token in enumerate(tokens)))


def print_vocabulary(console: "Console", tokenizer: TextTokenizer) -> None:
    """What is in the vocabulary, whatever the text."""
    lengths = np.array([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)])
    rows = [
        ("tokens", f"{tokenizer.vocab_size:,}"),
        ("special", ", ".join(tokenizer.special_tokens) or "none"),
        ("bytes in a token", f"{lengths.mean():.1f} on average, {lengths.max()} at most"),
        ("longest", _listed(tokenizer, longest_tokens(tokenizer, _EXAMPLES))),
    ]
    _print_rows(console, "vocabulary", rows)


def print_usage(console: "Console", usage: Usage, name: str) -> None:
    """How the vocabulary fits the text that `usage` has counted."""
    tokenizer, unused = usage.tokenizer, usage.unused()
    share = len(unused) / max(1, tokenizer.vocab_size - len(tokenizer.special_tokens))
    used = np.flatnonzero(usage.counts)
    rows = [
        ("text", f"{usage.n_bytes:,} bytes, {usage.n_words:,} words, {usage.n_tokens:,} tokens"),
        ("bytes per token", f"{usage.bytes_per_token:.2f}"),
        ("tokens per word", f"{usage.tokens_per_word:.2f}"),
        ("most frequent", "  ".join(_counted(usage)) or "none"),
        ("longest in it", _listed(tokenizer, longest_tokens(tokenizer, _EXAMPLES, used))),
        ("unused", f"{len(unused):,} tokens ({share:.1%})"),
        ("longest unused", _listed(tokenizer, longest_tokens(tokenizer, _EXAMPLES, unused))),
    ]
    _print_rows(console, name, rows)


def _print_rows(console: "Console", title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Name and value of each row: folded to a terminal's width, in a pipe a line each."""
    from rich.table import Table

    console.print(f"\n{title}", style="bold")
    if not console.is_terminal:
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            console.print(f"{name:<{width}}  {value}", soft_wrap=True)
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _counted(usage: Usage) -> Iterator[str]:
    for token_id, count in usage.most_frequent(_EXAMPLES):
        yield f"{_quoted(usage.tokenizer, token_id)} {count:,}"


def _listed(tokenizer: TextTokenizer, ids: Iterable[int]) -> str:
    return "  ".join(_quoted(tokenizer, token_id) for token_id in ids) or "none"


def _quoted(tokenizer: TextTokenizer, token_id: int) -> str:
    """A token for a table: spaces visible, without line breaks, cut to a length that leaves room for others."""
    text = readable(tokenizer.token_bytes(token_id)).replace("\n", "").replace(" ", "␣")
    return text if len(text) <= 40 else f"{text[:39]}…"
