"""The machine's product peak: what a time per product can be compared with."""

import time

import numpy as np

from nanograd.kernels.cpu.gemm import Precision, matmul_precision, product

SIZE = 1024  # M = K = N: large enough to be busy with arithmetic alone, small enough for the caches
SECONDS = 0.2


def product_peak(precision: Precision | None = None) -> float:
    """GFLOP/s of the fastest product of two 1024 × 1024 matrices, on all threads, measured for a fifth of a second.

    precision  None for `matmul_precision()`. Raises ValueError, as `product` does, for a precision this CPU lacks. The
    fastest call and not the mean: other processes can only make one slower.
    """
    precision = precision or matmul_precision()
    a, b = np.random.default_rng(0).random((2, SIZE, SIZE), np.float32)
    out = np.empty_like(a)
    product(a, b, out, precision=precision)  # compiled and in memory by now
    best, end = np.inf, time.perf_counter() + SECONDS
    while (start := time.perf_counter()) < end:
        product(a, b, out, precision=precision)
        best = min(best, time.perf_counter() - start)
    return 2e-9 * SIZE**3 / float(best)
