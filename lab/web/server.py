"""Listening, routing, and one thread per connection."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable

from lab.web.connection import BadRequest, Connection, Request

Handler = Callable[[Connection, Request], bool]

HTML = {"content-type": "text/html"}
BACKLOG = 512


class Routes:
    """Which handler answers which method and path; the longest matching prefix wins.

    A handler returns whether the connection may go on.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, dict[str, Handler]] = {}

    def add(self, method: str, prefix: str, handler: Handler) -> None:
        """Let a handler answer every path that starts with `prefix`."""
        self._handlers.setdefault(method, {})[prefix] = handler

    def handle(self, connection: Connection, request: Request) -> bool:
        """Answer one request."""
        prefixes = self._handlers.get(request.method)
        if prefixes is None:
            return refuse(connection, request, 501)
        fitting = [prefix for prefix in prefixes if request.path.startswith(prefix)]
        if not fitting:
            return refuse(connection, request, 404 if request.method == "GET" else 403)
        return prefixes[max(fitting, key=len)](connection, request)


def refuse(connection: Connection, request: Request, status: int, text: str = "") -> bool:
    """Answer with an HTML page and hang up."""
    body = f"<html><body><h1>HTTP {status}</h1><p>{text}</p></body></html>".encode()
    connection.answer(request, status, body, HTML | {"connection": "close"})
    return False


class Listener:
    """A listening socket whose connections are served by routes."""

    def __init__(
        self,
        routes: Routes,
        address: tuple[str, int],
        *,
        tls: ssl.SSLContext | None = None,
        host: int = 0,
    ) -> None:
        self._routes = routes
        self._tls = tls
        self._host = host
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._stopping = False
        self._socket = socket.create_server(address, backlog=BACKLOG)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._thread = threading.Thread(target=self._accept, name="lab-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and hang up on everyone."""
        self._stopping = True
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
        while not self._stopping:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open.add(sock)
        try:
            if self._tls is not None:
                with self._tls.wrap_socket(sock, server_side=True) as secured:
                    self._talk(secured)
            else:
                self._talk(sock)
        except (OSError, BadRequest, ValueError):
            # The client hung up or does not speak HTTP; there is nobody to tell.
            pass
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _talk(self, sock: socket.socket) -> None:
        connection = Connection(sock, self._host)
        try:
            for request in connection.requests():
                goes_on = self._routes.handle(connection, request)
                if not goes_on or not request.keeps_alive:
                    return
        finally:
            connection.close()
