"""The threads that compress and seal: one pool for all VMs and disks of a process.

So neither threads nor the segments that wait for one grow with what is in flight. Nothing that runs
here waits for a share: whoever reads does, or one share that stands still would hold up all others.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

_SEGMENTS_EACH = 2
"""Segments in memory for each thread: the one it works on, and the next."""


class Sealers:
    """So many threads, and room for a few segments each."""

    def __init__(self, workers: int) -> None:
        """Start threads as they are needed."""
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="sealer")
        self._room = threading.Semaphore(_SEGMENTS_EACH * workers)

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Have something done; waits while there is no room for it."""
        self._room.acquire()
        try:
            future = self._pool.submit(work)
        except RuntimeError:  # the program is ending
            self._room.release()
            raise
        future.add_done_callback(lambda _: self._room.release())
        return future


_pools: dict[tuple[int, int], Sealers] = {}
"""By process, since a fork has none of the threads of whoever it was forked from, and by number."""
_making = threading.Lock()


def sealers(workers: int) -> Sealers:
    """This process's pool of so many threads."""
    mine = os.getpid(), workers
    with _making:
        if mine not in _pools:
            _pools[mine] = Sealers(workers)
        return _pools[mine]
