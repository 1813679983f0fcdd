"""Cross-entropy of logits against target ids, and of an output layer whose logits are never held whole."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from nanograd.backend import Array, ArrayModule
from nanograd.ops.matrix import linear
from nanograd.ops.reduction import accumulator, max_and_sum_exp
from nanograd.primitive import Needs, Value, loss_primitive

CHUNK = 1 << 24  # logits that linear_cross_entropy holds at a time: 64 MiB of float32


@loss_primitive
def cross_entropy(
    xp: ArrayModule,
    logits: Array,
    targets: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Value:
    """Mean over real tokens of ℓ − (1 − ε) zₜ − ε ⟨z⟩ + ζ ℓ²,  ℓ = ln Σⱼ exp zⱼ.   logits (…, V), targets (…) → ()

    A token is real unless its target is `ignore_index`; with no real token the loss is 0 and so is its gradient.
    ε = label_smoothing: the target distribution is mixed with the uniform one (Szegedy et al. 2015, arXiv:1512.00567).
    ζ = z_loss keeps ℓ near 0 (PaLM, arXiv:2204.02311, uses 1e-4). Raises ValueError for a target outside [0, V).
    """
    targets = xp.asarray(targets)
    _check(xp, logits, targets, ignore_index)
    z, t = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    real = t != ignore_index
    t = xp.where(real, t, 0)
    wide = accumulator(z.dtype)
    m, total = _over_rows(xp, z)  # (N,) each; ℓ = m + ln total
    each = xp.log(total) - (1 - label_smoothing) * (z[xp.arange(t.size), t] - m)  # differences: exact for any offset
    if label_smoothing:
        each -= label_smoothing * (z.mean(axis=1, dtype=wide) - m)
    if z_loss:
        each += z_loss * xp.square(m + xp.log(total))
    share = real / xp.maximum(real.sum(dtype=wide), 1)  # each real token's weight in the mean
    return xp.where(real, each * share, 0).sum().astype(logits.dtype), (logits, t, m, total, share)


@cross_entropy.backward
def _(
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
    """dz = dy · share · ((1 + 2 ζ ℓ) softmax(z) − (1 − ε) onehot(t) − ε/V), computed in dz itself"""
    share = dy * share
    slope = share if not z_loss else share * (1 + 2 * z_loss * (m + xp.log(total)))
    dz = logits.reshape(-1, logits.shape[-1]) - m[:, None]
    xp.exp(dz, out=dz)
    dz *= (slope / total)[:, None]
    if label_smoothing:
        dz -= (share * (label_smoothing / dz.shape[1]))[:, None]
    dz[xp.arange(t.size), t] -= (1 - label_smoothing) * share
    return dz.astype(logits.dtype, copy=False).reshape(logits.shape), None


@loss_primitive
def linear_cross_entropy(
    xp: ArrayModule,
    x: Array,
    weight: Array,
    bias: Array,
    targets: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Value:
    """cross_entropy(linear(x, W, b), targets).   x (…, C), weight (V, C), bias (V,) or None, targets (…) → ()

    The logits are the largest array of a language model by far, so a chunk of rows is made at a time, and made again in
    backward. A chunk's mean loss counts in proportion to its real tokens. Settings and errors as in cross_entropy.
    """
    targets = xp.asarray(targets)
    if targets.shape != x.shape[:-1] or weight.ndim != 2 or not len(weight):
        raise ValueError("x (…, C) needs weight (V, C) and integer targets (…)")
    settings = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "z_loss": z_loss}
    rows, t = x.reshape(targets.size, x.shape[-1]), targets.reshape(-1)
    loss = xp.zeros((), accumulator(x.dtype))
    for chunk, share in _chunks(xp, t, weight, ignore_index):
        z, _ = linear.formula.forward(xp, rows[chunk], weight, bias)
        mean, _ = cross_entropy.formula.forward(xp, z, t[chunk], **settings)
        loss += share * mean
    return loss.astype(x.dtype), (x, weight, bias, t)


@linear_cross_entropy.backward
def _(
    xp: ArrayModule,
    dy: Array,
    x: Array,
    weight: Array,
    bias: Array,
    t: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    needs: Needs,
) -> Any:
    """For each chunk: z = x Wᵀ + b,  dz as in cross_entropy,  dx = dz W,  dW += dzᵀ x,  db += Σ dz"""
    settings = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "z_loss": z_loss}
    gradients = [
        xp.zeros(a.shape, a.dtype) if wanted else None for a, wanted in zip((x, weight, bias), needs, strict=False)
    ]
    rows, dx, (_, *sums) = x.reshape(t.size, x.shape[-1]), gradients[0], gradients
    for chunk, share in _chunks(xp, t, weight, ignore_index):
        z, _ = linear.formula.forward(xp, rows[chunk], weight, bias)
        _, saved = cross_entropy.formula.forward(xp, z, t[chunk], **settings)
        dz, _ = cross_entropy.formula.backward(xp, dy * share, *saved, needs=(True, False), **settings)  # type: ignore[misc]
        dx_chunk, *parts = linear.formula.backward(xp, dz, rows[chunk], weight, needs=needs[:3])  # type: ignore[misc]
        if dx is not None:
            dx.reshape(rows.shape)[chunk] = dx_chunk
        for total, part in zip(sums, parts, strict=True):
            if total is not None:
                total += part
    return *gradients, None


def _chunks(xp: ArrayModule, t: Array, weight: Array, ignore_index: int) -> Iterator[tuple[slice, Array]]:
    """Slices of rows with at most CHUNK logits, but a row at least, and their shares of all real tokens."""
    real, step = t != ignore_index, max(1, CHUNK // len(weight))
    n_real = xp.maximum(real.sum(), 1)
    for i in range(0, t.size, step):
        chunk = slice(i, i + step)
        yield chunk, (real[chunk].sum() / n_real).astype(accumulator(weight.dtype))


def _over_rows(xp: ArrayModule, z: Array) -> tuple[Array, Array]:
    """max z and Σ exp(z − max z) of each row of (N, V).

    NumPy takes a few rows at a time: there is no second (N, V) array, and what is computed on the way stays in cache.
    """
    m, total = xp.empty((2, len(z)), accumulator(z.dtype))
    step = max(1, 2**18 // z.shape[1] if xp is np else len(z))
    for i in range(0, len(z), step):
        rows = slice(i, i + step)
        m[rows, None], total[rows, None] = max_and_sum_exp(xp, z[rows], 1)
    return m, total


def _check(xp: ArrayModule, logits: Array, targets: Array, ignore_index: int) -> None:
    """Wrong shapes would broadcast, wrong ids read another logit: refuse both. Ids are looked at on a CPU only."""
    if targets.shape != logits.shape[:-1] or targets.dtype.kind not in "iu" or not logits.shape[-1]:
        raise ValueError("logits (…, V) need integer targets (…)")
    if xp is np:
        wrong = ((targets < 0) | (targets >= logits.shape[-1])) & (targets != ignore_index)
        if wrong.any():
            raise ValueError(f"target {targets[wrong][0]} is outside the vocabulary of vocab_size={logits.shape[-1]}")
