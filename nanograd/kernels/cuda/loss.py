"""Floor 3. cross_entropy, a block of threads to a row of logits. Twin of nanograd/ops/loss.py.

How many targets are real, and dy, stay on the device: nobody waits for them. Memory traffic, in arrays as large as the
logits: forward 1, backward 2.
"""

from typing import Any

import numpy as np

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cuda.launch import Twin, aligned, launch, type_name
from nanograd.ops.loss import cross_entropy
from nanograd.primitive import Needs


def ids_of(xp: ArrayModule, logits_shape: tuple[int, ...], targets: Array, ignore_index: int) -> Any:
    """Targets as (N,) int32; None where shapes or types are for the formula to refuse."""
    targets = xp.asarray(targets)
    if targets.shape != logits_shape[:-1] or targets.dtype.kind not in "iu" or not targets.size or not logits_shape[-1]:
        return None
    if not -(2**31) <= ignore_index < 2**31:
        return None
    return xp.ascontiguousarray(targets.reshape(-1).astype(np.int32, copy=False))


def threads(V: int) -> int:
    """Of a block: a row of a small vocabulary is soon read: more rows at a time, then."""
    return 512 if V >= 8192 else 128


def mean_loss(xp: ArrayModule, losses: Array, t: Array, ignore_index: int) -> tuple[Array, Array]:
    """The mean loss over real targets, and 1 / their number: both float32 (), on the device."""
    loss, share = xp.empty((), np.float32), xp.empty((), np.float32)
    launch(xp, "mean_loss", 1, 1024, losses, t, loss, share, t.size, ignore_index)
    return loss, share


def _forward(
    xp: ArrayModule,
    logits: Array,
    targets: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Any:
    t = ids_of(xp, logits.shape, targets, ignore_index)
    if t is None or type_name(logits.dtype) is None or not aligned(logits):
        return NotImplemented
    V, (losses, m, total) = logits.shape[-1], xp.empty((3, t.size), np.float32)
    settings = V, ignore_index, float(label_smoothing), float(z_loss)
    kernel = f"cross_entropy_{type_name(logits.dtype)}"
    launch(xp, kernel, t.size, threads(V), logits, t, losses, m, total, *settings)
    loss, share = mean_loss(xp, losses, t, ignore_index)
    return loss, (logits, t, m, total, share)


def _backward(
    xp: ArrayModule,
    dy: Array,
    logits: Array,
    t: Array,
    m: Array,
    total: Array,
    share: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    needs: Needs,
) -> Any:
    V, dz = logits.shape[-1], xp.empty(logits.shape, logits.dtype)
    settings = V, ignore_index, float(label_smoothing), float(z_loss)
    kernel = f"cross_entropy_backward_{type_name(logits.dtype)}"
    launch(xp, kernel, t.size, threads(V), logits, t, m, total, dy, share, dz, *settings)
    return dz, None


TWINS = (Twin(cross_entropy, _forward, _backward),)
