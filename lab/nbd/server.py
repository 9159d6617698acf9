"""Listening for NBD clients: at most 16 at once, one thread each."""

import socket
import ssl
from contextlib import suppress

from lab.failures import XapiFailure
from lab.nbd.session import Disconnected, NbdSession
from lab.pool import Pool
from lab.sockets import Listener

MAX_CONNECTIONS = 16


def nbd_listener(pool: Pool, address: tuple[str, int], tls: ssl.SSLContext) -> Listener:
    """Serve the disks of a pool over NBD on one host's address."""

    def serve(sock: socket.socket) -> None:
        purpose = pool.hosts.nbd_purpose()
        if not purpose or listener.count() > MAX_CONNECTIONS:
            return
        # The server tells a client nothing but by hanging up.
        with suppress(Disconnected, ValueError, XapiFailure):
            NbdSession(pool, sock, tls if purpose == "nbd" else None).run()

    listener = Listener(address, serve)
    return listener
