"""`GET /export_raw_vdi` and `PUT /import_raw_vdi`: the data of a disk in one stream."""

import struct
from dataclasses import dataclass

from lab.behaviours.common import attached_elsewhere
from lab.behaviours.vdi import refuse_without_data
from lab.calls import Call
from lab.failures import XapiFailure
from lab.parts.faults import ExportFault
from lab.pool import Pool
from lab.storage.disk import Disk
from lab.storage.extents import Segment
from lab.storage.vhd import (
    MAX_VHD_BYTES,
    SECTOR,
    BadVhd,
    plan_difference,
    plan_full,
    read_vhd,
    vhd_bytes,
    write_vhd,
)
from lab.web.access import HEAD, Transfer, accept_body, authorized, second_answer
from lab.web.connection import Connection, Request
from lab.web.server import Routes

WINDOW_BYTES = 64 << 20
STEP_BYTES = 8 << 20
RECEIVE_BYTES = 1 << 20
RANGE_HEADER = struct.Struct("<QI")
EXPORT_TYPES = {"raw": "application/octet-stream", "vhd": "application/vhd"}
NO_LIMIT = 1 << 62
IO_ERROR = ("VDI_IO_ERROR", "Device I/O errors")


class Interrupted(Exception):
    """A fault ended the transfer; the client is not told."""


@dataclass
class ExportStream:
    """Where the bytes of an export go, and what may go wrong on the way."""

    pool: Pool
    connection: Connection
    transfer: Transfer
    vdi: str
    uuid: str
    size: int
    fault: ExportFault | None
    sent: int = 0

    def segment(self, segment: Segment) -> None:
        """Send the bytes of a segment, in steps, so that cancelling is noticed."""
        low = segment.start
        while low < segment.end:
            high = low + self._step(segment.end - low)
            if segment.file is None:
                self.connection.send_zeros(high - low)
            else:
                self.connection.send_file(segment.file, low, high)
            self._after(high - low)
            low = high

    def data(self, data: bytes) -> None:
        """Send bytes made here."""
        view = memoryview(data)
        while view:
            step = self._step(len(view))
            self.connection.send(view[:step])
            self._after(step)
            view = view[step:]

    def _after(self, length: int) -> None:
        self.sent += length
        self.pool.counts.count_exported(self.uuid, length)

    def _step(self, length: int) -> int:
        """How much to send next: not too much at a time, and up to where a fault strikes."""
        self.pool.tasks.check(self.transfer.task)
        fault = self.fault
        if fault is None or fault.kind == "pending":
            return min(length, STEP_BYTES)
        if self.sent >= fault.after_bytes:
            self._strike(fault)
        room = length if self.fault is None else fault.after_bytes - self.sent
        return min(length, STEP_BYTES, room)

    def wait_for_release(self) -> None:
        """Wait until the faults of now are cleared or the task is cancelled."""
        released = self.pool.faults.released()
        while not released.wait(0.05):
            self.pool.tasks.check(self.transfer.task)

    def _strike(self, fault: ExportFault) -> None:
        if fault.kind == "stall":
            self.wait_for_release()
            self.fault = None
            return
        if fault.kind == "short":
            raise Interrupted
        if fault.kind == "session":
            self.pool.sessions.end_all()
            raise XapiFailure("SESSION_INVALID", self.transfer.session)
        raise XapiFailure(*IO_ERROR)

    def progress(self, done: int, total: int) -> None:
        """Tell the task how far it is."""
        with self.pool.db.lock:
            if self.pool.db.exists("task", self.transfer.task):
                self.pool.db.put("task", self.transfer.task, progress=done / max(total, 1))


