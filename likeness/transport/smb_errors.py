"""What an SMB failure means to Likeness: one table, one sentence for each.

smbprotocol raises four unrelated families: its own `SMBException` with or without an NT status,
`OSError` from the socket, and bare `ValueError` and `LookupError` when an answer is no SMB. Each
becomes one of the errors that `Transport` promises.

Source: NT status values from MS-ERREF 2.3.1.
"""

import struct
from dataclasses import dataclass

from smbprotocol.exceptions import (
    SMBAuthenticationError,
    SMBConnectionClosed,
    SMBException,
    SMBResponseException,
)
from smbprotocol.header import NtStatus

from likeness.errors import (
    LikenessError,
    NameTaken,
    ObjectMissing,
    ObjectUnreadable,
    ShareFull,
    ShareRefused,
    ShareUnreachable,
)

FOREIGN = (SMBException, OSError, ValueError, LookupError, struct.error)
"""Every family that a call into smbprotocol may raise."""


@dataclass(frozen=True, slots=True)
class ShareAccount:
    """Where a data store lies and who goes there; what every sentence names."""

    server: str
    share: str
    folder: str
    """Inside the share, with slashes; empty for its top."""
    username: str
    port: int = 445

    def __str__(self) -> str:
        port = "" if self.port == 445 else f":{self.port}"
        folder = f"/{self.folder}" if self.folder else ""
        server = f"[{self.server}]" if ":" in self.server else self.server
        return f"//{server}{port}/{self.share}{folder}"


class EncryptionMissing(SMBException):  # type: ignore[misc]  # smbprotocol is not typed
    """The server does not encrypt, and was asked to."""


class LogInDenied(SMBException):  # type: ignore[misc]  # smbprotocol is not typed
    """Access was denied at the log-in itself, as to one whom the server takes for a guest."""


class AnswerRefused(SMBConnectionClosed):  # type: ignore[misc]  # smbprotocol is not typed
    """An answer was no SMB, or not encrypted or signed as it must be."""


_NAMES: dict[int, str] = {
    value: name for name, value in vars(NtStatus).items() if name.startswith("STATUS_")
}
_NAMES |= {
    0xC0000007: "STATUS_PAGEFILE_QUOTA",
    0xC0000017: "STATUS_NO_MEMORY",
    0xC000003E: "STATUS_DATA_ERROR",
    0xC000003F: "STATUS_CRC_ERROR",
    0xC0000044: "STATUS_QUOTA_EXCEEDED",
    0xC0000064: "STATUS_NO_SUCH_USER",
    0xC000006E: "STATUS_ACCOUNT_RESTRICTION",
    0xC000006F: "STATUS_INVALID_LOGON_HOURS",
    0xC0000070: "STATUS_INVALID_WORKSTATION",
    0xC000005E: "STATUS_NO_LOGON_SERVERS",
    0xC0000072: "STATUS_ACCOUNT_DISABLED",
    0xC00000A2: "STATUS_MEDIA_WRITE_PROTECTED",
    0xC00000BE: "STATUS_BAD_NETWORK_PATH",
    0xC00000BF: "STATUS_NETWORK_BUSY",
    0xC00000C4: "STATUS_UNEXPECTED_NETWORK_ERROR",
    0xC00000CA: "STATUS_NETWORK_ACCESSDENIED",
    0xC00000CE: "STATUS_TOO_MANY_SESSIONS",
    0xC00000E9: "STATUS_UNEXPECTED_IO_ERROR",
    0xC000011F: "STATUS_TOO_MANY_OPENED_FILES",
    0xC000012D: "STATUS_COMMITMENT_LIMIT",
    0xC000015A: "STATUS_TOO_MANY_CONTEXT_IDS",
    0xC000015B: "STATUS_LOGON_TYPE_NOT_GRANTED",
    0xC0000185: "STATUS_IO_DEVICE_ERROR",
    0xC0000193: "STATUS_ACCOUNT_EXPIRED",
    0xC0000192: "STATUS_NETLOGON_NOT_STARTED",
    0xC000020C: "STATUS_CONNECTION_DISCONNECTED",
    0xC000020D: "STATUS_CONNECTION_RESET",
    0xC0000224: "STATUS_PASSWORD_MUST_CHANGE",
    0xC0000234: "STATUS_ACCOUNT_LOCKED_OUT",
    0xC0000241: "STATUS_CONNECTION_ABORTED",
    0xC00002FE: "STATUS_SHUTDOWN_IN_PROGRESS",
    0xC000035C: "STATUS_NETWORK_SESSION_EXPIRED",
    0xC0000802: "STATUS_DISK_QUOTA_EXCEEDED",
}


