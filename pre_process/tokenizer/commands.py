"""The four commands of `python -m pre_process.tokenizer`: train, encode, decode, inspect; files of any size."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pre_process.corpus import documents
from pre_process.terminal import console
from pre_process.tokenizer.documents import text_parts
from pre_process.tokenizer.formats import TextTokenizer, open_tokenizer
from pre_process.tokenizer.hugging_face_parts import Settings
from pre_process.tokenizer.id_files import read_ids, write_ids
from pre_process.tokenizer.inspection import Usage, encode
from pre_process.tokenizer.inspection_report import print_text, print_usage, print_vocabulary
from pre_process.tokenizer.json_files import faults_named
from pre_process.tokenizer.tokenizer import FILE_NAME, Tokenizer
from pre_process.tokenizer.vocabulary import TokenizerError

DECODED_TOGETHER = 1 << 20  # ids
Progress = Callable[[str, int, int], None]  # (what is done, how much, of how much)


def train(
    files: Sequence[Path],
    out: Path,
    settings: Settings,
    *,
    vocab_size: int,
    special_tokens: Sequence[str],
    min_frequency: int,
) -> None:
    """Learn from text files (or .jsonl, one document a line) and write `out`/tokenizer.json."""
    if (out / FILE_NAME).exists():  # said before the work, not after it
        raise FileExistsError(f"{out / FILE_NAME} is there already: choose another folder or delete it")
    _check_folder(out)
    total, started = sum(path.stat().st_size for path in files), time.perf_counter()
    with bar() as show:
        tokenizer = Tokenizer.train(
            _texts(files, lambda done: show("reading", done, total), whole=settings.add_prefix_space),
            **settings._asdict(),
            vocab_size=vocab_size,
            special_tokens=special_tokens,
            min_frequency=min_frequency,
            progress=lambda done, wanted: show("merging", done, wanted),
        )
    tokenizer.save(out)
    seconds = time.perf_counter() - started
    fewer = "" if tokenizer.vocab_size == vocab_size else f" (no more pairs occur {min_frequency} times)"
    print(f"{tokenizer.vocab_size:,} tokens{fewer} from {total:,} bytes in {seconds:.1f} s: {out / FILE_NAME}")


def _check_folder(out: Path) -> None:
    """Raise OSError now if `out` cannot be a folder; what only writing can tell is told then."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file, not a folder to write into")


def _texts(files: Sequence[Path], progress: Callable[[int], None], *, whole: bool) -> Iterator[str]:
    before = 0
    for path in files:
        if path.suffix.lower() == ".jsonl":
            yield from documents(path)
        elif whole:
            yield "".join(part for part, _ in text_parts(path))
        else:
            for part, done in text_parts(path):
                progress(before + done)
                yield part
        before += path.stat().st_size


def encode_file(tokenizer: TextTokenizer, path: Path, out: Path, *, allow_special: bool) -> None:
    """The whole file as one document: its ids in `out`."""
    total = path.stat().st_size
    with bar() as show:
        parts = _encoded(tokenizer, path, allow_special, lambda done: show("encoding", done, total))
        n = write_ids(out, parts, vocab_size=tokenizer.vocab_size)
    print(f"{n:,} ids from {total:,} bytes ({total / max(1, n):.2f} bytes per token): {out}")


def _encoded(
    tokenizer: TextTokenizer, path: Path, allow_special: bool, progress: Callable[[int], None]
) -> Iterator[np.ndarray]:
    for text, done in _parts(tokenizer, path, whole=allow_special):
        yield encode(tokenizer, text, allowed_special="all" if allow_special else ())
        progress(done)


def _parts(tokenizer: TextTokenizer, path: Path, *, whole: bool = False) -> Iterator[tuple[str, int]]:
    """The file in parts if their ids are those of the file; else all of it."""
    byte_by_byte = isinstance(tokenizer, Tokenizer) and tokenizer.settings[1:] == ("none", False, False)
    if byte_by_byte and not whole:
        yield from text_parts(path)
    else:
        yield "".join(part for part, _ in text_parts(path)), path.stat().st_size


def encode_lines(tokenizer: TextTokenizer, path: Path | None, *, allow_special: bool) -> None:
    """Each line of a file, or of standard input, as one document: its ids in one line."""
    name = str(path) if path else "standard input"
    with path.open("rb") if path else contextlib.nullcontext(sys.stdin.buffer) as lines:
        for number, line in enumerate(lines, 1):
            try:
                text = line.removesuffix(b"\n").decode("utf-8")
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                raise TokenizerError(
                    f"{name}, line {number}: not UTF-8 text (byte {byte:#04x} at offset {error.start})"
                ) from None
            ids = encode(tokenizer, text, allowed_special="all" if allow_special else ())
            print(*ids.tolist())


def decode_file(tokenizer: TextTokenizer, path: Path, *, keep_special: bool) -> None:
    """The text of the ids in a .npy file, on standard output and without anything added."""
    all_ids = read_ids(path)
    with faults_named(path):
        for ids in _decodable(tokenizer, all_ids):
            sys.stdout.write(tokenizer.decode(ids, skip_special=not keep_special))


def _decodable(tokenizer: TextTokenizer, ids: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of `ids` that can be decoded one by one: each but the first begins with the first byte of a character."""
    if not isinstance(tokenizer, Tokenizer):
        yield ids
        return
    special = set(tokenizer.special_tokens.values())
    starts = np.array(
        [i not in special and token[0] & 0xC0 != 0x80 for i, token in enumerate(tokenizer.vocabulary.tokens)]
    )
    begin, end = 0, DECODED_TOGETHER
    while end < len(ids):
        known = ids[end] < len(starts)  # an unknown id is for decode to refuse
        if not known or starts[ids[end]]:
            yield ids[begin:end]
            begin, end = end, end + DECODED_TOGETHER
        else:
            end += 1
    yield ids[begin:]


def inspect(path: Path, file: Path | None, *, show: int) -> None:
    """The vocabulary in tables; of a file its first `show` characters, cut into tokens, and how well it is served."""
    tokenizer, screen = open_tokenizer(path), console()
    if file is None:
        print_vocabulary(screen, tokenizer)
        return
    usage, total, beginning = Usage(tokenizer), file.stat().st_size, ""
    with bar() as progress:
        for part, done in _parts(tokenizer, file):
            beginning += part[: show - len(beginning)]
            usage.add(part)
            progress("counting", done, total)
    if beginning:
        print_text(screen, tokenizer, beginning)
    print_vocabulary(screen, tokenizer)
    print_usage(screen, usage, file.name)


@contextlib.contextmanager
def bar() -> Iterator[Progress]:
    """Yield `show(what, done, total)`: a bar on a terminal's standard error, once it has taken more than a second."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console, started = Console(stderr=True), time.perf_counter()
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    shown = Bar(*columns, console=console, transient=True)
    task = shown.add_task("", total=None)

    def show(what: str, done: int, total: int) -> None:
        if not shown.live.is_started and console.is_terminal and time.perf_counter() - started > 1:
            shown.start()
        shown.update(task, description=what, completed=done, total=total)

    try:
        yield show
    finally:
        if shown.live.is_started:
            shown.stop()
