"""Routes of HTTP, and who listens for them."""

import contextlib
import socket
import ssl
from collections.abc import Callable

from lab.sockets import Listener
from lab.web.connection import BadRequest, Connection, Request

Handler = Callable[[Connection, Request], bool]

HTML = {"content-type": "text/html"}


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


def http_listener(
    routes: Routes, address: tuple[str, int], *, tls: ssl.SSLContext | None = None, host: int = 0
) -> Listener:
    """Serve routes on an address, with TLS or without; `host` is which of the hosts this is."""

    def serve(sock: socket.socket) -> None:
        with contextlib.suppress(BadRequest, ValueError):  # the client does not speak HTTP
            if tls is None:
                _talk(routes, Connection(sock, host))
                return
            with tls.wrap_socket(sock, server_side=True) as secured:
                _talk(routes, Connection(secured, host))

    return Listener(address, serve)


def _talk(routes: Routes, connection: Connection) -> None:
    try:
        for request in connection.requests():
            goes_on = routes.handle(connection, request)
            if not goes_on or not request.keeps_alive:
                return
    finally:
        connection.close()
