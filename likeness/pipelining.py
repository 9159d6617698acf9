"""Work in several threads at once without taking in more input than is being worked on."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def bounded_map(
    work: Callable[[_In], _Out], items: Iterable[_In], *, workers: int, name: str
) -> Iterator[_Out]:
    """Like `map`, in `workers` threads, results in order, at most one item waiting per worker.

    `items` is consumed as results are taken, so an endless one is fine. When `work` raises, the
    error leaves here, and items not yet begun never are.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix=name) as pool:
        pending: deque[Future[_Out]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) >= 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
