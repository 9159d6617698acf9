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


@contextmanager
def counted_bytes(kind: Callable[[str, int], str]) -> Generator[Counter[str], None, None]:
    """Count the bytes of all sockets, of those that are closed meanwhile as well.

    Args:
        kind: What to count a socket under, from its peer's address and port; empty: not at all.

    Yields:
        Filled at the end.
    """
    found: Counter[str] = Counter()
    before: dict[int, int] = {}

    def note(sock: Any, *, at_begin: bool = False) -> None:
        with suppress(OSError, ValueError):
            if sock.family == socket.AF_INET and sock.type & socket.SOCK_STREAM:
                inode, peer = os.fstat(sock.fileno()).st_ino, sock.getpeername()
                told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
                passed = sum(struct.unpack_from("<QQ", told, _ACKED_AND_RECEIVED_AT))
                if at_begin:
                    before[inode] = passed
                elif name := kind(peer[0], peer[1]):
                    found[name] += passed - before.get(inode, 0)

    real: Callable[..., Any] = socket.socket._real_close  # type: ignore[attr-defined]

    def closing(self: Any, *more: Any) -> None:
        note(self)
        real(self, *more)

    _each_open(lambda sock: note(sock, at_begin=True))
    socket.socket._real_close = closing  # type: ignore[attr-defined]
    try:
        yield found
    finally:
        socket.socket._real_close = real  # type: ignore[attr-defined]
        _each_open(note)


def _each_open(use: Callable[[socket.socket], None]) -> None:
    for link in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError, ValueError):
            if str(link.readlink()).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(link.name))) as sock:
                    use(sock)
