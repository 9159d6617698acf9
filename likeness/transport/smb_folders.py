"""Folders on a share: listing, making, flushing; and what is done to files without reading them.

Source: MS-FSCC 2.4 for what listings, renames and sizes look like.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from smbprotocol.exceptions import SMBException, SMBResponseException
from smbprotocol.file_info import FileInformationClass, FileRenameInformation, InfoType
from smbprotocol.header import NtStatus
from smbprotocol.open import (
    CreateDisposition,
    CreateOptions,
    FileAttributes,
    SMB2CreateResponse,
    SMB2QueryDirectoryResponse,
    SMB2QueryInfoRequest,
    SMB2QueryInfoResponse,
    SMB2SetInfoRequest,
)

from likeness.transport.base import Space
from likeness.transport.smb_connection import Answer, Message
from likeness.transport.smb_errors import (
    DENIED,
    DYING,
    MISSING,
    NO_FLUSH_OF_FOLDERS,
    NO_FOLDER,
    NOT_EMPTY,
    OTHER_KIND,
    TAKEN,
    status_of,
)
from likeness.transport.smb_requests import (
    ADD_FILE,
    ADD_FOLDER,
    FILE,
    FOLDER,
    LIST,
    LOOK,
    MOVE,
    contents,
    granted,
    opening,
    parent_of,
    refusal,
)
from likeness.transport.smb_session import SmbSession

_LISTED = struct.Struct("<II32xQ8xII")  # FileDirectoryInformation up to the name
_FULL_SIZE_INFORMATION = 7  # FileFsFullSizeInformation
_FULL_SIZES = struct.Struct("<QQQII")
_GONE = MISSING | OTHER_KIND | DYING


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One line of a folder's listing."""

    name: str
    size_bytes: int
    is_folder: bool


def size_of(session: SmbSession, path: str) -> int:
    """Length of a file in bytes."""
    handle, message = opening(session, path, LOOK)
    answers = session.ask_together([message, handle.close(send=False)[0]])
    return int(contents(SMB2CreateResponse, answers[0])["end_of_file"].get_value())


def list_folder(session: SmbSession, path: str) -> list[ListedFile]:
    """What lies directly in a folder, in no order; nothing if there is no such folder."""
    handle, message = opening(session, path, LIST, options=FOLDER)
    query = _query(session, handle)
    answers = session.ask_together([message, query, query], closing=False)
    if refusal(answers[0]) in _GONE:
        return []
    handle.file_id = contents(SMB2CreateResponse, answers[0])["file_id"].get_value()
    try:
        return list(_listed(session, handle, answers[1:]))
    finally:
        session.ask(handle.close(send=False)[0])


def rename(session: SmbSession, path: str, new_path: str, *, durable: "DurableFolders") -> None:
    """Move a file to a free name, then flush both folders."""
    folder, new_folder = parent_of(path), parent_of(new_path)
    moved = _move(session, path, new_path)
    if refusal(moved) in NO_FOLDER:
        durable.forget(new_folder)
        make_folder(session, new_folder)
        moved = _move(session, path, new_path)
    granted(moved)
    flush_folder(session, new_folder)
    if folder != new_folder:
        flush_folder(session, folder)
    durable.settle(session, new_folder)


def remove(session: SmbSession, path: str) -> None:
    """Delete a file, if it is there."""
    _remove(session, path, FILE, _GONE)


def remove_folder(session: SmbSession, path: str) -> None:
    """Delete an empty folder, if it is there and empty."""
    _remove(session, path, FOLDER, _GONE | NOT_EMPTY)


def space_at(session: SmbSession, path: str) -> Space:
    """Room for this account where a folder lies; at the top of the share if it does not exist."""
    handle, message = opening(session, path, LOOK, options=FOLDER)
    query = SMB2QueryInfoRequest()
    query["info_type"] = InfoType.SMB2_0_INFO_FILESYSTEM
    query["file_info_class"] = _FULL_SIZE_INFORMATION
    query["output_buffer_length"] = _FULL_SIZES.size
    query["file_id"] = handle.file_id
    answers = session.ask_together([message, query, handle.close(send=False)[0]])
    if path and refusal(answers[0]) in _GONE:
        return space_at(session, "")
    granted(answers[0])
    told = contents(SMB2QueryInfoResponse, answers[1])["buffer"].get_value()
    total, free, _, sectors, sector_bytes = _FULL_SIZES.unpack_from(told)
    return Space(total * sectors * sector_bytes, free * sectors * sector_bytes)


def make_folder(session: SmbSession, path: str) -> None:
    """Make a folder and those above it; nothing if it exists."""
    if not path:
        return
    made = _make_one_folder(session, path)
    if refusal(made) in NO_FOLDER:
        make_folder(session, parent_of(path))
        made = _make_one_folder(session, path)
    if refusal(made) not in TAKEN:
        granted(made)


