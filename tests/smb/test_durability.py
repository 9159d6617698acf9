"""What a call returned for is on the disk: seen from inside the server, in order."""

import itertools
import re
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import pytest

from likeness.transport.smb import SmbTransport
from tests.smb.server import SmbServer, require_module

pytestmark = pytest.mark.smb

MIB = 1 << 20
_AUDIT = (
    "vfs objects = full_audit",
    "full_audit:syslog = false",
    "full_audit:prefix = audited",
    "full_audit:success = mkdirat pwrite pwrite_send pwrite_recv fsync_send fsync_recv renameat",
    "full_audit:failure = none",
)


class AuditedServer:
    """A server that writes down what it asks of its file system."""

    def __init__(self) -> None:
        self.server = SmbServer(share_extra=_AUDIT)
        self._read = 0

    def operations(self) -> list[str]:
        """What was done since the last time, such as ``fsync_recv packs/3f``."""
        text = "".join(
            path.read_text(errors="replace")
            for path in sorted((self.server.home / "log").glob("*"))
            if path.is_file()
        )
        found = re.findall(r"audited\|(\w+)\|ok\|(\S+)", text)
        top = f"{self.server.folder()}"
        told = [f"{what} {_inside(where, top)}".rstrip() for what, where in found]
        new, self._read = told[self._read :], len(told)
        return new


def _inside(where: str, top: str) -> str:
    return where.replace(f"{top}/", "").replace(top, "")


@pytest.fixture
def audited() -> Generator[AuditedServer, None, None]:
    require_module("full_audit")
    made = AuditedServer()
    try:
        made.server.start()
        yield made
    finally:
        made.server.remove()


@pytest.fixture
def transport(audited: AuditedServer) -> Generator[SmbTransport, None, None]:
    made = audited.server.transport()
    yield made
    made.close()


def in_order(operations: list[str], *wanted: str) -> bool:
    """Whether the wanted operations occur in this order, whatever is between them."""
    rest = iter(operations)
    return all(any(operation == want for operation in rest) for want in wanted)


@pytest.mark.parametrize("size", [1, 3 * MIB + 1])
def test_an_object_is_flushed_before_its_name_and_both_before_the_call_returns(
    audited: AuditedServer, transport: SmbTransport, size: int
) -> None:
    transport.create("packs/3f/first", [b"1"])
    audited.operations()

    transport.create("packs/3f/object", [bytes(size)])

    done = audited.operations()
    assert in_order(done, "fsync_recv packs/3f/object", "fsync_recv packs/3f")
    last_write = max(n for n, what in enumerate(done) if what.startswith("pwrite"))
    assert last_write < done.index("fsync_send packs/3f/object")


def test_new_folders_are_flushed_where_they_lie(
    audited: AuditedServer, transport: SmbTransport
) -> None:
    transport.create("in/run/object", [b"1"])

    done = audited.operations()
    assert in_order(done, "mkdirat in", "mkdirat in/run", "fsync_recv in/run/object")
    assert in_order(done, "fsync_recv in/run/object", "fsync_recv in/run")
    assert in_order(done, "mkdirat in/run", "fsync_recv in")
    assert in_order(done, "mkdirat in", "fsync_recv")  # the top of the share


def test_a_folder_somebody_else_made_is_flushed_where_it_lies_once(
    audited: AuditedServer, transport: SmbTransport
) -> None:
    (audited.server.folder() / "in/run").mkdir(parents=True)

    transport.create("in/run/1", [b"1"])
    assert in_order(
        audited.operations(), "fsync_recv in/run/1", "fsync_recv in/run", "fsync_recv in"
    )

    transport.create("in/run/2", [b"2"])
    assert "fsync_recv in" not in audited.operations()


def test_a_folder_made_again_is_flushed_again(
    audited: AuditedServer, transport: SmbTransport
) -> None:
    transport.create("in/run/1", [b"1"])
    transport.delete("in/run/1")
    transport.delete_folder("in/run")
    audited.operations()

    transport.create("in/run/2", [b"2"])

    assert in_order(audited.operations(), "mkdirat in/run", "fsync_recv in/run/2", "fsync_recv in")


def test_a_rename_is_flushed_in_both_folders(
    audited: AuditedServer, transport: SmbTransport
) -> None:
    transport.create("in/run/pack", [b"1"])
    audited.operations()

    transport.rename("in/run/pack", "packs/3f/pack")

    done = audited.operations()
    moved = next(number for number, what in enumerate(done) if what.startswith("renameat"))
    assert {"fsync_recv packs/3f", "fsync_recv in/run", "fsync_recv packs", "fsync_recv"} <= set(
        itertools.islice(done, moved, None)
    )


def test_with_many_threads_every_object_is_flushed(
    audited: AuditedServer, transport: SmbTransport
) -> None:
    names = [f"packs/{number % 3}/{number:02d}" for number in range(24)]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: transport.create(name, [bytes(100_000)]), names))

    done = audited.operations()
    for name in names:
        assert in_order(done, f"fsync_recv {name}", f"fsync_recv {name.rpartition('/')[0]}")
