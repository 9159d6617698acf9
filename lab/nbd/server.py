"""Listening for NBD clients: at most 16 at once, one thread each."""

import contextlib
import socket
import ssl
import threading

from lab.failures import XapiFailure
from lab.nbd.session import HungUp, NbdSession
from lab.pool import Pool

CONNECTIONS = 16
BACKLOG = 64


class NbdListener:
    """Serves the disks of a pool over NBD on one host's address."""

    def __init__(self, pool: Pool, address: tuple[str, int], tls: ssl.SSLContext) -> None:
        self._pool = pool
        self._tls = tls
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._socket = socket.create_server(address, backlog=BACKLOG)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._thread = threading.Thread(target=self._accept, name="lab-nbd", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and hang up on everyone."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with self._lock:
            connections = list(self._open)
        for sock in connections:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=5)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with self._lock:
            full = len(self._open) >= CONNECTIONS
            self._open.add(sock)
        purpose = self._pool.nbd_purpose()
        try:
            if purpose and not full:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                context = self._tls if purpose == "nbd" else None
                NbdSession(self._pool, sock, context).run()
        except (OSError, HungUp, ValueError, XapiFailure):
            # The server tells a client nothing but by hanging up.
            pass
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()