class DiskTransfers:
    """Moves disk data over HTTP for one pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def add_to(self, routes: Routes) -> None:
        """Take the paths of the disk handlers."""
        routes.add("GET", "/export_raw_vdi", self.export)
        routes.add("PUT", "/import_raw_vdi", self.import_disk)

    # -- out -------------------------------------------------------------------------------------

    def export(self, connection: Connection, request: Request) -> bool:
        """Send a disk; the body has no length and ends with the connection."""
        with authorized(self._pool, connection, request, "export_raw_vdi") as transfer:
            if transfer is not None and not self._redirected(connection, request):
                self._export(connection, request, transfer)
        return False

    def _export(self, connection: Connection, request: Request, transfer: Transfer) -> None:
        pool, shape = self._pool, request.query.get("format", "raw")
        try:
            vdi = pool.db.find("VDI", request.query.get("vdi", ""))
            record = pool.db.record("VDI", vdi)
            if shape not in EXPORT_TYPES:
                raise XapiFailure("INVALID_VALUE", "format", shape)
        except XapiFailure as error:
            pool.tasks.fail(transfer.task, error)
            second_answer(connection, error)
            return
        name = f"{record['uuid']}.{shape}"
        connection.send_head(
            200,
            {
                **HEAD,
                "task-id": transfer.task,
                "content-type": EXPORT_TYPES[shape],
                "content-disposition": f'attachment; filename="{name}"',
            },
        )
        fault = pool.faults.take_export_fault(record["uuid"])
        stream = ExportStream(
            pool, connection, transfer, vdi, record["uuid"], record["virtual_size"], fault
        )
        try:
            self._send(stream, request, vdi, shape)
            if fault is not None and fault.kind == "pending":
                connection.end()
                stream.wait_for_release()
            pool.tasks.succeed(transfer.task)
        except Interrupted:
            pool.tasks.fail(transfer.task, XapiFailure(*IO_ERROR))
        except XapiFailure as error:
            pool.tasks.fail(transfer.task, error)
            second_answer(connection, error)
        except OSError:
            pool.tasks.fail(transfer.task, XapiFailure(*IO_ERROR))
            raise

    def _send(self, stream: ExportStream, request: Request, vdi: str, shape: str) -> None:
        call = Call(self._pool, "VDI.export", session=stream.transfer.session)
        refuse_without_data(call, vdi)
        base = request.query.get("base", "")
        base = self._pool.db.find("VDI", base) if base and shape == "vhd" else ""
        if base:
            refuse_without_data(call, base)
        with self._pool.storage.attached_to_dom0(vdi, writing=False):
            if shape == "vhd":
                self._send_vhd(stream, vdi, base)
            else:
                send_raw(self._pool.storage.disk(vdi), stream)

    def _send_vhd(self, stream: ExportStream, vdi: str, base: str) -> None:
        disk = self._pool.storage.disk(vdi)
        if disk.size > MAX_VHD_BYTES:
            raise XapiFailure("VDI_TOO_LARGE", vdi, MAX_VHD_BYTES)
        if base:
            base_uuid = str(self._pool.db.get("VDI", base, "uuid"))
            plan = plan_difference(disk, self._pool.storage.disk(base), base_uuid)
        else:
            plan = plan_full(disk)
        seconds = self._pool.settings.now().timestamp()
        for part in write_vhd(disk, plan, stream.uuid, seconds):
            stream.data(part)
            stream.progress(stream.sent, vhd_bytes(plan))

    def _redirected(self, connection: Connection, request: Request) -> bool:
        """Send the client to a host that sees the disk's storage, if this one does not."""
        pool = self._pool
        try:
            vdi = pool.db.find("VDI", request.query.get("vdi", ""))
        except XapiFailure:
            return False
        hosts = pool.db.refs("host")
        seeing = [h for h in hosts if pool.db.get("VDI", vdi, "SR") in pool.storage.srs_seen_by(h)]
        if not seeing or pool.host_at(connection.host) in seeing:
            return False
        address = pool.db.get("host", seeing[0], "address")
        target = f"{pool.hosts.scheme}://{address}:{pool.hosts.port}{request.target}"
        connection.answer(request, 302, b"", {"location": target, "connection": "close"})
        return True

    # -- in --------------------------------------------------------------------------------------

    def import_disk(self, connection: Connection, request: Request) -> bool:
        """Take a disk's data; the 200 goes out before the body is read."""
        with authorized(self._pool, connection, request, "import_raw_vdi") as transfer:
            if transfer is not None and not self._redirected(connection, request):
                self._import(connection, request, transfer)
        return False

    def _import(self, connection: Connection, request: Request, transfer: Transfer) -> None:
        accept_body(connection, request, transfer)
        pool = self._pool
        try:
            if "transfer-encoding" in request.headers:
                raise XapiFailure("INTERNAL_ERROR", "Transfer-Encoding is not supported")
            pool.faults.strike(Call(pool, "VDI.import", task=transfer.task))
            vdi = self._target(request)
            with pool.storage.attached_to_dom0(vdi, writing=True):
                self._receive(connection, request, transfer, vdi)
            pool.tasks.succeed(transfer.task, vdi)
        except XapiFailure as error:
            pool.tasks.fail(transfer.task, error)
            status = 404 if "transfer-encoding" in request.headers else 500
            second_answer(connection, error, status)
            connection.drain()
        except OSError:
            pool.tasks.fail(transfer.task, XapiFailure(*IO_ERROR))
            raise

    def _target(self, request: Request) -> str:
        """The disk to write: an existing one that is free."""
        pool, call = self._pool, Call(self._pool, "VDI.import")
        vdi = pool.db.find("VDI", request.query.get("vdi", ""))
        refuse_without_data(call, vdi)
        if attached_elsewhere(call, vdi, writing=True):
            raise XapiFailure("VDI_IN_USE", vdi, "import")
        return vdi

    def _receive(
        self, connection: Connection, request: Request, transfer: Transfer, vdi: str
    ) -> None:
        disk, uuid = self._pool.storage.disk(vdi), str(self._pool.db.get("VDI", vdi, "uuid"))
        stream = ImportStream(self._pool, connection, transfer, disk, uuid)
        length = request.content_length
        if request.query.get("format") == "vhd":
            stream.vhd(length)
        elif request.query.get("chunked", "").lower() in ("true", "1"):
            stream.ranges(length)
        else:
            stream.run(0, stream.disk.size if length is None else length)


