"""Compiled twins of the tokenizer's slow half: the same answers from Numba, many times faster. Nothing needs them.

unicode_classes  which characters are letters, numbers, white space: a frozen table
support          how functions are compiled, how bytes reach them
keys             a piece as two numbers, to find it in a table
scanner          cutting UTF-8 into pieces, with boundaries.py for what three bytes tell
counting         how often each piece occurs
words            pieces as words of symbols
pairs, heap      pairs of neighbours, with their counts: all of them, and the most frequent one
merging          which neighbours to join next, with merge_state.py for what it works on
training         documents → merges, on several threads
tables           a vocabulary as arrays
pair_ranks       which two neighbours are joined, and when
apply_merges     a piece → its tokens: three ways with one result; heap_merges.py is the third
trie             the longest token that begins at a place
piece_cache      what became of the pieces seen lately
encoding         documents → ids: all of these in one loop
decoding         ids → bytes
compiled         encoding and decoding for their callers: texts in, arrays out, and back

Importing this package compiles nothing and does not load Numba. Compiling takes seconds, once on a machine; the code is
kept on disk. So a small text is done in Python (`compiled_pays`), and both ways give the same result.
"""

import contextlib
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pre_process import compiled_code

Part = Literal["train", "encode", "decode"]

SMALL = 50_000  # bytes; Python is done with them before Numba is loaded
LARGE = 10_000_000  # bytes; Python takes longer for them than compiling does

_log = logging.getLogger(__name__)
_ready: set[str] = set()  # the parts that this process has loaded
_in_blocks: Counter[str] = Counter()  # bytes that came in blocks of at least SMALL, part by part


def compiled_pays(part: Part, n_bytes: int) -> bool:
    """Should `part` of the work be done by compiled code, for a text of `n_bytes`?

    Large files come in blocks: those that were done in Python count, or compiling would never pay for any of them.
    """
    if n_bytes >= SMALL:
        _in_blocks[part] += n_bytes
        n_bytes = _in_blocks[part]
    return n_bytes >= worth_compiling(part)


def worth_compiling(part: Part) -> float:
    """From how many bytes on compiled code is the quicker way; infinity if NANOGRAD_KERNELS=0 keeps it off.

    0 where the code is in memory already, SMALL where it is on disk, else LARGE.
    """
    if os.environ.get("NANOGRAD_KERNELS") == "0":
        return math.inf
    if part in _ready:
        return 0
    return SMALL if _mark(part).exists() else LARGE


@contextlib.contextmanager
def compiling(part: Part) -> Iterator[bool]:
    """Around the first calls of the kernels of `part`; leaves the mark that they are on disk.

    Yields True if they are not there yet, after saying that this will take a while.
    """
    is_first = part not in _ready and not _mark(part).exists()
    if is_first:
        _log.warning("compiling the tokenizer's code (%s): about 15 seconds, once on this machine", part)
    yield is_first
    if part not in _ready:
        _ready.add(part)
        with contextlib.suppress(OSError):  # then Numba could not keep its code here either
            _mark(part).touch()


def cache_folder() -> Path:
    """Where compiled code is kept, under a name that changes with any of the sources."""
    return compiled_code.cache_folder("tokenizer", Path(__file__).parent)


def _mark(part: Part) -> Path:
    return cache_folder() / f"finished-{part}"
