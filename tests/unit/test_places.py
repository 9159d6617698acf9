"""Places as people write and paste them."""

from pathlib import Path

import pytest

from likeness.errors import BadInput
from likeness.transport.local import LocalTransport
from likeness.transport.place import SharePlace, open_place, share_of
from likeness.transport.tuning import WRITE_BYTES, batches
from tests.unit.workshop import noise


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("smb://nas/backup", SharePlace("nas", 445, "backup", "")),
        ("smb://nas/backup/", SharePlace("nas", 445, "backup", "")),
        ("smb://nas/backup/ads///", SharePlace("nas", 445, "backup", "ads")),
        ("SMB://nas:1445//backup/ads", SharePlace("nas", 1445, "backup", "ads")),
        ("cifs://nas/backup", SharePlace("nas", 445, "backup", "")),
        ("  smb://nas/backup\n", SharePlace("nas", 445, "backup", "")),
        (
            "smb://nas/My%20Backups/f%C3%BCr%20uns",
            SharePlace("nas", 445, "My Backups", "für uns"),
        ),
        ("smb://nas/My Backups/100%", SharePlace("nas", 445, "My Backups", "100%")),
        (r"\\nas\backup", SharePlace("nas", 445, "backup", "")),
        (r"\\nas\My Backups\ads" "\\", SharePlace("nas", 445, "My Backups", "ads")),
        (r"\\nas\literal%20sign", SharePlace("nas", 445, "literal%20sign", "")),
        ("//nas/backup/ads", SharePlace("nas", 445, "backup", "ads")),
        ("smb://192.0.2.7:1445/backup", SharePlace("192.0.2.7", 1445, "backup", "")),
        ("smb://[fd00::7]/backup", SharePlace("fd00::7", 445, "backup", "")),
        ("smb://[FD00:0::7]:1445/backup/ads", SharePlace("fd00::7", 1445, "backup", "ads")),
        ("smb://[fe80::7%25eth0]/backup", SharePlace("fe80::7%eth0", 445, "backup", "")),
        (r"\\fd00--7.ipv6-literal.net\backup", SharePlace("fd00::7", 445, "backup", "")),
        (r"\\fe80--7s4.ipv6-literal.net\backup", SharePlace("fe80::7%4", 445, "backup", "")),
        ("smb://nas/backup$/a@b", SharePlace("nas", 445, "backup$", "a@b")),
    ],
)
def test_a_share_is_understood_however_it_is_written(written: str, meant: SharePlace) -> None:
    assert share_of(written) == meant


@pytest.mark.parametrize(
    "written",
    [
        "",
        "backup",
        "./backup",
        "http://nas/backup",
        "C:\\backup",
        "smb://",
        "smb:///backup",
        "smb://nas",
        "smb://nas/",
        "\\\\nas",
        "\\\\nas\\",
        "smb://nas:0/backup",
        "smb://nas:65536/backup",
        "smb://nas:999999999999999999999/backup",
        "smb://nas:/backup",
        "smb://nas:smb/backup",
        "smb://fd00::7/backup",
        "smb://[fd00::7/backup",
        "smb://[nas]/backup",
        "smb://nas/../backup",
        "smb://nas/backup/%2e%2e/other",
        "smb://nas/backup/a%2Fb",
        "smb://nas/backup/a%5Cb",
        "smb://nas/backup/%00",
        "smb://nas/backup/%FF",
        "smb://nas/back:up",
        "/backup\0/ads",
    ],
)
def test_what_is_no_place_is_refused_in_a_sentence(written: str) -> None:
    with pytest.raises(BadInput) as refused:
        open_place(written, username="", password="", encrypt=True)

    assert len(str(refused.value).split()) < 40


@pytest.mark.parametrize(
    "written",
    ["smb://me:hunter2@nas/backup", r"\\me:hunter2@nas\backup", "me:hunter2@nas/backup"],
)
def test_a_password_in_a_place_is_not_repeated(written: str) -> None:
    with pytest.raises(BadInput) as refused:
        share_of(written)

    assert "hunter2" not in str(refused.value)


def test_a_folder_of_this_machine_is_a_folder(tmp_path: Path) -> None:
    opened = open_place(f" {tmp_path}// ", username="", password="", encrypt=True)

    assert isinstance(opened, LocalTransport)
    assert opened.root == tmp_path


def test_an_object_of_long_short_and_empty_parts_is_written_in_pieces(tmp_path: Path) -> None:
    tiny = [bytes([at % 251]) for at in range(3000)]
    parts = [b"", noise(1, 3 * WRITE_BYTES + 5), b"", *tiny, noise(2, WRITE_BYTES), *tiny]

    pieces = list(batches(parts))
    place = LocalTransport(tmp_path)
    place.create("object", parts)

    assert place.read("object") == b"".join(parts)
    assert b"".join(piece for batch in pieces for piece in batch) == b"".join(parts)
    assert max(sum(map(len, batch)) for batch in pieces) < 2 * WRITE_BYTES
    assert max(map(len, pieces)) <= 512  # more than 1024 the kernel refuses
    assert not list(batches([b""]))
