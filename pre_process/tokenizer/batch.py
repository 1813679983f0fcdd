"""Several texts' ids as one rectangle: padding left or right, a limit on the length, and a mask of what is real."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from pre_process.tokenizer.vocabulary import TokenizerError

Side = Literal["left", "right"]


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
