"""Floor 3. Many matrices made orthogonal at once, on a GPU. The formula is in nanograd/optim/newton_schulz.py.

Matrices of one shape go through each step together, three batched products and nothing between them: the sums are what
cuBLASLt adds up anyway, D = α A B + β C,

    A = X Xᵀ,    P = c A A + b A,    X ← P X + a X
"""

from collections.abc import Iterator, Sequence

from nanograd.backend import Array, ArrayModule, array_module
from nanograd.kernels.cuda.cublaslt import gemm, matmul_precision, precision_of

Shape = tuple[int, int]
SHORTEST = 1e-7  # a shorter matrix is not made longer than the formula would


def orthogonalize_all(
    flat: Array,
    shapes: Sequence[Shape],
    coefficients: tuple[float, float, float],
    steps: int,
    *,
    may_round: bool,
) -> None:
    """float32 matrices of these shapes, one behind the other in `flat` (n,): each U S Vᵀ becomes U Vᵀ, in place.

    may_round  products are by tf32 at least, for which a GPU has circuits of their own
    """
    xp, precision = array_module(flat), matmul_precision()
    with precision_of("tf32" if may_round and precision == "float32" else precision):
        for x in stacks(flat, shapes):
            x[...] = _orthogonalize(xp, x.reshape(-1, *x.shape[-2:]), coefficients, steps).reshape(x.shape)


def stacks(flat: Array, shapes: Sequence[Shape]) -> Iterator[Array]:
    """All matrices of a shape in one view (blocks, of a block, rows, columns), as far as they lie regularly in `flat`.

    A model's blocks are alike: the pattern of their shapes is sought, then neighbours of one shape in it.
    """
    pattern = next(
        shapes[:n] for n in range(1, len(shapes) + 1) if list(shapes) == list(shapes[:n]) * (len(shapes) // n)
    )
    blocks = flat.reshape(len(shapes) // len(pattern), -1)
    start = first = 0
    for i, (rows, columns) in enumerate(pattern):
        if i + 1 == len(pattern) or pattern[i + 1] != (rows, columns):
            end = start + (i + 1 - first) * rows * columns
            yield blocks[:, start:end].reshape(len(blocks), -1, rows, columns)
            start, first = end, i + 1


def _orthogonalize(xp: ArrayModule, x: Array, coefficients: tuple[float, float, float], steps: int) -> Array:
    """x (n, rows, columns), a copy of it: for tall matrices A = Xᵀ X and X ← X P + a X, so that A is small"""
    a, b, c = coefficients
    x = x / xp.maximum(xp.sqrt(xp.sum(x * x, axis=(1, 2), keepdims=True)), SHORTEST)
    tall, small = x.shape[1] > x.shape[2], min(x.shape[1:])
    gram, polynomial, other = (xp.empty((len(x), *shape), x.dtype) for shape in ((small, small),) * 2 + (x.shape[1:],))
    for _ in range(steps):
        gemm(xp, x, x, gram, transpose_a=tall, transpose_b=not tall)
        gemm(xp, gram, gram, polynomial, alpha=c, beta=b, addend=gram)
        left, right = (x, polynomial) if tall else (polynomial, x)
        gemm(xp, left, right, other, beta=a, addend=x)
        x, other = other, x
    return x
