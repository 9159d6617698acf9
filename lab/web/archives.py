"""`/export` and `/import`: whole VMs in one stream."""

import gzip
import io
import zlib
from collections.abc import Iterator
from typing import IO, cast

import zstandard

from lab.archive import ArchiveReader, write_archive
from lab.behaviours.common import refuse_blocked, require_power
from lab.calls import Call
from lab.failures import XapiFailure
from lab.pool import Pool
from lab.web.access import HEAD, Transfer, accept_body, authorized, second_answer
from lab.web.connection import Connection, Request
from lab.web.server import Routes, refuse

COMPRESSION = {"true": "gzip", "gzip": "gzip", "zstd": "zstd"}
GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Body(io.RawIOBase):
    """The body of a request as a file, with a look at its first bytes."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        length = request.content_length
        self._left = 1 << 62 if length is None else length
        self.first = self._take(4)
        self._pushed_back = self.first

    def _take(self, length: int) -> bytes:
        data = self._connection.read(min(length, self._left))
        self._left -= len(data)
        return data

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill a buffer as far as there is data."""
        view = memoryview(buffer)
        data = self._pushed_back or self._take(len(view))
        data, self._pushed_back = data[: len(view)], data[len(view) :] if self._pushed_back else b""
        view[: len(data)] = data
        return len(data)


def compressed(parts: Iterator[bytes], kind: str) -> Iterator[bytes]:
    """Squeeze a stream."""
    if not kind:
        yield from parts
        return
    if kind == "zstd":
        zstd = zstandard.ZstdCompressor().compressobj()
        for part in parts:
            yield zstd.compress(part)
        yield zstd.flush()
        return
    squeezer = zlib.compressobj(1, zlib.DEFLATED, 31)
    for part in parts:
        yield squeezer.compress(part)
    yield squeezer.flush()


class VmTransfers:
    """Moves whole VMs over HTTP for one pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def add_to(self, routes: Routes) -> None:
        """Take the paths of the archive handlers."""
        routes.add("GET", "/export", self.export)
        routes.add("PUT", "/import", self.take)
        for method, path in (("GET", "/export_metadata"), ("PUT", "/import_metadata")):
            routes.add(method, path, _not_modelled)

    # -- out -------------------------------------------------------------------------------------

    def export(self, connection: Connection, request: Request) -> bool:
        """Send a VM."""
        with authorized(self._pool, connection, request, "VM.export") as transfer:
            if transfer is not None:
                self._export(connection, request, transfer)
        return False

    def _export(self, connection: Connection, request: Request, transfer: Transfer) -> None:
        pool = self._pool
        call = Call(pool, "VM.export", session=transfer.session, task=transfer.task)
        try:
            pool.faults.strike(call)
            vm = pool.db.find("VM", request.query.get("ref") or request.query.get("uuid", ""))
            refuse_blocked(call, vm, "export")
            require_power(call, vm, "Halted", "Suspended")
        except XapiFailure as error:
            pool.tasks.fail(transfer.task, error)
            second_answer(connection, error)
            return
        headers = {
            **HEAD,
            "task-id": transfer.task,
            "content-type": "application/octet-stream",
            "content-disposition": 'attachment; filename="export.xva"',
        }
        connection.send_head(200, headers, version="HTTP/1.0")
        kind = COMPRESSION.get(request.query.get("use_compression", ""), "")
        try:
            for part in compressed(write_archive(pool, vm), kind):
                call.check()
                connection.send(part)
            pool.tasks.succeed(transfer.task)
        except XapiFailure as error:
            pool.tasks.fail(transfer.task, error)
        except OSError as error:
            pool.tasks.fail(transfer.task, XapiFailure("CLIENT_ERROR", str(error)))
            raise

    # -- in --------------------------------------------------------------------------------------

    def take(self, connection: Connection, request: Request) -> bool:
        """Take a VM."""
        with authorized(self._pool, connection, request, "VM.import") as transfer:
            if transfer is not None:
                self._take(connection, request, transfer)
        return False

    def _take(self, connection: Connection, request: Request, transfer: Transfer) -> None:
        pool = self._pool
        accept_body(connection, request, transfer)
        try:
            pool.faults.strike(Call(pool, "VM.import", task=transfer.task))
            body = Body(connection, request)
            vms = self._reader(request).read(_opened(body))
            pool.tasks.succeed(transfer.task, vms)
        except XapiFailure as error:
            pool.tasks.fail(transfer.task, error)
            second_answer(connection, error)
            connection.drain()
        except OSError:
            pool.tasks.fail(transfer.task, XapiFailure("IMPORT_ERROR", "the stream broke"))
            raise

    def _reader(self, request: Request) -> ArchiveReader:
        pool, query = self._pool, request.query
        sr = query.get("sr_id") or query.get("sr_uuid", "")
        return ArchiveReader(
            pool,
            pool.db.find("SR", sr) if sr else pool.storage.default_sr(),
            restore=query.get("restore", "").lower() == "true",
        )


def _opened(body: Body) -> IO[bytes]:
    if body.first.startswith(GZIP_MAGIC):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=io.BufferedReader(body)))
    if body.first == ZSTD_MAGIC:
        return cast(
            "IO[bytes]", zstandard.ZstdDecompressor().stream_reader(cast("IO[bytes]", body))
        )
    return cast("IO[bytes]", io.BufferedReader(body))


def _not_modelled(connection: Connection, request: Request) -> bool:
    """Refuse archives of metadata alone, which would otherwise be taken for whole ones."""
    return refuse(connection, request, 501)
