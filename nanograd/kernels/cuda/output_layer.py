"""Floor 3. linear_cross_entropy with the gradients made in forward. Twin of nanograd/ops/loss.py.

The loss is a single number, so its gradients are known up to the factor dy as soon as the logits are: while a chunk of
logits is there, forward turns it into its own gradient, in place, and adds up dx, dW and db. That saves one product of
four, and backward only multiplies by dy. How many targets are real, and dy, stay on the device: nobody waits for them.
Memory traffic, in arrays as large as the logits: 2, beside the three products of a chunk.
"""

import math
from typing import Any

import numpy as np

from nanograd.backend import Array, ArrayModule
from nanograd.kernels.cuda.cublaslt import gemm, offers
from nanograd.kernels.cuda.launch import Twin, aligned, launch, type_name
from nanograd.kernels.cuda.loss import ids_of, mean_loss, threads
from nanograd.ops.loss import linear_cross_entropy
from nanograd.primitive import Needs
from nanograd.tensor import ADDED, is_recording

Into = tuple[Array | None, ...]
CHUNK = 1 << 29  # logits that are held at a time: 1 GiB in bf16. Each chunk reads and writes all of dW
SCALE = 256.0  # of a chunk's slopes, taken out again in backward: float16 has no numbers below 6e-8


def _forward(
    xp: ArrayModule,
    x: Array,
    weight: Array,
    bias: Array,
    targets: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Any:
    if not _fit(x, weight, bias):
        return NotImplemented
    t, rows = ids_of(xp, (*x.shape[:-1], len(weight)), targets, ignore_index), x.reshape(-1, x.shape[-1])
    memory = xp.empty((_rows_at_once(len(rows), len(weight)), len(weight)), x.dtype)  # of a chunk of logits
    gradients = _gradients(xp, rows, weight, bias) if is_recording() else None
    if t is None or not _can_multiply(xp, rows, weight, bias, memory, gradients):
        return NotImplemented
    losses, settings = xp.empty(t.size, np.float32), (ignore_index, float(label_smoothing), float(z_loss))
    _through_chunks(xp, rows, weight, bias, t, memory, losses, gradients, settings)
    loss, share = mean_loss(xp, losses, t, ignore_index)
    if gradients is None:
        return loss, (None, None, None, None)
    return loss, (gradients[0].reshape(x.shape), *gradients[1:], share)


def _fit(x: Array, weight: Array, bias: Array | None) -> bool:
    """Shapes and types that the chunks can be made of."""
    if x.ndim < 1 or weight.ndim != 2 or not x.size or not weight.size or x.shape[-1] != weight.shape[1]:
        return False
    if bias is not None and bias.shape != weight.shape[:1]:
        return False
    return type_name(x.dtype) is not None and aligned(x, weight, bias)


def _gradients(xp: ArrayModule, rows: Array, weight: Array, bias: Array | None) -> tuple[Array, Array, Array | None]:
    """Room for dx, dW and db. Sums over rows are float32."""
    dbias = None if bias is None else xp.empty(bias.shape, np.float32)
    return xp.empty(rows.shape, rows.dtype), xp.empty(weight.shape, np.float32), dbias


def _rows_at_once(N: int, V: int) -> int:
    """A power of two, so that most chunks are whole tiles of a product."""
    return min(N, 1 << max(0, (CHUNK // V).bit_length() - 1))


def _can_multiply(xp: ArrayModule, x: Array, weight: Array, bias: Array | None, z: Array, gradients: Any) -> bool:
    """Whether cuBLASLt has the products of a chunk."""
    some = x[: len(z)]
    if not offers(xp, some, weight, z, transpose_b=True, **_epilogue(bias)):
        return False
    if gradients is None:
        return True
    return offers(xp, z, weight, gradients[0][: len(z)]) and offers(xp, z, some, gradients[1], transpose_a=True)


def _epilogue(bias: Array | None) -> dict[str, Any]:
    return {} if bias is None else {"epilogue": "bias", "bias": bias}


def _through_chunks(
    xp: ArrayModule,
    x: Array,
    weight: Array,
    bias: Array | None,
    t: Array,
    memory: Array,
    losses: Array,
    gradients: Any,
    settings: tuple[Any, ...],
) -> None:
    """Fill `losses` and, unless they are None, the gradients: SCALE · number of real targets times what they should be.

    z = x Wᵀ + b,  z ← dz,  dx = dz W,  dW += dzᵀ x,  db += 1ᵀ dz
    """
    N, step = len(x), len(memory)
    ones: Array = None if bias is None else xp.ones((1, step), x.dtype)
    for i in range(0, N, step):
        here, beta = slice(i, i + step), float(i > 0)
        some, z = x[here], memory[: N - i]
        gemm(xp, some, weight, z, transpose_b=True, **_epilogue(bias))
        if gradients is None:
            _losses(xp, z, t[here], losses[here], settings)
            continue
        _slopes_in_place(xp, z, t[here], losses[here], settings)
        dx, dweight, dbias = gradients
        gemm(xp, z, weight, dx[here])
        gemm(xp, z, some, dweight, transpose_a=True, beta=beta)
        if dbias is not None:
            gemm(xp, ones[:, : len(z)], z, dbias[None], beta=beta)


def _losses(xp: ArrayModule, z: Array, t: Array, losses: Array, settings: tuple[Any, ...]) -> None:
    kernel, (m, total) = f"cross_entropy_{type_name(z.dtype)}", xp.empty((2, len(z)), np.float32)
    launch(xp, kernel, len(z), threads(z.shape[1]), z, t, losses, m, total, z.shape[1], *settings)


def _slopes_in_place(xp: ArrayModule, z: Array, t: Array, losses: Array, settings: tuple[Any, ...]) -> None:
    kernel = f"cross_entropy_in_place_{type_name(z.dtype)}"
    launch(xp, kernel, len(z), threads(z.shape[1]), z, t, losses, z.shape[1], *settings, SCALE)


def _backward(
    xp: ArrayModule,
    dy: Array,
    dx: Array,
    dweight: Array,
    dbias: Array,
    share: Array,
    *,
    needs: Needs,
    into: Into,
    **settings: Any,
) -> Any:
    """Each gradient times dy · share / SCALE, added to the leaf's where it has one"""
    return *(
        _times(xp, dy, share, gradient, target) if wanted else None
        for gradient, target, wanted in zip((dx, dweight, dbias), into, needs, strict=False)
    ), None


def _times(xp: ArrayModule, dy: Array, share: Array, gradient: Array, target: Array | None) -> Any:
    """In place, where no target waits: forward made the gradient for this alone."""
    there = target is not None and target.dtype == gradient.dtype and aligned(target)
    out = target if there else gradient
    n, kernel = gradient.size, f"scale_gradient_{type_name(gradient.dtype)}"
    blocks = min(2112, math.ceil(n / 1024))  # sixteen for each SM of an H100
    launch(xp, kernel, blocks, 256, gradient, out, dy, share, 1 / SCALE, int(there), np.int64(n))
    return ADDED if there else gradient


TWINS = (Twin(linear_cross_entropy, _forward, _backward, accumulates=True),)
