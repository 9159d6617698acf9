"""The API endpoints: XML-RPC on any path nobody else claims, JSON-RPC on two."""

from lab.failures import XapiFailure
from lab.parts.faults import LIST_METHODS
from lab.pool import Pool
from lab.web.connection import Connection, Request
from lab.web.server import Routes, refuse
from lab.wire import jsonrpc, xmlrpc
from lab.wire.values import Value

MAX_BODY_BYTES = 300 << 10
XML = {"content-type": "text/xml"}
JSON = {"content-type": "application/json"}


class RpcEndpoints:
    """Answers API calls over HTTP for one pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def add_to(self, routes: Routes) -> None:
        """Take the paths of the API."""
        routes.add("POST", "/", self.xml)
        for path in ("/json", "/jsonrpc"):
            routes.add("POST", path, self.json)

    def xml(self, connection: Connection, request: Request) -> bool:
        """Answer an XML-RPC call."""
        body = _body(connection, request)
        if body is None:
            return _too_long(connection, request)
        try:
            method, parameters = xmlrpc.parse_call(body)
        except xmlrpc.Malformed as cause:
            return refuse(connection, request, 500, xmlrpc.escape(str(cause)))
        try:
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
            call = jsonrpc.parse_call(body)
        except xmlrpc.Malformed as cause:
            return refuse(connection, request, 500, xmlrpc.escape(str(cause)))
        try:
            value = self._call(connection, call.method, call.parameters)
            answer = jsonrpc.success(call, value)
        except XapiFailure as error:
            answer = jsonrpc.failure(call, error)
        connection.answer(request, 200, answer, JSON)
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
    if length > MAX_BODY_BYTES:
        return None
    if "100-continue" in request.headers.get("expect", "").lower():
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    return connection.read(length)


def _too_long(connection: Connection, request: Request) -> bool:
    """Refuse a body without keeping it, and read it to its end so that the answer is seen."""
    refuse(connection, request, 413)
    connection.drain()
    return False
