"""The API endpoints: XML-RPC on any path nobody else claims, JSON-RPC on two."""

from lab.failures import XapiFailure
from lab.faults import LIST_METHODS
from lab.pool import Pool
from lab.web.connection import Connection, Request
from lab.web.server import Routes, refuse
from lab.wire import jsonrpc, xmlrpc
from lab.wire.values import Value

BODY_LIMIT = 300 << 10
UNREADABLE = "\ufffd"
XML = {"content-type": "text/xml"}
JSON = {"content-type": "application/json"}
CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-headers": "X-Requested-With, Content-Type",
    "access-control-allow-methods": "POST, OPTIONS",
}


class RpcEndpoints:
    """Answers API calls over HTTP for one pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def add_to(self, routes: Routes) -> None:
        """Take the paths of the API."""
        routes.add("POST", "/", self.xml)
        for path in ("/json", "/jsonrpc"):
            routes.add("POST", path, self.json)
        for path in ("/", "/json", "/jsonrpc"):
            routes.add("OPTIONS", path, self.options)

    def options(self, connection: Connection, request: Request) -> bool:
        """Answer a browser's question before its call."""
        connection.answer(request, 200, b"", CORS)
        return True

    def xml(self, connection: Connection, request: Request) -> bool:
        """Answer an XML-RPC call."""
        body = _body(connection, request)
        if body is None:
            return _too_long(connection, request)
        try:
            method, parameters = xmlrpc.parse_call(_readable(body))
        except xmlrpc.Malformed as cause:
            return refuse(connection, request, 500, xmlrpc.escape(str(cause)))
        try:
            _require_unicode(body, parameters)
            value = self._call(connection, method, parameters)
            answer = xmlrpc.bare(value) if method == LIST_METHODS else xmlrpc.success(value)
        except XapiFailure as error:
            answer = xmlrpc.failure(error)
        connection.answer(request, 200, answer, XML)
        return True

    def json(self, connection: Connection, request: Request) -> bool:
        """Answer a JSON-RPC call."""
        body = _body(connection, request)
        if body is None:
            return _too_long(connection, request)
        try:
            call = jsonrpc.parse_call(_readable(body))
        except xmlrpc.Malformed as cause:
            return refuse(connection, request, 500, xmlrpc.escape(str(cause)))
        try:
            _require_unicode(body, call.parameters)
            value = self._call(connection, call.method, call.parameters)
            answer = jsonrpc.success(call, value)
        except XapiFailure as error:
            answer = jsonrpc.failure(call, error)
        connection.answer(request, 200, answer, JSON | CORS)
        return True

    def _call(self, connection: Connection, method: str, parameters: list[Value]) -> Value:
        host = self._pool.host_at(connection.host)
        try:
            return self._pool.dispatcher.answer(method, parameters, host)
        except XapiFailure:
            raise
        except Exception as error:  # the server reports any breakage this way
            raise XapiFailure("INTERNAL_ERROR", repr(error)) from error


def _body(connection: Connection, request: Request) -> bytes | None:
    length = request.content_length or 0
    if length > BODY_LIMIT:
        return None
    if "100-continue" in request.headers.get("expect", "").lower():
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    return connection.read(length)


def _too_long(connection: Connection, request: Request) -> bool:
    """Refuse a body without keeping it, and read it to its end so that the answer is seen."""
    refuse(connection, request, 413)
    connection.drain()
    return False


def _readable(body: bytes) -> bytes:
    """Put a mark in place of what is not UTF-8, so that the rest of the call can be read."""
    if body.isascii() or (
        b"encoding=" in body[:100].lower() and b"utf-8" not in body[:100].lower()
    ):
        return body
    return body.decode(errors="replace").encode()


def _require_unicode(body: bytes, parameters: list[Value]) -> None:
    """Refuse a call that is not UTF-8 as a whole.

    Raises:
        XapiFailure: INVALID_VALUE.
    """
    if _readable(body) != body:
        marked = next((p for p in parameters if isinstance(p, str) and UNREADABLE in p), "")
        raise XapiFailure("INVALID_VALUE", "a parameter that is not UTF-8", marked)
