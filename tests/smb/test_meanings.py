"""Every way in which SMB fails becomes one sentence of Likeness; no server needed."""

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smbprotocol.exceptions import (
    SMB2ErrorResponse,
    SMBAuthenticationError,
    SMBConnectionClosed,
    SMBException,
    SMBResponseException,
)
from smbprotocol.header import SMB2HeaderResponse

from likeness.errors import (
    LikenessError,
    NameTaken,
    ObjectMissing,
    ObjectUnreadable,
    PermanentError,
    ShareFull,
    ShareRefused,
    ShareUnreachable,
    TransientError,
)
from likeness.transport.smb import SmbTransport
from likeness.transport.smb_data import pieces
from likeness.transport.smb_errors import (
    AnswerRefused,
    EncryptionMissing,
    ShareAccount,
    may_repeat,
    meaning,
)
from likeness.transport.tuning import keep_large_buffers

PLACE = ShareAccount("nas.example", "backup", "likeness/store", r"EXAMPLE\backup")


def refusal(status: int) -> SMBException:
    header = SMB2HeaderResponse()
    header["data"] = SMB2ErrorResponse()
    header["status"].value = status  # past the list of those smbprotocol knows
    return SMBResponseException(header)


def told(cause: BaseException, *, waited: float | None = None) -> LikenessError:
    return meaning(cause, place=PLACE, name="packs/3f/x", waited=waited)


@pytest.mark.parametrize(
    ("status", "error", "sentence"),
    [
        (0xC000007F, ShareFull, "no room left.*STATUS_DISK_FULL"),
        (0xC0000044, ShareFull, "raise its quota.*STATUS_QUOTA_EXCEEDED"),
        (0xC0000802, ShareFull, "STATUS_DISK_QUOTA_EXCEEDED"),
        (0xC0000022, ShareRefused, r"account 'EXAMPLE\\\\backup' may not.*STATUS_ACCESS_DENIED"),
        (0xC00000A2, ShareRefused, "not read-only.*STATUS_MEDIA_WRITE_PROTECTED"),
        (0xC000006D, ShareRefused, "does not accept the account.*STATUS_LOGON_FAILURE"),
        (0xC0000072, ShareRefused, "does not accept the account.*STATUS_ACCOUNT_DISABLED"),
        (0xC0000234, ShareRefused, "does not accept the account.*STATUS_ACCOUNT_LOCKED_OUT"),
        (0xC0000071, ShareRefused, "does not accept the account.*STATUS_PASSWORD_EXPIRED"),
        (0xC00000CC, ShareRefused, "has no share 'backup'.*STATUS_BAD_NETWORK_NAME"),
        (0xC0000043, ObjectUnreadable, "somebody else has it open.*STATUS_SHARING_VIOLATION"),
        (0xC0000203, ShareUnreachable, "dropped the session.*STATUS_USER_SESSION_DELETED"),
        (0xC000035C, ShareUnreachable, "STATUS_NETWORK_SESSION_EXPIRED"),
        (0xC0000017, ShareUnreachable, "at its limit or goes down.*STATUS_NO_MEMORY"),
        (0xC000009A, ShareUnreachable, "at its limit or goes down.*STATUS_INSUFFICIENT_RESOURCES"),
        (0xC000012D, ShareUnreachable, "at its limit or goes down.*STATUS_COMMITMENT_LIMIT"),
        (0xC00000CE, ShareUnreachable, "at its limit or goes down.*STATUS_TOO_MANY_SESSIONS"),
        (0xC00002FE, ShareUnreachable, "at its limit or goes down.*STATUS_SHUTDOWN_IN_PROGRESS"),
        (0xC000005E, ShareUnreachable, "at its limit or goes down.*STATUS_NO_LOGON_SERVERS"),
        (0xC0000185, ObjectUnreadable, "could not read or write its disk.*IO_DEVICE_ERROR"),
        (0xC0000033, ShareRefused, "the server refused with STATUS_OBJECT_NAME_INVALID"),
        (0xC0DEC0DE, ShareRefused, "the server refused with NT status 0xC0DEC0DE"),
        (0xC0000035, NameTaken, "exists already"),
        (0xC0000034, ObjectMissing, "packs/3f/x is not in the store"),
        (0xC000003A, ObjectMissing, "packs/3f/x is not in the store"),
    ],
)
def test_an_nt_status_has_a_meaning(status: int, error: type[LikenessError], sentence: str) -> None:
    with pytest.raises(error, match=f"(?s){sentence}"):
        raise told(refusal(status))


