"""Batches prepared in the background while the ones before them are worked on."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

DEPTH = 2  # batches that wait ready, beside the one that is worked on


def ahead(make: Callable[[T], R], items: Iterable[T], depth: int = DEPTH) -> Generator[tuple[R, float]]:
    """`make(item)` for each item, in order, with the seconds that its taker had to wait for it.

    A thread makes up to `depth` of them before they are asked for, so that many and one more are in memory; with 0 each is
    made when it is asked for. `make` may only depend on its item. What it raises is raised when its turn comes.
    """
    if depth == 0:
        for item in items:
            began = time.perf_counter()
            yield make(item), time.perf_counter() - began
        return
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="tlmtl-feed")
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > depth:
                yield _taken(waiting)
        while waiting:
            yield _taken(waiting)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _taken(waiting: "deque[Future[R]]") -> tuple[R, float]:
    began = time.perf_counter()
    return waiting.popleft().result(), time.perf_counter() - began
