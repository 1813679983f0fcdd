"""Jobs for several threads of Python, which run side by side while they are inside compiled code."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

TICK = 0.2  # seconds between two looks at Ctrl-C and the clock

Job = TypeVar("Job")


def run_jobs(
    jobs: Iterable[Job], new_worker: Callable[[], Callable[[Job], None]], threads: int, tick: Callable[[], None]
) -> None:
    """Each thread makes a worker and gives it one job after another; the calling thread ticks.

    What a worker, the iterable or `tick` raises, KeyboardInterrupt included, ends all threads after their present job
    and is raised here.
    """
    queue, lock, stop = iter(jobs), threading.Lock(), threading.Event()

    def serve() -> None:
        work = new_worker()
        while not stop.is_set():
            with lock:
                try:
                    job = next(queue)
                except StopIteration:
                    return
            work(job)

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(serve) for _ in range(threads)]
        try:
            while (state := wait(futures, TICK, FIRST_EXCEPTION)).not_done:
                if any(future.exception() for future in state.done):
                    break
                tick()
        finally:
            stop.set()
    for future in futures:
        future.result()