def _codes(*names: str) -> frozenset[int]:
    values = {name: value for value, name in _NAMES.items()}
    return frozenset(values[f"STATUS_{name}"] for name in names)


MISSING = _codes("OBJECT_NAME_NOT_FOUND", "OBJECT_PATH_NOT_FOUND", "NO_SUCH_FILE", "NOT_FOUND")
"""Statuses that say: there is nothing of that name, or no folder where it should lie."""
NO_FOLDER = _codes("OBJECT_PATH_NOT_FOUND", "OBJECT_NAME_NOT_FOUND")
NO_FLUSH_OF_FOLDERS = _codes("NOT_SUPPORTED", "INVALID_DEVICE_REQUEST") | {0xC0000002}
"""A file system that has no such operation; 0xC0000002 is STATUS_NOT_IMPLEMENTED."""
OTHER_KIND = _codes("FILE_IS_A_DIRECTORY", "NOT_A_DIRECTORY")
DYING = _codes("DELETE_PENDING")
TAKEN = _codes("OBJECT_NAME_COLLISION")
NOT_EMPTY = _codes("DIRECTORY_NOT_EMPTY")
FULL = _codes("DISK_FULL", "QUOTA_EXCEEDED", "DISK_QUOTA_EXCEEDED")
_LOGON = _codes(
    "LOGON_FAILURE",
    "WRONG_PASSWORD",
    "PASSWORD_EXPIRED",
    "PASSWORD_MUST_CHANGE",
    "NO_SUCH_USER",
    "ACCOUNT_RESTRICTION",
    "ACCOUNT_DISABLED",
    "ACCOUNT_EXPIRED",
    "ACCOUNT_LOCKED_OUT",
    "INVALID_LOGON_HOURS",
    "INVALID_WORKSTATION",
    "LOGON_TYPE_NOT_GRANTED",
)
DENIED = _codes(
    "ACCESS_DENIED", "MEDIA_WRITE_PROTECTED", "NETWORK_ACCESSDENIED", "PRIVILEGE_NOT_HELD"
) | _codes("CANNOT_DELETE")
_NO_SHARE = _codes("BAD_NETWORK_NAME")
_IN_USE = _codes("SHARING_VIOLATION")
_SESSION_LOST = _codes(
    "USER_SESSION_DELETED",
    "NETWORK_NAME_DELETED",
    "NETWORK_SESSION_EXPIRED",
    "CONNECTION_DISCONNECTED",
    "CONNECTION_RESET",
    "FILE_CLOSED",
    "INVALID_HANDLE",
    "CANCELLED",
    "IO_TIMEOUT",
    "DFS_UNAVAILABLE",
)
_AT_ITS_LIMIT = _codes(
    "SERVER_UNAVAILABLE",
    "REQUEST_NOT_ACCEPTED",
    "INSUFF_SERVER_RESOURCES",
    "INSUFFICIENT_RESOURCES",
    "NO_MEMORY",
    "COMMITMENT_LIMIT",
    "PAGEFILE_QUOTA",
    "TOO_MANY_OPENED_FILES",
    "TOO_MANY_CONTEXT_IDS",
    "TOO_MANY_SESSIONS",
    "NETWORK_BUSY",
    "UNEXPECTED_NETWORK_ERROR",
    "BAD_NETWORK_PATH",
    "CONNECTION_ABORTED",
    "SHUTDOWN_IN_PROGRESS",
    "NO_LOGON_SERVERS",
    "NETLOGON_NOT_STARTED",
)
"""A server that is short of something, goes down, or has nobody to ask: later it may answer."""
_DISK_TROUBLE = _codes("DATA_ERROR", "CRC_ERROR", "UNEXPECTED_IO_ERROR", "IO_DEVICE_ERROR")


def status_of(cause: BaseException) -> int | None:
    """The NT status of an answer, if `cause` is one."""
    return int(cause.status) if isinstance(cause, SMBResponseException) else None


def status_name(status: int) -> str:
    """Its name in MS-ERREF, or the number."""
    return _NAMES.get(status, f"NT status 0x{status:08X}")


