"""The source's account on the share: it creates and flushes, and can do nothing else."""

import os
import pwd
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import pytest
from smbprotocol.exceptions import SMBResponseException
from smbprotocol.file_info import FileInformationClass, FileRenameInformation, InfoType
from smbprotocol.header import NtStatus
from smbprotocol.open import (
    CreateDisposition,
    CreateOptions,
    DirectoryAccessMask,
    FilePipePrinterAccessMask,
    SMB2SetInfoRequest,
)

from likeness.errors import NameTaken, ShareRefused
from likeness.transport.smb import SmbTransport
from likeness.transport.smb_errors import ShareAccount
from likeness.transport.smb_requests import FILE, FOLDER, granted, opening
from likeness.transport.smb_session import SmbSession
from likeness.transport.smb_socket import Deadline
from tests.smb.drop_box import ACL_LINES, make_drop_box
from tests.smb.server import SmbServer, require_module

pytestmark = pytest.mark.smb

SOURCE, CONTROLLER = "daemon", "bin"  # accounts that every Linux system has
RUN = "in/0123456789abcdef0123456789abcdef"
LARGE = [os.urandom(1 << 20)] * 9


@dataclass
class Store:
    server: SmbServer
    controller: SmbTransport
    source: SmbTransport


@pytest.fixture(scope="module")
def server() -> Generator[SmbServer, None, None]:
    if os.getuid() != 0:
        pytest.skip("not root: Samba keeps NT access control lists in attributes only root can set")
    require_module("acl_xattr")
    for name in (SOURCE, CONTROLLER):
        pwd.getpwnam(name)
    made = SmbServer(share_extra=ACL_LINES)
    try:
        made.folder().chmod(0o777)
        made.folder().parent.chmod(0o755)
        made.set_password("of-the-source", username=SOURCE)
        made.set_password("of-the-controller", username=CONTROLLER)
        made.start()
        make_drop_box(made, source=SOURCE, controller=CONTROLLER)
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def store(server: SmbServer) -> Generator[Store, None, None]:
    """A store as a run finds it: an open run folder, packs and versions beside it."""
    controller = server.transport(username=CONTROLLER, password="of-the-controller")
    source = server.transport(username=SOURCE, password="of-the-source")
    controller.create(f"{RUN}/opened", [b"by the controller"])
    controller.create("packs/3f/pack", [b"admitted"])
    controller.create("versions/vm/version", [b"signed"])
    yield Store(server, controller, source)
    controller.close()
    source.close()


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(ShareRefused, match="may not do this; check its rights") as told:
        call()
    assert f"the account {SOURCE!r}" in str(told.value)
    return str(told.value)


@pytest.mark.parametrize("parts", [[b"small"], LARGE], ids=["small", "large"])
def test_a_source_creates_objects_that_the_controller_reads(
    store: Store, parts: list[bytes]
) -> None:
    name = f"{RUN}/{len(parts)}"

    store.source.create(name, parts)

    assert store.controller.read(name) == b"".join(parts)


def test_a_source_is_told_when_a_name_is_taken(store: Store) -> None:
    store.source.create(f"{RUN}/once", [b"first"])

    for name in (f"{RUN}/once", f"{RUN}/opened"):
        with pytest.raises(NameTaken):
            store.source.create(name, [b"second"])

    assert store.controller.read(f"{RUN}/once") == b"first"
    assert store.controller.read(f"{RUN}/opened") == b"by the controller"


def test_a_source_reads_nothing_not_even_its_own(store: Store) -> None:
    store.source.create(f"{RUN}/own", [b"secret"])

    for name in (f"{RUN}/own", f"{RUN}/opened", "packs/3f/pack", "versions/vm/version"):
        refused(lambda name=name: store.source.read(name))  # type: ignore[misc]


@pytest.mark.parametrize("folder", ["", "in", RUN, "packs", "packs/3f", "versions"])
def test_a_source_lists_nothing(store: Store, folder: str) -> None:
    refused(lambda: list(store.source.entries(folder)))
    refused(lambda: store.source.folders(folder))


def test_a_source_deletes_and_renames_nothing(store: Store) -> None:
    store.source.create(f"{RUN}/stays", [b"1"])

    for name in (f"{RUN}/stays", f"{RUN}/opened", "packs/3f/pack", "versions/vm/version"):
        refused(lambda name=name: store.source.delete(name))  # type: ignore[misc]
        refused(lambda name=name: store.source.rename(name, f"{RUN}/moved"))  # type: ignore[misc]

    assert store.controller.read(f"{RUN}/stays") == b"1"
    assert store.controller.read("packs/3f/pack") == b"admitted"


def test_a_source_creates_nowhere_else(store: Store) -> None:
    for name in ("object", "packs/object", "packs/3f/object", "versions/vm/object", "new/object"):
        refused(lambda name=name: store.source.create(name, [b"1"]))  # type: ignore[misc]
    refused(lambda: store.source.create("in/a-run-of-its-own/object", [b"1"]))

    found = [entry.name for entry in store.controller.entries("")]
    assert [name for name in found if not name.startswith("in/")] == [
        "packs/3f/pack",
        "versions/vm/version",
    ]