@dataclass
class ImportStream:
    """Where the bytes of an import come from."""

    pool: Pool
    connection: Connection
    transfer: Transfer
    disk: Disk
    uuid: str

    def run(self, offset: int, length: int) -> None:
        """Take `length` bytes to an offset of the disk."""
        if offset + length > self.disk.size:
            raise XapiFailure(*IO_ERROR)
        buffer = memoryview(bytearray(min(RECEIVE_BYTES, max(length, 1))))
        done = 0
        while done < length:
            self.pool.tasks.check(self.transfer.task)
            wanted = buffer[: min(len(buffer), length - done)]
            count = self.connection.read_into(wanted)
            self.disk.write(offset + done, wanted[:count])
            self.pool.counts.count_imported(self.uuid, count)
            if count < len(wanted):
                raise XapiFailure(*IO_ERROR)
            done += count

    def ranges(self, content_length: int | None) -> None:
        """Take ranges: u64 offset, u32 length, data; both zero at the end; little-endian.

        Raises:
            XapiFailure: VDI_IO_ERROR when the body ends before, or a range is outside the disk.
        """
        left = NO_LIMIT if content_length is None else content_length
        while True:
            if left < RANGE_HEADER.size:
                raise XapiFailure(*IO_ERROR)
            head = self.connection.read(RANGE_HEADER.size)
            if len(head) < RANGE_HEADER.size:
                raise XapiFailure(*IO_ERROR)
            offset, length = RANGE_HEADER.unpack(head)
            if offset == length == 0:
                return
            left -= RANGE_HEADER.size + length
            if left < 0:
                raise XapiFailure(*IO_ERROR)
            self.run(offset, length)

    def vhd(self, content_length: int | None) -> None:
        """Take the sectors a VHD marks."""
        left = NO_LIMIT if content_length is None else content_length

        def read(length: int) -> bytes:
            nonlocal left
            data = self.connection.read(min(length, left))
            left -= len(data)
            return data

        try:
            for offset, data in read_vhd(read, content_length):
                self.pool.tasks.check(self.transfer.task)
                if not data and offset > -(-self.disk.size // SECTOR) * SECTOR:
                    raise XapiFailure(*IO_ERROR)
                fits = data[: max(0, self.disk.size - offset)]
                self.disk.write(min(offset, self.disk.size), fits)
                self.pool.counts.count_imported(self.uuid, len(data))
        except BadVhd as cause:
            raise XapiFailure(*IO_ERROR) from cause
        while content_length is not None and left and read(STEP_BYTES):
            pass


def send_raw(disk: Disk, stream: ExportStream) -> None:
    """Send every byte of a disk."""
    size = stream.size
    for start in range(0, size, WINDOW_BYTES):
        for segment in disk.segments(start, min(start + WINDOW_BYTES, size)):
            stream.segment(segment)
        stream.progress(stream.sent, size)
