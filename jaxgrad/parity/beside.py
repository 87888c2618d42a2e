"""Work done beside the run, in threads: NumPy and XLA both let others run while they compute."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore
from types import TracebackType
from typing import Any

MOST_WAITING = 16
"""So many pieces of work may wait at once: what they hold is not freed before."""


def threads() -> int:
    """How many threads to work in: as many as there are processors, no more than eight."""
    return max(1, min(8, os.cpu_count() or 2))


def together(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """The work on each item, in threads; the results in the order of the items."""
    with ThreadPoolExecutor(max_workers=threads()) as pool:
        return list(pool.map(work, items))


WORTH_A_THREAD = 100_000
"""Entries of an array; the work on fewer is done before a thread has begun."""


def side_by_side(one: Callable[[], Any], other: Callable[[], Any], entries: int) -> tuple[Any, Any]:
    """Both results; the two computed at once, where there are entries enough to make that worth while."""
    if entries < WORTH_A_THREAD:
        return one(), other()
    with ThreadPoolExecutor(max_workers=1) as pool:  # gone at the end: no thread is left behind
        started = pool.submit(other)
        return one(), started.result()


class Beside:
    """A few threads, while inside ``with``; ``start`` waits where too much is waiting already."""

    def __init__(self) -> None:
        self._room = BoundedSemaphore(MOST_WAITING)
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Beside:
        self._pool = ThreadPoolExecutor(max_workers=threads())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._pool is not None
        self._pool.shutdown(cancel_futures=True)
        self._pool = None

    def start(self, entries: int, work: Callable[..., Any], *given: Any) -> Future[Any]:
        """Begin a piece of work on so many entries; its ``result()`` waits for it, and raises what it raised."""
        assert self._pool is not None
        if entries < WORTH_A_THREAD:
            done: Future[Any] = Future()
            done.set_result(work(*given))
            return done
        self._room.acquire()
        try:
            started = self._pool.submit(work, *given)
        except BaseException:
            self._room.release()
            raise
        started.add_done_callback(lambda done: self._room.release())
        return started
