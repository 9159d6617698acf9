"""Who may use an HTTP handler, and the task the transfer completes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus

from lab import roles
from lab.failures import XapiFailure
from lab.pool import Pool
from lab.web.connection import Connection, Request
from lab.wire.values import Value

STATUS = {"TOO_MANY_PENDING_TASKS": 503, "RBAC_PERMISSION_DENIED": 403}
AUTHENTICATE = {"www-authenticate": 'basic realm="XAPI management daemon"'}


@dataclass(frozen=True)
class Transfer:
    """One authorized transfer: under which session and task it runs."""

    session: str
    task: str


def find(pool: Pool, class_name: str, ref_or_uuid: str) -> str:
    """Take a reference or a uuid, as the handlers' parameters do.

    Raises:
        XapiFailure: UUID_INVALID.
    """
    if pool.db.exists(class_name, ref_or_uuid):
        return ref_or_uuid
    return pool.db.by_uuid(class_name, ref_or_uuid)


@contextmanager
def admitted(
    pool: Pool, connection: Connection, request: Request, label: str, least: str = "vm-admin"
) -> Iterator[Transfer | None]:
    """Check who asks and that the role reaches; yields None after having refused.

    A session counts before the pool's secret, and that before Basic authorization. The task the
    client names is used, or one made.
    """
    own = ""
    try:
        session = request.query.get("session_id") or request.cookies.get("session_id", "")
        if not session and "pool_secret" in request.cookies:
            session = own = pool.sessions.log_in_host(request.cookies["pool_secret"])
        if not session and request.basic is not None:
            session = own = pool.sessions.log_in(*request.basic, originator=label)
        pool.sessions.check(session)
    except XapiFailure:
        _refuse(pool, connection, request, 401, XapiFailure("SESSION_AUTHENTICATION_FAILED"))
        yield None
        return
    try:
        roles.require(pool.sessions.role(session), least, f"http/{label}")
        task = _task(pool, request, label)
    except XapiFailure as error:
        status = STATUS.get(error.code, 500)
        _refuse(pool, connection, request, status, error)
        if own:
            pool.sessions.end(own)
        yield None
        return
    try:
        yield Transfer(session, task)
    finally:
        if own:
            pool.sessions.end(own)


def _task(pool: Pool, request: Request, label: str) -> str:
    given = request.query.get("task_id", "")
    if given:
        task = find(pool, "task", given)
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


def second_answer(connection: Connection, error: XapiFailure, status: int = 500) -> None:
    """Report a failure after the 200 went out: as a whole second answer inside the body."""
    phrase = HTTPStatus(status).phrase.lower()
    text = f"<html><body><h1>HTTP {status} {phrase}</h1>{error.description}</body></html>"
    body = text.encode()
    headers: dict[str, Value] = {
        "content-length": str(len(body)),
        "connection": "close",
        "content-type": "text/html",
        "cache-control": "no-cache, no-store",
    }
    connection.send_head(status, headers)
    connection.send(body)
