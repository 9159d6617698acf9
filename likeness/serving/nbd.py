"""An NBD server: a version's disk as a block device for qemu, nbd-client, libnbd.

Fixed newstyle, with GO, INFO, LIST and EXPORT_NAME, structured replies and block status; reads of
one connection are answered in parallel and in whatever order they are done. It listens on loopback
or on a Unix socket only: NBD has no log-in, so whoever can reach it can read the disk.

Source:
    The protocol's published description, https://github.com/NetworkBlockDevice/nbd.
"""

import errno
import logging
import os
import socket
import struct
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from likeness.errors import BadInput, LikenessError
from likeness.serving import nbd_status
from likeness.serving.exports import Export, WritableExport

_log = logging.getLogger(__name__)

_GREETING = struct.Struct(">QQH")
_OPTION = struct.Struct(">QII")
_OPTION_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_MAGIC, _OPTION_MAGIC, _OPTION_REPLY_MAGIC = 0x4E42444D41474943, 0x49484156454F5054, 0x3E889045565A9
_REQUEST_MAGIC, _REPLY_MAGIC = 0x25609513, 0x67446698
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPT_EXPORT_NAME, _OPT_ABORT, _OPT_LIST, _OPT_INFO, _OPT_GO = 1, 2, 3, 6, 7
_OPT_STRUCTURED_REPLY, _OPT_LIST_CONTEXTS, _OPT_SET_CONTEXTS = 8, 9, 10
_REP_ACK, _REP_SERVER, _REP_INFO, _REP_CONTEXT = 1, 2, 3, 4
_REP_UNSUPPORTED, _REP_INVALID, _REP_UNKNOWN = (1 << 31) + 1, (1 << 31) + 3, (1 << 31) + 6
_INFO_EXPORT, _INFO_BLOCK_SIZE = 0, 3
_HAS_FLAGS, _READ_ONLY, _SEND_FLUSH, _SEND_TRIM, _SEND_WRITE_ZEROES, _MULTI_CONN = (
    1, 2, 4, 32, 64, 256,
)  # fmt: skip
_READ, _WRITE, _DISCONNECT, _FLUSH, _TRIM, _WRITE_ZEROES, _STATUS = 0, 1, 2, 3, 4, 6, 7
_ONLY_ONE = 8
_MAX_OPTION_BYTES = 64 << 10
_MAX_REQUEST_BYTES = 32 << 20
_PREFERRED_BYTES = 256 << 10
_IN_FLIGHT = 16


class NbdServer:
    """Serves some exports until it is closed."""

    def __init__(
        self, exports: Mapping[str, Export], *, socket_path: Path | None = None, port: int = 0
    ) -> None:
        """Listen, on a new Unix socket or on 127.0.0.1.

        Args:
            exports: Each with the name to ask for it by; the first one also answers to no name.
            socket_path: Where to make a Unix socket, for its owner alone.
            port: Without a socket, the port on loopback; any free one if 0.

        Raises:
            BadInput: It cannot listen there.
        """
        self._exports = dict(exports)
        self._socket_path = socket_path
        self._listener = _listener(socket_path, port)
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=_IN_FLIGHT, thread_name_prefix="nbd")
        self._accepting = threading.Thread(target=self._accept, name="nbd server", daemon=True)
        self._accepting.start()

    def uri(self, name: str) -> str:
        """How to reach an export, as qemu and libnbd write it."""
        if self._socket_path is not None:
            return f"nbd+unix:///{name}?socket={self._socket_path}"
        return f"nbd://127.0.0.1:{self.port}/{name}"

    @property
    def port(self) -> int:
        """The port it listens at; 0 with a Unix socket."""
        return 0 if self._socket_path is not None else int(self._listener.getsockname()[1])

    def __enter__(self) -> "NbdServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up on everybody; safe to repeat."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            open_now = list(self._connections)
        for connection in open_now:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._pool.shutdown()
        if self._socket_path is not None:
            self._socket_path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(
                target=self._serve, args=(connection,), name="nbd connection", daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)
        try:
            with connection, suppress(OSError, _HungUp):
                if connection.family != socket.AF_UNIX:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                talk = _Negotiation(connection, self._exports)
                export = talk.agreed()
                if export is not None:
                    told = _Transmission(
                        connection,
                        export,
                        self._pool,
                        structured=talk.structured,
                        with_status=talk.status_of is export,
                    )
                    told.run()
        finally:
            with self._lock:
                self._connections.discard(connection)


