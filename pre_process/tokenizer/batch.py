"""Several texts' ids: behind each other, or as one rectangle with padding and a mask of what is real."""

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np

from pre_process.tokenizer.vocabulary import TokenizerError

Side = Literal["left", "right"]


class Rows(NamedTuple):
    """Ids of several texts behind each other: text i has ids[starts[i]:starts[i + 1]]."""

    ids: np.ndarray  # (n,) integers
    starts: np.ndarray  # (texts + 1,) int64


def join_rows(blocks: Sequence[Rows]) -> Rows:
    """The rows of all blocks, one behind the other."""
    if len(blocks) == 1:
        return blocks[0]
    lengths = np.concatenate([np.diff(block.starts) for block in blocks])
    return Rows(np.concatenate([block.ids for block in blocks]), starts_of(lengths))


def starts_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """(N + 1,) int64: where each of N things begins when they lie behind each other, and where the last ends."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def split_rows(rows: Rows) -> list[np.ndarray]:
    """The ids of each text, as views."""
    return [rows.ids[start:end] for start, end in pairwise(rows.starts.tolist())]


def with_specials(parts: Sequence[Sequence[str | int]], plain: Sequence[np.ndarray]) -> Rows:
    """Rows of texts that were cut into `parts`: ids of special tokens, and plain text whose ids `plain` has in turn."""
    stretches = iter(plain)
    rows = [[np.array([part], np.int32) if isinstance(part, int) else next(stretches) for part in cut] for cut in parts]
    lengths = [sum(map(len, row)) for row in rows]
    return Rows(np.concatenate([np.empty(0, np.int32), *(ids for row in rows for ids in row)]), starts_of(lengths))


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def truncate_ids(ids: np.ndarray, *, max_length: int | None, truncate: Side | None) -> np.ndarray:
    """`ids` (n,) cut to `max_length`; `truncate` names the side that is dropped. Too long and None: TokenizerError."""
    if max_length is not None and max_length < 1:
        raise TokenizerError(f"max_length is {max_length}: at least 1 token must fit")
    if max_length is None or len(ids) <= max_length:
        return ids
    if truncate is None:
        raise TokenizerError(
            f"a text has {len(ids)} tokens, max_length is {max_length}: shorten it or say truncate='left' or 'right'"
        )
    _check_side(truncate)
    return ids[-max_length:] if truncate == "left" else ids[:max_length]


def pad_batch(rows: Sequence[np.ndarray], *, pad: Side | None, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n_b,) → ids (B, T) int32 and mask (B, T) bool, True = real token; T is the longest row.

    `pad` names the side where `pad_id` is written; None adds nothing and wants rows of one length (TokenizerError).
    """
    lengths = [len(row) for row in rows]
    if pad is None and len(set(lengths)) > 1:
        raise TokenizerError(f"pad is None but the texts have {min(lengths)} to {max(lengths)} tokens: choose a side")
    if pad is not None:
        _check_side(pad)
    ids = np.full((len(rows), max(lengths, default=0)), pad_id, dtype=np.int32)
    mask = np.zeros(ids.shape, dtype=np.bool_)
    for b, row in enumerate(rows):
        real = slice(ids.shape[1] - len(row), None) if pad == "left" else slice(len(row))
        ids[b, real] = row
        mask[b, real] = True
    return ids, mask


def _check_side(side: str) -> None:
    if side not in get_args(Side):
        raise TokenizerError(f"unknown side {side!r}: choose 'left' or 'right'")
