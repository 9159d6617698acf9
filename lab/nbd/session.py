"""One NBD client, from the greeting to its goodbye."""

import socket
import ssl
from urllib.parse import parse_qsl, urlsplit

from lab.behaviours.vdi import refuse_without_data
from lab.calls import Call
from lab.nbd import protocol as nbd
from lab.parts.faults import ExportFault
from lab.pool import Pool
from lab.storage.disk import Disk


class Disconnected(Exception):
    """The client went away, or gets no answer."""


class NbdSession:
    """Talks to one client.

    With a TLS context nothing works before STARTTLS; without one STARTTLS is refused.
    """

    def __init__(self, pool: Pool, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        self._pool = pool
        self._sock = sock
        self._tls = tls
        self._secured = False

    def run(self) -> None:
        """Serve the client until it leaves.

        Raises:
            Disconnected: It left, or broke the rules.
        """
        try:
            name = self._negotiate()
            if name is not None:
                self._transmit(name)
        finally:
            if self._secured:
                # The socket inside belongs to the wrapper now.
                self._sock.close()

    def _receive(self, length: int) -> bytes:
        parts = []
        while length:
            part = self._sock.recv(min(length, 1 << 20))
            if not part:
                raise Disconnected
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    # -- negotiation -----------------------------------------------------------------------------

    def _negotiate(self) -> str | None:
        self._sock.sendall(nbd.GREETING.pack(nbd.MAGIC, nbd.OPTION_MAGIC, nbd.FIXED_NEWSTYLE))
        (flags,) = nbd.CLIENT_FLAGS.unpack(self._receive(nbd.CLIENT_FLAGS.size))
        if not flags & nbd.FIXED_NEWSTYLE:
            raise Disconnected
        while True:
            magic, option, length = nbd.OPTION.unpack(self._receive(nbd.OPTION.size))
            if magic != nbd.OPTION_MAGIC or length > nbd.MAX_OPTION_BYTES:
                raise Disconnected
            data = self._receive(length)
            if option == nbd.OPT_ABORT:
                self._reply(option, nbd.REP_ACK)
                return None
            if option == nbd.OPT_EXPORT_NAME:
                if self._tls is not None and not self._secured:
                    raise Disconnected
                return data.decode()
            self._answer_option(option)

    def _answer_option(self, option: int) -> None:
        if option == nbd.OPT_STARTTLS:
            self._start_tls()
        elif self._tls is not None and not self._secured:
            self._reply(option, nbd.REP_ERR_TLS_REQD)
        elif option == nbd.OPT_LIST:
            self._reply(option, nbd.REP_ERR_POLICY)
        else:
            self._reply(option, nbd.REP_ERR_UNSUP)

    def _start_tls(self) -> None:
        if self._tls is None:
            self._reply(nbd.OPT_STARTTLS, nbd.REP_ERR_POLICY)
        elif self._secured:
            self._reply(nbd.OPT_STARTTLS, nbd.REP_ERR_INVALID)
        else:
            self._reply(nbd.OPT_STARTTLS, nbd.REP_ACK)
            self._sock = self._tls.wrap_socket(self._sock, server_side=True)
            self._secured = True

    def _reply(self, option: int, kind: int) -> None:
        self._sock.sendall(nbd.OPTION_REPLY.pack(nbd.OPTION_REPLY_MAGIC, option, kind, 0))

    # -- transmission ----------------------------------------------------------------------------

    def _transmit(self, name: str) -> None:
        parts = urlsplit(name)
        session = dict(parse_qsl(parts.query)).get("session_id", "")
        self._pool.sessions.check(session)
        vdi = self._pool.db.find("VDI", parts.path.strip("/"))
        refuse_without_data(Call(self._pool, "VDI.nbd", session=session), vdi)
        uuid = str(self._pool.db.get("VDI", vdi, "uuid"))
        with self._pool.storage.attached_to_dom0(vdi, writing=False):
            disk = self._pool.storage.disk(vdi)
            self._sock.sendall(nbd.EXPORT.pack(disk.size, nbd.HAS_FLAGS | nbd.READ_ONLY))
            reader = Reader(self._pool, self._sock, disk, uuid)
            while True:
                request = nbd.read_request(self._receive(nbd.REQUEST.size))
                if request.command == nbd.CMD_DISC:
                    return
                if request.command == nbd.CMD_READ:
                    reader.answer(request)
                    continue
                if request.command == nbd.CMD_WRITE:
                    self._receive(request.length)
                reader.refuse(request, nbd.EPERM)


class Reader:
    """Answers the reads of one client."""

    def __init__(self, pool: Pool, sock: socket.socket, disk: Disk, uuid: str) -> None:
        self._pool = pool
        self._sock = sock
        self._disk = disk
        self._uuid = uuid
        fault = pool.faults.take_export_fault(uuid)
        self._fault = None if fault is None or fault.kind == "pending" else fault
        self._sent = 0

    def refuse(self, request: nbd.NbdRequest, error: int) -> None:
        """Answer with an error."""
        self._sock.sendall(nbd.REPLY.pack(nbd.REPLY_MAGIC, error, request.handle))

    def answer(self, request: nbd.NbdRequest) -> None:
        """Answer a read with its data."""
        end = request.offset + request.length
        if end > self._disk.size or request.length > nbd.MAX_READ_BYTES:
            self.refuse(request, nbd.EINVAL)
            return
        fault = self._fault
        due = fault is not None and self._sent + request.length > fault.after_bytes
        if fault is not None and due and self._strike(fault):
            self.refuse(request, nbd.EIO)
            return
        data = self._disk.read(request.offset, request.length)
        self._sent += request.length
        self._pool.counts.count_nbd_read(self._uuid, request.length)
        head = nbd.REPLY.pack(nbd.REPLY_MAGIC, 0, request.handle)
        self._sock.sendall(head + data)

    def _strike(self, fault: ExportFault) -> bool:
        """Let a fault happen; returns whether the read fails."""
        if fault.kind == "second-answer":
            return True
        if fault.kind == "stall":
            released = self._pool.faults.released()
            while not released.wait(0.05):
                if self._pool.storage.closed.is_set():
                    raise Disconnected
            self._fault = None
            return False
        if fault.kind == "session":
            self._pool.sessions.end_all()
        raise Disconnected
