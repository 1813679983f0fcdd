"""Floor 6. Times by the device's own clock, and the ceilings of this card."""

import statistics
from collections.abc import Callable
from typing import Any

from nanograd.backend import ArrayModule

COPY = 1 << 30  # bytes: more than any cache
SQUARE = 8192  # rows and columns of the product that says what the card can do


def seconds_of(xp: ArrayModule, call: Callable[[], Any], *, repeat: int = 10, warm_up: int = 2) -> float:
    """Median time of one call, between two events on the current stream."""
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(repeat):
        start, stop = xp.cuda.Event(), xp.cuda.Event()
        start.record()
        call()
        stop.record()
        stop.synchronize()
        times.append(float(xp.cuda.get_elapsed_time(start, stop)) / 1e3)
    return statistics.median(times)


def copy_bandwidth(xp: ArrayModule, *, n_bytes: int = COPY) -> float:
    """Bytes per second, read and written, of a copy on the device."""
    source = xp.zeros(n_bytes // 4, xp.float32)
    target = xp.empty_like(source)
    return 2 * n_bytes / seconds_of(xp, lambda: xp.copyto(target, source))


def product_rate(
    xp: ArrayModule, dtype: Any, *, rows: int = SQUARE, inner: int = SQUARE, columns: int = SQUARE
) -> float:
    """FLOP/s of (rows, inner) times (columns, inner) transposed, by whatever ops.linear runs on this device."""
    from nanograd import ops
    from nanograd.tensor import Tensor, no_grad

    x, weight = (Tensor(xp.ones((n, inner), xp.float32).astype(dtype)) for n in (rows, columns))
    with no_grad():
        return 2 * rows * inner * columns / seconds_of(xp, lambda: ops.linear(x, weight, None))


def about_device(xp: ArrayModule) -> dict[str, Any]:
    """Name, compute capability, memory, versions."""
    properties = xp.cuda.runtime.getDeviceProperties(xp.cuda.runtime.getDevice())
    return {
        "name": properties["name"].decode(),
        "capability": f"{properties['major']}.{properties['minor']}",
        "memory_gb": properties["totalGlobalMem"] / 1e9,
        "multiprocessors": properties["multiProcessorCount"],
        "driver": xp.cuda.runtime.driverGetVersion(),
        "runtime": xp.cuda.runtime.runtimeGetVersion(),
        "cupy": xp.__version__,
    }
