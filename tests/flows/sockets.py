"""How many bytes went through the TCP sockets of this process, as the kernel counts them."""

import os
import socket
import struct
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_TCP_INFO_BYTES, _ACKED_AND_RECEIVED_AT = 192, 120
Kind = Callable[[str, int], str]


class _Counting:
    """Looks at each socket when it is shut down and when it is closed."""

    def __init__(self, kind: Kind) -> None:
        self._kind, self.found = kind, Counter[str]()
        self._kinds: dict[int, str] = {}
        self._before: dict[int, int] = {}

    def connected(self, sock: Any) -> None:
        with suppress(OSError, ValueError):
            host, port = sock.getpeername()[:2]
            self._kinds[os.fstat(sock.fileno()).st_ino] = self._kind(host, port)

    def note(self, sock: Any, *, first: bool = False, last: bool = False) -> None:
        with suppress(OSError, ValueError):
            inode = os.fstat(sock.fileno()).st_ino
            if inode not in self._kinds:
                self.connected(sock)
            told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            passed = sum(struct.unpack_from("<QQ", told, _ACKED_AND_RECEIVED_AT))
            if not first and (name := self._kinds.get(inode)):
                self.found[name] += passed - self._before.get(inode, 0)
            self._before[inode] = passed
            if last:
                del self._before[inode], self._kinds[inode]


@contextmanager
def counted_bytes(kind: Kind) -> Generator[Counter[str], None, None]:
    """Count the bytes of all sockets, of those that are closed meanwhile as well.

    Args:
        kind: What to count a socket under, from its peer's address and port; empty: not at all.

    Yields:
        Filled while the `with` lasts, and complete after it.
    """
    counting = _Counting(kind)
    made: Any = socket.socket
    connect, shutdown, close = made.connect, made.shutdown, made._real_close

    def connecting(self: Any, address: Any) -> None:
        try:
            connect(self, address)
        finally:
            counting.connected(self)

    def shutting(self: Any, how: int) -> None:
        counting.note(self)
        shutdown(self, how)

    def closing(self: Any, *more: Any) -> None:
        counting.note(self, last=True)
        close(self, *more)

    _each_open(lambda sock: counting.note(sock, first=True))
    made.connect, made.shutdown, made._real_close = connecting, shutting, closing
    try:
        yield counting.found
    finally:
        made.connect, made.shutdown, made._real_close = connect, shutdown, close
        _each_open(counting.note)


def _each_open(use: Callable[[socket.socket], None]) -> None:
    for link in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError, ValueError):
            if str(link.readlink()).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(link.name))) as sock:
                    use(sock)
