"""The bytes of objects: written durably, read in ranges, several requests under way."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from smbprotocol.exceptions import SMBException, SMBResponseException
from smbprotocol.header import NtStatus
from smbprotocol.open import (
    CreateDisposition,
    SMB2CreateResponse,
    SMB2ReadResponse,
    SMB2WriteResponse,
)

from likeness.transport.smb_connection import Answer, Message
from likeness.transport.smb_errors import FULL, NO_FOLDER, status_of
from likeness.transport.smb_folders import DurableFolders, flush_folder, make_folder, remove
from likeness.transport.smb_requests import (
    READ,
    SHARE_NONE,
    WRITE,
    contents,
    granted,
    opening,
    parent_of,
    refusal,
)
from likeness.transport.smb_session import SmbSession

_SMALL_BYTES = 64 << 10  # written with its opening and closing in one request: 1 credit
_DEPTH = 8  # requests under way in a large read or write


def write_new(
    session: SmbSession, path: str, parts: Sequence[bytes], *, durable: DurableFolders
) -> None:
    """Create a file that must not exist, write it, flush it, then flush its folder."""
    folder = parent_of(path)
    try:
        _write_file(session, path, parts)
    except SMBResponseException as cause:
        if status_of(cause) not in NO_FOLDER:
            raise
        durable.forget(folder)
        make_folder(session, folder)
        _write_file(session, path, parts)
    flush_folder(session, folder)
    durable.settle(session, folder)


def read_range(session: SmbSession, path: str, offset: int, length: int | None) -> bytes:
    """Read `length` bytes from `offset`, or as many as there are."""
    at_first = min(_SMALL_BYTES if length is None else length, session.read_bytes)
    handle, message = opening(session, path, READ)
    asked = [message, handle.close(send=False)[0]]
    if at_first:
        asked.insert(1, handle.read(offset, at_first, send=False)[0])
    answers = session.ask_together(asked)
    end = contents(SMB2CreateResponse, answers[0])["end_of_file"].get_value()
    wanted = max(end - offset if length is None else min(length, end - offset), 0)
    first = _data(answers[1]) if at_first else b""
    session.deadline.renew()
    if len(first) >= wanted:
        return first
    rest = _read_large(session, path, offset + len(first), wanted - len(first))
    return b"".join([first, *rest])


def pieces(parts: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Cut the concatenation of `parts` every `size` bytes, copying each byte once."""
    waiting: list[memoryview] = []
    have = 0
    for part in parts:
        view = memoryview(part)
        while have + len(view) >= size:
            waiting.append(view[: size - have])
            view = view[size - have :]
            yield b"".join(waiting)
            waiting, have = [], 0
        if view:
            waiting.append(view)
            have += len(view)
    if waiting:
        yield b"".join(waiting)


def _write_file(session: SmbSession, path: str, parts: Sequence[bytes]) -> None:
    handle, message = opening(
        session, path, WRITE, disposition=CreateDisposition.FILE_CREATE, share=SHARE_NONE
    )
    if sum(len(part) for part in parts) <= min(_SMALL_BYTES, session.write_bytes):
        refused = _write_small(session, handle, message, b"".join(parts))
    else:
        opened = contents(SMB2CreateResponse, session.ask(message))
        handle.file_id = opened["file_id"].get_value()
        refused = _write_large(session, handle, parts)
    if refused is None:
        return
    if status_of(refused) in FULL:
        _make_room(session, path)
    raise refused


def _write_small(
    session: SmbSession, handle: Any, message: Message, data: bytes
) -> SMBException | None:
    """Open, write, flush and close in one request; the refusal of what came after opening."""
    asked = [message, handle.flush(send=False)[0], handle.close(send=False)[0]]
    if data:
        asked.insert(1, handle.write(data, send=False)[0])
    opened, *answers = session.ask_together(asked)
    granted(opened)
    for answer in answers:
        if isinstance(answer, SMBException):
            return answer
    if data:
        _check_count(answers[0], len(data))
    return None


def _write_large(
    session: SmbSession, handle: Any, parts: Sequence[bytes]
) -> SMBResponseException | None:
    """Write, flush and close an open file; the refusal, if there was one."""
    refused: SMBResponseException | None = None
    under_way: deque[tuple[Any, int]] = deque()
    offset = 0
    try:
        for data in pieces(parts, session.write_bytes):
            while under_way and _must_wait(session, len(under_way), len(data)):
                _end_write(session, *under_way.popleft())
            under_way.append((session.send(handle.write(data, offset, send=False)[0]), len(data)))
            offset += len(data)
        while under_way:
            _end_write(session, *under_way.popleft())
        session.ask(handle.flush(send=False)[0])
    except SMBResponseException as cause:
        refused = cause
    _drain(session, [request for request, _ in under_way])
    session.ask(handle.close(send=False)[0])
    return refused


def _must_wait(session: SmbSession, under_way: int, count: int) -> bool:
    return under_way >= _DEPTH or not session.has_credits_for(count)


def _end_write(session: SmbSession, request: Any, count: int) -> None:
    _check_count(session.answer(request), count)
    session.deadline.renew()


def _check_count(answer: Answer, count: int) -> None:
    written = contents(SMB2WriteResponse, answer)["count"].get_value()
    if written != count:
        raise SMBException(f"the server wrote {written} of {count} bytes")


def _make_room(session: SmbSession, path: str) -> None:
    """Take away what was written before the room ran out, if this account may."""
    try:
        remove(session, path)
    except SMBResponseException:
        return


def _drain(session: SmbSession, requests: Iterable[Any]) -> None:
    """Wait for what is still under way, so that the session can be used again."""
    for request in requests:
        session.outcome(request)


def _read_large(session: SmbSession, path: str, offset: int, length: int) -> list[bytes]:
    handle, message = opening(session, path, READ)
    opened = contents(SMB2CreateResponse, session.ask(message))
    handle.file_id = opened["file_id"].get_value()
    refused: SMBResponseException | None = None
    under_way: deque[tuple[Any, int, int]] = deque()
    chunks: list[bytes] = []
    try:
        for start in range(offset, offset + length, session.read_bytes):
            count = min(session.read_bytes, offset + length - start)
            while under_way and _must_wait(session, len(under_way), count):
                chunks += _end_read(session, handle, *under_way.popleft())
            request = session.send(handle.read(start, count, send=False)[0])
            under_way.append((request, start, count))
        while under_way:
            chunks += _end_read(session, handle, *under_way.popleft())
    except SMBResponseException as cause:
        refused = cause
    _drain(session, [request for request, _, _ in under_way])
    session.ask(handle.close(send=False)[0])
    if refused is not None:
        raise refused
    return chunks


def _end_read(
    session: SmbSession, handle: Any, request: Any, start: int, count: int
) -> list[bytes]:
    """The answer to a read; asked again for what a short answer leaves out."""
    chunks = [_data(session.outcome(request))]
    have = len(chunks[0])
    while have < count and chunks[-1]:
        session.deadline.renew()
        request = session.send(handle.read(start + have, count - have, send=False)[0])
        chunks.append(_data(session.outcome(request)))
        have += len(chunks[-1])
    session.deadline.renew()
    return chunks


def _data(answer: Answer | SMBException) -> bytes:
    if refusal(answer) == NtStatus.STATUS_END_OF_FILE:
        return b""
    return bytes(contents(SMB2ReadResponse, answer)["buffer"].get_value())