def test_the_controller_admits_what_a_source_left(store: Store) -> None:
    store.source.create(f"{RUN}/pack", LARGE)

    store.controller.rename(f"{RUN}/pack", "packs/aa/pack")

    assert store.controller.read("packs/aa/pack") == b"".join(LARGE)
    refused(lambda: store.source.read("packs/aa/pack"))
    refused(lambda: store.source.delete("packs/aa/pack"))
    store.controller.delete("packs/aa/pack")


RIGHTS = FilePipePrinterAccessMask
ATTEMPTS: list[tuple[str, dict[str, Any]]] = [
    ("write into it", {"access": RIGHTS.FILE_WRITE_DATA}),
    ("append to it", {"access": RIGHTS.FILE_APPEND_DATA}),
    ("read it", {"access": RIGHTS.FILE_READ_DATA}),
    (
        "truncate it",
        {"access": RIGHTS.FILE_WRITE_DATA, "disposition": CreateDisposition.FILE_OVERWRITE},
    ),
    (
        "supersede it",
        {"access": RIGHTS.FILE_WRITE_DATA, "disposition": CreateDisposition.FILE_SUPERSEDE},
    ),
    ("delete it", {"access": RIGHTS.DELETE, "options": FILE | CreateOptions.FILE_DELETE_ON_CLOSE}),
    ("change its rights", {"access": RIGHTS.WRITE_DAC}),
    ("take it over", {"access": RIGHTS.WRITE_OWNER}),
    ("change its times", {"access": RIGHTS.FILE_WRITE_ATTRIBUTES}),
]


@pytest.mark.parametrize(("attempt", "how"), ATTEMPTS, ids=[name for name, _ in ATTEMPTS])
def test_a_source_cannot_by_any_other_request(
    store: Store, attempt: str, how: dict[str, Any]
) -> None:
    """Straight SMB, as a stranger with the source's password would send it."""
    name = f"{RUN}/tried-{attempt.replace(' ', '-')}"
    store.source.create(name, [b"as it was"])
    place = ShareAccount("127.0.0.1", "ads", "", SOURCE, store.server.port)
    session = SmbSession(place, "of-the-source", encrypt=True, deadline=Deadline(20))
    how = dict(how)

    handle, message = opening(session, name.replace("/", "\\"), how.pop("access"), **how)
    with pytest.raises(SMBResponseException) as told:
        granted(session.ask_together([message, handle.close(send=False)[0]])[0])
    session.drop()

    assert told.value.status == NtStatus.STATUS_ACCESS_DENIED
    assert store.controller.read(name) == b"as it was"


@pytest.mark.parametrize("replace", [False, True])
def test_a_source_cannot_move_its_own_file_among_the_admitted(
    store: Store,
    replace: bool,  # noqa: FBT001
) -> None:
    """Opened with the right to delete when it is made, which nothing can refuse to a creator."""
    place = ShareAccount("127.0.0.1", "ads", "", SOURCE, store.server.port)
    session = SmbSession(place, "of-the-source", encrypt=True, deadline=Deadline(20))
    handle, message = opening(
        session,
        f"{RUN}/smuggled-{replace}".replace("/", "\\"),
        RIGHTS.FILE_WRITE_DATA | RIGHTS.DELETE,
        disposition=CreateDisposition.FILE_CREATE,
    )
    target = FileRenameInformation()
    target["replace_if_exists"] = replace
    target["file_name"] = "packs\\3f\\pack" if replace else "packs\\3f\\other"
    order = SMB2SetInfoRequest()
    order["info_type"] = InfoType.SMB2_0_INFO_FILE
    order["file_info_class"] = FileInformationClass.FILE_RENAME_INFORMATION
    order["file_id"] = handle.file_id
    order["buffer"] = target.pack()

    made, moved, _ = session.ask_together([message, order, handle.close(send=False)[0]])
    session.drop()

    granted(made)
    with pytest.raises(SMBResponseException) as told:
        granted(moved)
    assert told.value.status == NtStatus.STATUS_ACCESS_DENIED
    assert [entry.name for entry in store.controller.entries("packs")] == ["packs/3f/pack"]
    assert store.controller.read("packs/3f/pack") == b"admitted"


def test_a_source_cannot_change_the_rights_of_the_drop_box(store: Store) -> None:
    place = ShareAccount("127.0.0.1", "ads", "", SOURCE, store.server.port)
    session = SmbSession(place, "of-the-source", encrypt=True, deadline=Deadline(20))

    for path in ("", "in", RUN.replace("/", "\\")):
        for access in (
            RIGHTS.WRITE_DAC,
            DirectoryAccessMask.FILE_DELETE_CHILD,
            DirectoryAccessMask.FILE_ADD_SUBDIRECTORY,
            RIGHTS.DELETE,
        ):
            handle, message = opening(session, path, access, options=FOLDER)
            with pytest.raises(SMBResponseException) as told:
                granted(session.ask_together([message, handle.close(send=False)[0]])[0])
            assert told.value.status == NtStatus.STATUS_ACCESS_DENIED
    session.drop()


def test_without_these_rights_the_same_account_could_read(store: Store) -> None:
    """The refusals above come from the rights, not from a server that refuses everything."""
    other = store.server.transport("vault", username=SOURCE, password="of-the-source")
    store.server.folder("vault").chmod(0o777)

    other.create("open/object", [b"1"])

    assert other.read("open/object") == b"1"
    assert [entry.name for entry in other.entries("")] == ["open/object"]
    other.delete("open/object")
    other.close()