def flush_folder(session: SmbSession, path: str, *, access: int = ADD_FILE) -> None:
    """Make the names in a folder durable."""
    handle, message = opening(session, path, access, options=FOLDER)
    asked = [message, handle.flush(send=False)[0], handle.close(send=False)[0]]
    answers = session.ask_together(asked)
    granted(answers[0])
    if refusal(answers[1]) not in NO_FLUSH_OF_FOLDERS:
        granted(answers[1])


class DurableFolders:
    """Folders that no power cut takes away any more, nor those above them.

    A folder may have been made a moment ago by somebody who has not flushed it yet, so the first
    object that goes into a folder flushes the folders above.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    def settle(self, session: SmbSession, path: str) -> None:
        """Make a folder durable where it lies, and so on up to the top of the share."""
        above = path
        while above and above not in self._known:
            _flush_name_of(session, above)
            above = parent_of(above)
        while path:
            self._known.add(path)
            path = parent_of(path)

    def forget(self, path: str) -> None:
        """A folder is gone, or was: it and those above are no longer known."""
        while path:
            self._known.discard(path)
            path = parent_of(path)


def _flush_name_of(session: SmbSession, path: str) -> None:
    """Flush the folder that a folder lies in, as far as this account may.

    An account that may neither add files nor folders there cannot have made this one either;
    whoever made it has flushed it.
    """
    for access in (ADD_FILE, ADD_FOLDER):
        try:
            flush_folder(session, parent_of(path), access=access)
        except SMBResponseException as cause:
            if status_of(cause) not in DENIED:
                raise
        else:
            return


def _make_one_folder(session: SmbSession, path: str) -> Answer | SMBException:
    handle, message = opening(
        session, path, LOOK, options=FOLDER, disposition=CreateDisposition.FILE_CREATE
    )
    return session.ask_together([message, handle.close(send=False)[0]])[0]


def _move(session: SmbSession, path: str, new_path: str) -> Answer | SMBException:
    """Ask for a rename; the answer to that, once the file itself could be opened."""
    handle, message = opening(session, path, MOVE)
    target = FileRenameInformation()
    target["replace_if_exists"] = False
    target["file_name"] = new_path
    order = SMB2SetInfoRequest()
    order["info_type"] = InfoType.SMB2_0_INFO_FILE
    order["file_info_class"] = FileInformationClass.FILE_RENAME_INFORMATION
    order["file_id"] = handle.file_id
    order["buffer"] = target.pack()
    answers = session.ask_together([message, order, handle.close(send=False)[0]])
    granted(answers[0])
    return answers[1]


def _remove(session: SmbSession, path: str, kind: int, harmless: frozenset[int]) -> None:
    options = kind | CreateOptions.FILE_DELETE_ON_CLOSE
    handle, message = opening(session, path, MOVE, options=options)
    for answer in session.ask_together([message, handle.close(send=False)[0]]):
        if refusal(answer) in harmless:
            return
        granted(answer)


def _query(session: SmbSession, handle: Any) -> Message:
    message, _ = handle.query_directory(
        "*",
        FileInformationClass.FILE_DIRECTORY_INFORMATION,
        flags=0,
        max_output=session.listing_bytes,
        send=False,
    )
    return message


def _listed(
    session: SmbSession, handle: Any, answers: Sequence[Answer | SMBException]
) -> Iterator[ListedFile]:
    for answer in answers:
        if refusal(answer) == NtStatus.STATUS_NO_MORE_FILES:
            return
        yield from _lines(contents(SMB2QueryDirectoryResponse, answer)["buffer"].get_value())
    while True:
        session.deadline.renew()
        try:
            answer = session.ask(_query(session, handle))
        except SMBResponseException as cause:
            if status_of(cause) == NtStatus.STATUS_NO_MORE_FILES:
                return
            raise
        yield from _lines(contents(SMB2QueryDirectoryResponse, answer)["buffer"].get_value())


def _lines(listing: bytes) -> Iterator[ListedFile]:
    at = 0
    while True:
        to_next, _, size_bytes, attributes, name_bytes = _LISTED.unpack_from(listing, at)
        start = at + _LISTED.size
        name = listing[start : start + name_bytes].decode("utf-16-le")
        is_folder = bool(attributes & FileAttributes.FILE_ATTRIBUTE_DIRECTORY)
        leads_away = is_folder and attributes & FileAttributes.FILE_ATTRIBUTE_REPARSE_POINT
        if name not in (".", "..") and not leads_away:
            yield ListedFile(name, size_bytes, is_folder)
        if not to_next:
            return
        at += to_next