def loses_connection(cause: BaseException) -> bool:
    """Whether the connection it happened on is of no further use."""
    status = status_of(cause)
    return status is None or status in _SESSION_LOST | _AT_ITS_LIMIT


def may_repeat(cause: BaseException) -> bool:
    """Whether another attempt may help; only asked for calls that change nothing twice.

    What another writer has open is closed in a moment.
    """
    if isinstance(cause, SMBAuthenticationError | EncryptionMissing | LogInDenied):
        return False
    if _is_guest(cause):
        return False
    return loses_connection(cause) or status_of(cause) in _IN_USE


def meaning(
    cause: BaseException, *, place: ShareAccount, name: str, waited: float | None
) -> LikenessError:
    """Say what a failure means.

    Args:
        cause: One of `FOREIGN`.
        place: Where it happened.
        name: The object or folder concerned; empty when there is none.
        waited: Seconds of silence, when it was the silence that ended the call.
    """
    if waited is not None:
        return ShareUnreachable(
            f"{_at(place, name)}: the server did not answer for {waited:.0f} seconds;"
            " check that it and the network are up, then run again"
        )
    if isinstance(cause, EncryptionMissing):
        return ShareRefused(
            f"{place}: the server does not encrypt SMB, which this data store asks for;"
            " switch SMB 3 encryption on there, or ask for signing only in the data store's block"
        )
    status = status_of(cause)
    if status is not None:
        return _meaning_of_status(status, place, name)
    if isinstance(cause, SMBAuthenticationError):
        return _refused_account(place, "no way to log in was agreed on")
    if isinstance(cause, LogInDenied) or _is_guest(cause):
        return _refused_account(place, "the server took it for a guest")
    return ShareUnreachable(
        f"{_at(place, name)}: {_reason(cause)};"
        " check that the server is up and reachable from here, then run again"
    )


def _meaning_of_status(status: int, place: ShareAccount, name: str) -> LikenessError:
    told = status_name(status)
    if status in TAKEN or status in DYING:
        return NameTaken(name)
    if status in _LOGON:
        return _refused_account(place, told)
    for codes, kind, sentence in _SENTENCES:
        if status in codes:
            return kind(f"{_at(place, name)}: {sentence.format(place=place)} ({told})")
    if status in MISSING or status in OTHER_KIND:
        return ObjectMissing(name)
    return ShareRefused(
        f"{_at(place, name)}: the server refused with {told}; look there for the reason"
    )


_SENTENCES: tuple[tuple[frozenset[int], type[LikenessError], str], ...] = (
    (
        FULL,
        ShareFull,
        "no room left for the account {place.username!r}; free space or raise its quota,"
        " then run again",
    ),
    (
        DENIED,
        ShareRefused,
        "the account {place.username!r} may not do this; check its rights on the share, and that"
        " the share is not read-only",
    ),
    (
        _NO_SHARE,
        ShareRefused,
        "{place.server} has no share {place.share!r}; correct the share's name",
    ),
    (
        _IN_USE,
        ObjectUnreadable,
        "somebody else has it open; run again when they are done",
    ),
    (
        _SESSION_LOST,
        ShareUnreachable,
        "the server dropped the session; run again",
    ),
    (
        _AT_ITS_LIMIT,
        ShareUnreachable,
        "the server is at its limit or goes down; see what it lacks, then run again",
    ),
    (
        _DISK_TROUBLE,
        ObjectUnreadable,
        "the server could not read or write its disk; check its disks and its log, then run again",
    ),
)


def _refused_account(place: ShareAccount, why: str) -> ShareRefused:
    return ShareRefused(
        f"{place}: the server does not accept the account {place.username!r} ({why});"
        " check its name and password in the data store's block"
    )


def _is_guest(cause: BaseException) -> bool:
    """Whether the server let the account in as a guest, which smbprotocol says only in words."""
    told = isinstance(cause, SMBException) and status_of(cause) is None
    return told and "guest" in str(cause)


def _at(place: ShareAccount, name: str) -> str:
    return f"{place}, {name}" if name else f"{place}"


def _reason(cause: BaseException) -> str:
    if isinstance(cause, TimeoutError):
        return "the server did not answer"
    if isinstance(cause, OSError):
        return f"no connection ({cause.strerror or cause})"
    if isinstance(cause, AnswerRefused):
        return "an answer came that is no SMB or cannot be trusted"
    if isinstance(cause, SMBException):
        return "the SMB connection was lost"
    return f"the answer is no SMB ({type(cause).__name__})"
