"""Who may use an HTTP handler, and the task the transfer completes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus

from lab import roles
from lab.failures import XapiFailure
from lab.pool import Pool
from lab.web.connection import Connection, Request

STATUS = {"TOO_MANY_PENDING_TASKS": 503, "RBAC_PERMISSION_DENIED": 403}
HEAD = {"connection": "close", "cache-control": "no-cache, no-store"}
AUTHENTICATE = {"www-authenticate": 'basic realm="XAPI management daemon"'}


@dataclass(frozen=True)
class Transfer:
    """One authorized transfer: under which session and task it runs."""

    session: str
    task: str


@contextmanager
def authorized(
    pool: Pool, connection: Connection, request: Request, label: str, least: str = "vm-admin"
) -> Iterator[Transfer | None]:
    """Check who asks and that the role reaches; yields None after having refused.

    The task the client names is used, or one made.
    """
    session = request.query.get("session_id") or request.cookies.get("session_id", "")
    try:
        pool.sessions.check(session)
    except XapiFailure:
        _refuse(pool, connection, request, 401, XapiFailure("SESSION_AUTHENTICATION_FAILED"))
        yield None
        return
    try:
        roles.require(pool.sessions.role(session), least, f"http/{label}")
        task = _task(pool, request, label)
    except XapiFailure as error:
        _refuse(pool, connection, request, STATUS.get(error.code, 500), error)
        yield None
        return
    yield Transfer(session, task)


def _task(pool: Pool, request: Request, label: str) -> str:
    given = request.query.get("task_id", "")
    if given:
        task = pool.db.find("task", given)
        pool.tasks.make_cancellable(task)
        return task
    parent = request.query.get("subtask_of", "")
    return pool.tasks.create(label, cancellable=True, parent=parent)


def _refuse(
    pool: Pool, connection: Connection, request: Request, status: int, error: XapiFailure
) -> None:
    task = request.query.get("task_id", "")
    if pool.db.exists("task", task):
        pool.tasks.fail(task, error)
    text = f"<html><body><h1>HTTP {status} {HTTPStatus(status).phrase}</h1></body></html>"
    asks = AUTHENTICATE if status == 401 else {}
    headers = {"content-type": "text/html", "connection": "close", **asks}
    connection.answer(request, status, text.encode(), headers)


def accept_body(connection: Connection, request: Request, transfer: Transfer) -> None:
    """Send the 200 of an import, which goes out before the body is read."""
    if "100-continue" in request.headers.get("expect", "").lower():
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    connection.send_head(200, HEAD | {"task-id": transfer.task})


def second_answer(connection: Connection, error: XapiFailure, status: int = 500) -> None:
    """Report a failure after the 200 went out: as a whole second answer inside the body."""
    phrase = HTTPStatus(status).phrase.lower()
    text = f"<html><body><h1>HTTP {status} {phrase}</h1>{error.description}</body></html>"
    body = text.encode()
    headers = {"content-length": str(len(body)), "content-type": "text/html"}
    connection.send_head(status, HEAD | headers)
    connection.send(body)
