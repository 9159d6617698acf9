"""What the pool tells over HTTP beside disks: counters, blobs, the audit log, its database."""

from collections.abc import Callable
from xml.sax.saxutils import quoteattr

from lab.failures import XapiFailure
from lab.pool import Pool
from lab.web.access import admitted, find
from lab.web.connection import Connection, Request
from lab.web.server import Routes
from lab.wire.values import Value, date_of

BLOB_LIMIT = 16 << 20
XML = "text/xml"
TEXT = "text/plain"

Report = Callable[[Request], bytes]


class Reports:
    """Answers reports for one pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def add_to(self, routes: Routes) -> None:
        """Take the paths of the reports, each with the least role that may read it."""
        for path, least, kind, report in (
            ("/rrd_updates", "read-only", XML, self._updates),
            ("/vm_rrd", "read-only", XML, lambda r: self._database("VM", r)),
            ("/host_rrd", "read-only", XML, lambda r: self._database("host", r)),
            ("/audit_log", "read-only", TEXT, self._audit_log),
            ("/pool/xmldbdump", "pool-admin", XML, self._dump),
            ("/blob", "read-only", "", self._blob),
        ):
            routes.add("GET", path, self._told(path, least, kind, report))
        routes.add("PUT", "/blob", self.take_blob)

    def _told(
        self, path: str, least: str, kind: str, report: Report
    ) -> Callable[[Connection, Request], bool]:
        def handle(connection: Connection, request: Request) -> bool:
            with admitted(self._pool, connection, request, path.strip("/"), least) as transfer:
                if transfer is None:
                    return False
                try:
                    body, said = report(request), kind or self._kind_of_blob(request)
                    status = 200
                    self._pool.tasks.succeed(transfer.task)
                except XapiFailure as error:
                    status, body, said = 404, str(error.description).encode(), TEXT
                    self._pool.tasks.fail(transfer.task, error)
                headers = {"content-type": said, "task-id": transfer.task}
                connection.answer(request, status, body, headers)
                return status == 200

        return handle

    # -- counters --------------------------------------------------------------------------------

    def _now(self) -> int:
        return int(self._pool.settings.now().timestamp())

    def _updates(self, request: Request) -> bytes:
        start = request.query.get("start", "0")
        if not start.lstrip("-").isdigit():
            raise XapiFailure("INVALID_VALUE", "start", start)
        now, with_host = self._now(), request.query.get("host", "").lower() == "true"
        first = now + int(start) if start.startswith("-") else int(start)
        return self._pool.metrics.updates(first, now, with_host=with_host).encode()

    def _database(self, class_name: str, request: Request) -> bytes:
        uuid = request.query.get("uuid") or request.query.get("ref", "")
        if class_name == "host" and not uuid:
            uuid = self._pool.db.refs("host")[0]
        owner = find(self._pool, class_name, uuid)
        return self._pool.metrics.database(class_name, owner, self._now()).encode()

    # -- the log and the database ----------------------------------------------------------------

    def _audit_log(self, request: Request) -> bytes:
        del request
        lines = [
            f"{entry.at:.3f} {entry.method} {entry.failure or 'ALLOWED'}"
            for entry in self._pool.journal.entries()
        ]
        return "\n".join([*lines, ""]).encode()

    def _dump(self, request: Request) -> bytes:
        del request
        db, tables = self._pool.db, []
        with db.lock:
            for name, facts in db.facts.classes.items():
                if not facts.events:
                    continue
                rows = [_row(ref, db.record(name, ref)) for ref in db.refs(name)]
                tables.append(f"<table name={quoteattr(name)}>{''.join(rows)}</table>")
        major, minor = db.facts.api_version
        manifest = f'<manifest><pair key="schema_version" value="{major}.{minor}"/></manifest>'
        return f"<database>{manifest}{''.join(tables)}</database>".encode()

    # -- blobs -----------------------------------------------------------------------------------

    def _found(self, request: Request) -> str:
        return find(self._pool, "blob", request.query.get("ref") or request.query.get("uuid", ""))

    def _kind_of_blob(self, request: Request) -> str:
        return str(self._pool.db.get("blob", self._found(request), "mime_type"))

    def _blob(self, request: Request) -> bytes:
        return self._pool.blob_contents.get(self._found(request), b"")

    def take_blob(self, connection: Connection, request: Request) -> bool:
        """Store what a blob holds."""
        with admitted(self._pool, connection, request, "blob", "vm-power-admin") as transfer:
            if transfer is None:
                return False
            try:
                blob, length = self._found(request), request.content_length
                if length is None or length > BLOB_LIMIT:
                    raise XapiFailure("INTERNAL_ERROR", "a blob needs a length of up to 16 MiB")
                self._pool.blob_contents[blob] = connection.read(length)
                now = date_of(self._pool.settings.now())
                self._pool.db.put("blob", blob, size=length, last_updated=now)
                self._pool.tasks.succeed(transfer.task)
                connection.answer(request, 200, b"", {"task-id": transfer.task})
            except XapiFailure as error:
                self._pool.tasks.fail(transfer.task, error)
                connection.answer(request, 500, b"", {"connection": "close"})
        return False


def _row(ref: str, record: dict[str, Value]) -> str:
    fields = " ".join(f"{name}={quoteattr(_text(value))}" for name, value in record.items())
    return f"<row ref={quoteattr(ref)} {fields}/>"


def _text(value: Value) -> str:
    """Write sets as `('a' 'b')` and maps as `(('k' 'v'))`, as the server's database does."""
    if isinstance(value, list):
        return f"({' '.join(_quoted(item) for item in value)})"
    if isinstance(value, dict):
        return f"({' '.join(f'({_quoted(k)} {_quoted(v)})' for k, v in value.items())})"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quoted(value: Value) -> str:
    if isinstance(value, list | dict):
        return _text(value)
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"