@pytest.mark.parametrize(
    ("cause", "error", "sentence"),
    [
        (ConnectionRefusedError(111, "Connection refused"), ShareUnreachable, "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), ShareUnreachable, "not known"),
        (TimeoutError("x"), ShareUnreachable, "the server did not answer"),
        (SMBConnectionClosed("x"), ShareUnreachable, "the SMB connection was lost"),
        (AnswerRefused("x"), ShareUnreachable, "cannot be trusted"),
        (ValueError("x"), ShareUnreachable, "no SMB"),
        (KeyError("x"), ShareUnreachable, "no SMB"),
        (SMBAuthenticationError("x"), ShareRefused, "does not accept the account"),
        (SMBException("authenticated as a guest"), ShareRefused, "took it for a guest"),
        (EncryptionMissing("x"), ShareRefused, "does not encrypt"),
    ],
)
def test_every_family_of_exceptions_has_a_meaning(
    cause: BaseException, error: type[LikenessError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence) as caught:
        raise told(cause)

    assert str(caught.value).startswith("//nas.example/backup/likeness/store")


def test_silence_is_told_with_its_length() -> None:
    with pytest.raises(ShareUnreachable, match="did not answer for 30 seconds; check"):
        raise told(SMBConnectionClosed("x"), waited=30.0)


@given(status=st.integers(0xC0000000, 0xC000FFFF))
def test_every_status_has_a_meaning_and_names_the_object_or_the_share(status: int) -> None:
    error = told(refusal(status))

    assert isinstance(error, TransientError | PermanentError)
    assert "packs/3f/x" in str(error) or "//nas.example/backup" in str(error)


def test_what_cannot_get_better_is_not_tried_again() -> None:
    for hopeless in (
        refusal(0xC000006D),
        refusal(0xC0000022),
        refusal(0xC0000034),
        EncryptionMissing("x"),
        SMBAuthenticationError("x"),
    ):
        assert not may_repeat(hopeless)
    for hopeful in (
        SMBConnectionClosed("x"),
        refusal(0xC0000203),
        refusal(0xC0000043),  # another writer will close it in a moment
        OSError("x"),
        KeyError("x"),
    ):
        assert may_repeat(hopeful)


def test_the_description_names_place_and_account_alone() -> None:
    transport = SmbTransport("nas", "backup", "/a/b/", username="u", password="p4ss", port=4450)

    assert repr(transport) == "SmbTransport('//nas:4450/backup/a/b', username='u')"


@pytest.mark.parametrize("path", ["../up", "a//b", "a/./b", "a\\b", "a:b", "a\0b", "a*"])
def test_a_path_that_is_none_inside_a_share_is_refused(path: str) -> None:
    with pytest.raises(ShareRefused, match="no name inside a data store"):
        SmbTransport("nas", "backup", path, username="u", password="p")


@given(parts=st.lists(st.binary(max_size=40)), size=st.integers(1, 25))
def test_pieces_are_the_parts_cut_anew(parts: list[bytes], size: int) -> None:
    cut = list(pieces(parts, size))

    assert b"".join(cut) == b"".join(parts)
    assert all(len(piece) == size for piece in cut[:-1])
    assert all(0 < len(piece) <= size for piece in cut[-1:])


def test_the_c_library_keeps_large_buffers_where_it_can() -> None:
    has_mallopt = os.uname().sysname == "Linux" and "glibc" in (
        os.confstr("CS_GNU_LIBC_VERSION") or ""
    )

    assert keep_large_buffers() is has_mallopt
    assert keep_large_buffers() is has_mallopt