def _listener(path: Path | None, port: int) -> socket.socket:
    kind = socket.AF_UNIX if path is not None else socket.AF_INET
    listener = socket.socket(kind, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        listener.bind(str(path) if path is not None else ("127.0.0.1", port))
        listener.listen(16)
    except OSError as cause:
        listener.close()
        where = path or f"port {port}"
        raise BadInput(f"cannot listen at {where}: {cause.strerror}; choose another") from cause
    finally:
        os.umask(old)
    return listener


class _HungUp(Exception):
    """The client went away, or does not speak NBD."""


def _receive(connection: socket.socket, length: int) -> bytes:
    parts = bytearray(length)
    view = memoryview(parts)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise _HungUp
        view = view[count:]
    return bytes(parts)


class _Negotiation:
    """The talk before the disk: which export, and on which terms.

    Attributes:
        structured: Whether replies are to say what they hold.
        status_of: The export whose block status may be asked for; none if that was not agreed on.
    """

    def __init__(self, connection: socket.socket, exports: Mapping[str, Export]) -> None:
        self._connection, self._exports = connection, exports
        self._padded = True
        self.structured = False
        self.status_of: Export | None = None

    def agreed(self) -> Export | None:
        """The export to transmit, once the client has chosen; none if it only looked."""
        flags = _FIXED_NEWSTYLE | _NO_ZEROES
        self._connection.sendall(_GREETING.pack(_MAGIC, _OPTION_MAGIC, flags))
        (client,) = struct.unpack(">I", _receive(self._connection, 4))
        self._padded = not client & _NO_ZEROES
        while True:
            magic, option, length = _OPTION.unpack(_receive(self._connection, _OPTION.size))
            if magic != _OPTION_MAGIC or length > _MAX_OPTION_BYTES:
                raise _HungUp
            data = _receive(self._connection, length)
            if option == _OPT_ABORT:
                self._reply(option, _REP_ACK)
                return None
            if option == _OPT_EXPORT_NAME:
                return self._by_old_way(data)
            if (export := self._answer(option, data)) is not None:
                return export

    def _answer(self, option: int, data: bytes) -> Export | None:
        if option == _OPT_LIST:
            for name in self._exports:
                encoded = name.encode()
                self._reply(option, _REP_SERVER, struct.pack(">I", len(encoded)) + encoded)
            self._reply(option, _REP_ACK)
        elif option in (_OPT_INFO, _OPT_GO):
            return self._go(option, data)
        elif option == _OPT_STRUCTURED_REPLY and not data:
            self.structured = True
            self._reply(option, _REP_ACK)
        elif option in (_OPT_LIST_CONTEXTS, _OPT_SET_CONTEXTS):
            self._contexts(option, data)
        else:
            self._reply(option, _REP_UNSUPPORTED)
        return None

    def _contexts(self, option: int, data: bytes) -> None:
        listing = option == _OPT_LIST_CONTEXTS
        try:
            name, queries = nbd_status.queries_of(data)
        except struct.error:
            self._reply(option, _REP_INVALID)
            return
        export = self._named(name)
        if export is None or not self.structured:
            self._reply(option, _REP_UNKNOWN if export is None else _REP_INVALID)
            return
        wanted = nbd_status.is_asked_for(queries, listing=listing)
        if wanted:
            number = struct.pack(">I", 0 if listing else nbd_status.CONTEXT)
            self._reply(option, _REP_CONTEXT, number + nbd_status.ALLOCATION)
        if not listing:
            self.status_of = export if wanted else None
        self._reply(option, _REP_ACK)

    def _go(self, option: int, data: bytes) -> Export | None:
        if len(data) < 6:
            self._reply(option, _REP_INVALID)
            return None
        (length,) = struct.unpack_from(">I", data)
        export = self._named(data[4 : 4 + length])
        if export is None:
            self._reply(option, _REP_UNKNOWN)
            return None
        about = struct.pack(">HQH", _INFO_EXPORT, export.size_bytes, _flags_of(export))
        self._reply(option, _REP_INFO, about)
        sizes = struct.pack(">HIII", _INFO_BLOCK_SIZE, 1, _PREFERRED_BYTES, _MAX_REQUEST_BYTES)
        self._reply(option, _REP_INFO, sizes)
        self._reply(option, _REP_ACK)
        return export if option == _OPT_GO else None

    def _by_old_way(self, data: bytes) -> Export:
        export = self._named(data)
        if export is None:
            raise _HungUp  # this option has no way of saying no
        reply = struct.pack(">QH", export.size_bytes, _flags_of(export))
        self._connection.sendall(reply + (bytes(124) if self._padded else b""))
        return export

    def _named(self, name: bytes) -> Export | None:
        if not name:
            return next(iter(self._exports.values()))
        return self._exports.get(name.decode(errors="replace"))

    def _reply(self, option: int, kind: int, data: bytes = b"") -> None:
        header = _OPTION_REPLY.pack(_OPTION_REPLY_MAGIC, option, kind, len(data))
        self._connection.sendall(header + data)


def _flags_of(export: Export) -> int:
    if _is_writable(export):
        return _HAS_FLAGS | _SEND_FLUSH | _SEND_TRIM | _SEND_WRITE_ZEROES
    return _HAS_FLAGS | _READ_ONLY | _MULTI_CONN


def _is_writable(export: Export) -> bool:
    return hasattr(export, "write")


class _Transmission:
    """The disk itself: requests come one after the other, answers as they are ready."""

    def __init__(
        self,
        connection: socket.socket,
        export: Export,
        pool: ThreadPoolExecutor,
        *,
        structured: bool,
        with_status: bool,
    ) -> None:
        self._connection, self._export, self._pool = connection, export, pool
        self._structured, self._with_status = structured, with_status
        self._sending = threading.Lock()
        self._room = threading.BoundedSemaphore(_IN_FLIGHT)

    def run(self) -> None:
        """Answer until the client says goodbye; then wait for answers still on their way."""
        try:
            while self._take_one():
                pass
        finally:
            for _ in range(_IN_FLIGHT):
                self._room.acquire()

    def _take_one(self) -> bool:
        frame = _receive(self._connection, _REQUEST.size)
        magic, flags, command, handle, offset, length = _REQUEST.unpack(frame)
        if magic != _REQUEST_MAGIC:
            raise _HungUp
        if command == _DISCONNECT:
            return False
        if command == _WRITE and length > _MAX_REQUEST_BYTES:
            raise _HungUp
        data = _receive(self._connection, length) if command == _WRITE else b""
        self._room.acquire()
        if command == _STATUS and flags & _ONLY_ONE:
            data = b"only one"
        self._pool.submit(self._answer, command, handle, offset, length, data)
        return True

    def _answer(self, command: int, handle: int, offset: int, length: int, data: bytes) -> None:
        try:
            if self._structured and command in (_READ, _STATUS):
                reply = self._chunk(command, handle, offset, length, only_one=bool(data))
            else:
                error, answer = self._done(command, offset, length, data)
                reply = _REPLY.pack(_REPLY_MAGIC, error, handle) + answer
            with self._sending, suppress(OSError):
                self._connection.sendall(reply)
        finally:
            self._room.release()

    def _chunk(
        self, command: int, handle: int, offset: int, length: int, *, only_one: bool
    ) -> bytes:
        inside = length and offset + length <= self._export.size_bytes
        if inside and command == _STATUS and self._with_status:
            told = nbd_status.status(self._export, offset, length, only_one=only_one)
            return nbd_status.chunk(nbd_status.STATUS, handle, told)
        if inside and command == _READ and nbd_status.is_zero(self._export, offset, length):
            hole = struct.pack(">QI", offset, length)
            return nbd_status.chunk(nbd_status.HOLE, handle, hole)
        error, answer = errno.EINVAL, b""
        if command == _READ:
            error, answer = self._done(command, offset, length, b"")
        if error:
            return nbd_status.chunk(nbd_status.ERROR, handle, struct.pack(">IH", error, 0))
        return nbd_status.chunk(nbd_status.DATA, handle, struct.pack(">Q", offset) + answer)

    def _done(self, command: int, offset: int, length: int, data: bytes) -> tuple[int, bytes]:
        if command == _FLUSH:
            return 0, b""
        if offset + length > self._export.size_bytes or length > _MAX_REQUEST_BYTES * (
            1 if command == _READ else 128
        ):
            return errno.EINVAL, b""
        try:
            if command == _READ:
                return 0, self._export.read(offset, length)
            return self._changed(command, offset, length, data), b""
        except LikenessError as cause:
            _log.error("bytes %d to %d cannot be read: %s", offset, offset + length, cause)
            return errno.EIO, b""
        except OSError as cause:
            _log.error("the overlay cannot be written: %s", cause)
            return errno.ENOSPC if cause.errno == errno.ENOSPC else errno.EIO, b""

    def _changed(self, command: int, offset: int, length: int, data: bytes) -> int:
        export = self._export
        if not _is_writable(export):
            return errno.EPERM
        writable: WritableExport = export  # type: ignore[assignment]  # just asked
        if command == _WRITE:
            writable.write(offset, data)
        elif command == _WRITE_ZEROES:
            writable.write_zeros(offset, length)
        elif command != _TRIM:  # what is trimmed may stay as it is
            return errno.EINVAL
        return 0
