"""Nobody on the wire reads, and nobody forges; no secret leaves the transport."""

import logging
import os
import struct
import traceback
from collections.abc import Generator

import pytest

from likeness.errors import LikenessError, ObjectMissing, ShareRefused, ShareUnreachable
from tests.smb.server import SmbServer
from tests.smb.wire import Wire

pytestmark = pytest.mark.smb

PLAIN, SEALED = b"\xfeSMB", b"\xfdSMB"
ECHO, WRITE = 13, 9
SIGNED = 0x08


@pytest.fixture(scope="module")
def signing_server() -> Generator[SmbServer, None, None]:
    """A server that signs, but cannot encrypt."""
    server = SmbServer(encryption="off")
    try:
        server.start()
        yield server
    finally:
        server.remove()


def test_nothing_readable_goes_over_the_wire(smb_server: SmbServer) -> None:
    marker, name = os.urandom(32), "wire/f00dface"

    with Wire(smb_server.port) as wire:
        transport = smb_server.transport(port=wire.port)
        transport.create(name, [marker * 5000])
        assert transport.read(name, 0, 32) == marker
        transport.close()
        seen = bytes(wire.sent + wire.received)

    assert len(seen) > 160_000
    assert marker not in seen
    assert "f00dface".encode("utf-16-le") not in seen


def test_without_encryption_the_same_would_be_readable(signing_server: SmbServer) -> None:
    marker = os.urandom(32)

    with Wire(signing_server.port) as wire:
        transport = signing_server.transport(port=wire.port, encrypt=False)
        transport.create("wire/f00dface", [marker * 5000])
        transport.close()
        seen = bytes(wire.sent)

    assert marker in seen


def test_a_server_that_does_not_encrypt_is_refused(signing_server: SmbServer) -> None:
    transport = signing_server.transport()

    with pytest.raises(ShareRefused, match=r"does not encrypt SMB.*switch SMB 3 encryption on"):
        transport.create("refused", [b"secret"])

    assert not (signing_server.folder() / "refused").exists()


def test_a_server_that_insists_on_encryption_gets_it_unasked(smb_server: SmbServer) -> None:
    marker = os.urandom(32)

    with Wire(smb_server.port) as wire:
        transport = smb_server.transport(port=wire.port, encrypt=False)
        transport.create("wire/insists", [marker * 3000])
        assert transport.read("wire/insists") == marker * 3000
        transport.close()
        assert marker not in wire.sent + wire.received


@pytest.mark.parametrize("cipher", ["AES-128-GCM", "AES-128-CCM", "AES-256-GCM", "AES-256-CCM"])
def test_every_cipher_of_smb_3_works(cipher: str) -> None:
    server = SmbServer(extra=[f"server smb3 encryption algorithms = {cipher}"])
    data, marker = os.urandom(3 << 20), os.urandom(32)
    try:
        server.start()
        with Wire(server.port) as wire:
            transport = server.transport(port=wire.port)
            transport.create("packs/large", [data, marker * 100])
            assert transport.read("packs/large") == data + marker * 100
            transport.close()
            assert marker not in wire.sent + wire.received
    finally:
        server.remove()


@pytest.mark.parametrize(
    ("dialect", "encryption"),
    [("SMB3_02", "required"), ("SMB3_00", "required"), ("SMB2_10", "off"), ("SMB2_02", "off")],
)
def test_older_servers_work_as_well_as_they_can(dialect: str, encryption: str) -> None:
    limits = [f"server min protocol = {dialect}", f"server max protocol = {dialect}"]
    server = SmbServer(encryption=encryption, extra=limits)
    data = os.urandom(3 << 20)
    try:
        server.start()
        transport = server.transport(encrypt=encryption == "required")
        transport.create("packs/large", [data])
        transport.create("packs/small", [data[:100]])
        transport.rename("packs/small", "kept/small")
        assert transport.read("packs/large") == data
        assert [entry.name for entry in transport.entries("")] == ["kept/small", "packs/large"]
        transport.close()
        if encryption == "off":
            with pytest.raises(ShareRefused, match="does not encrypt SMB"):
                server.transport().size("packs/large")
    finally:
        server.remove()


def test_an_unencrypted_answer_in_an_encrypted_session_is_not_believed(
    smb_server: SmbServer,
) -> None:
    """The first encrypted answer is that to an echo; a forger can tell, and knows its number."""
    forged: list[bytes] = []

    def forge(frame: bytes) -> bytes:
        if frame[:4] == SEALED and not forged:
            header = struct.pack(
                "<4sHHIHHIIQIIQ16s", PLAIN, 64, 0, 0, ECHO, 512, 1, 0, 3, 0, 0, 0, b""
            )
            forged.append(header + struct.pack("<HH", 4, 0))
            return forged[0]
        return frame

    with Wire(smb_server.port, change=forge) as wire:
        transport = smb_server.transport(port=wire.port, deadline_seconds=5)
        with pytest.raises(ObjectMissing):
            transport.size("nothing")
        transport.close()

    assert forged
    assert wire.connections == 2, "the forged answer was taken for a true one"


def test_an_unsigned_answer_in_a_signed_session_is_not_believed(
    signing_server: SmbServer,
) -> None:
    stripped: list[int] = []

    def strip(frame: bytes) -> bytes:
        command, flags = struct.unpack_from("<H2xI", frame, 12)
        if frame[:4] == PLAIN and command == WRITE and flags & SIGNED:
            stripped.append(command)
            return (
                frame[:16]
                + struct.pack("<I", flags & ~SIGNED)
                + frame[20:48]
                + bytes(16)
                + frame[64:]
            )
        return frame

    with Wire(signing_server.port, change=strip) as wire:
        transport = signing_server.transport(port=wire.port, encrypt=False, deadline_seconds=5)
        with pytest.raises(ShareUnreachable):
            transport.create("stripped", [bytes(200_000)])
        transport.close()

    assert stripped


def test_a_changed_answer_is_not_believed(signing_server: SmbServer) -> None:
    def lie(frame: bytes) -> bytes:
        (command,) = struct.unpack_from("<H", frame, 12)
        return frame[:-1] + bytes([frame[-1] ^ 1]) if command == WRITE else frame

    with Wire(signing_server.port, change=lie) as wire:
        transport = signing_server.transport(port=wire.port, encrypt=False, deadline_seconds=5)
        with pytest.raises(ShareUnreachable):
            transport.create("changed", [bytes(200_000)])
        transport.close()


def test_no_error_log_or_description_shows_the_password(
    smb_server: SmbServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    password = "correct-horse-battery"
    told = []
    for settings in (
        {"password": password},
        {"password": password, "share": "nowhere"},
        {"password": password, "port": 1},
        {"password": password, "username": "nobody-at-all"},
    ):
        transport = smb_server.transport(**{"deadline_seconds": 5, **settings})  # type: ignore[arg-type]
        with pytest.raises(LikenessError) as caught:
            transport.size("object")
        told += traceback.format_exception(caught.value)
        told += [
            repr(transport),
            str(transport),
            repr(vars(transport)),
            repr(vars(transport._pool)),
        ]

    assert "STATUS_LOGON_FAILURE" in "".join(told)
    assert password not in "".join(told)
    assert password not in caplog.text
