"""Shares as people write them, and servers that let anybody in."""

import os
import pwd
from collections.abc import Generator

import pytest

from likeness.errors import ShareRefused
from likeness.transport.place import open_place
from tests.smb.server import SmbServer

pytestmark = pytest.mark.smb

ENCRYPTION = ("required", "desired", "off")


@pytest.fixture(scope="module")
def on_both_protocols() -> Generator[SmbServer, None, None]:
    """A server that also listens on IPv6's loopback."""
    server = SmbServer(extra=["interfaces = ::1/128 127.0.0.1/8"])
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.mark.parametrize(
    "place",
    [
        "smb://127.0.0.1:{port}/ads/My%20Backups/",
        "smb://127.0.0.1:{port}//ads/My Backups",
        "\\\\127.0.0.1:{port}\\ads\\My Backups\\",
        "//127.0.0.1:{port}/ads/My Backups",
        "smb://[::1]:{port}/ads/My%20Backups",
        "SMB://--1.ipv6-literal.net:{port}/ads/My%20Backups",
    ],
)
def test_one_folder_however_it_is_written(on_both_protocols: SmbServer, place: str) -> None:
    folder = on_both_protocols.folder() / "My Backups"
    folder.mkdir(exist_ok=True)
    (folder / "seen").write_bytes(b"here")
    transport = open_place(
        place.format(port=on_both_protocols.port),
        username=on_both_protocols.username,
        password=on_both_protocols.password,
        encrypt=True,
    )

    assert transport.read("seen") == b"here"
    transport.close()


@pytest.mark.parametrize("mapped", ["bad user", "bad password"])
@pytest.mark.parametrize("encryption", ENCRYPTION)
def test_an_account_that_the_server_turns_into_a_guest_is_refused(
    encryption: str, mapped: str
) -> None:
    server = SmbServer(
        encryption=encryption,
        extra=[
            f"map to guest = {mapped}",
            "restrict anonymous = 0",
            f"guest account = {pwd.getpwuid(os.getuid()).pw_name}",
        ],
        share_extra=["guest ok = yes"],
    )
    account = "nobody-here" if mapped == "bad user" else server.username
    try:
        server.start()
        transport = server.transport(
            username=account, password="wrong", encrypt=encryption != "off"
        )
        with pytest.raises(ShareRefused, match=rf"{account}.*for a guest.*check its name"):
            transport.create("packs/guest", [b"anybody's"])
        transport.close()
        assert not list(server.folder().iterdir())
        welcome = server.transport(encrypt=encryption != "off")
        welcome.create("packs/ours", [b"ours"])
        welcome.close()
    finally:
        server.remove()
