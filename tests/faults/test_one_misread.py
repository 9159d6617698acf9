"""One reading that comes out wrong moves, deletes, replaces and forgets nothing.

Whatever decides so looks twice. Here every object of its kind reads wrong once, in turn.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from likeness.codec.documents import Kind
from likeness.codec.hashing import digest
from likeness.errors import ObjectUnreadable
from likeness.store.check.proving import prove_documents
from likeness.store.format import layout
from likeness.store.format.documents import VersionClear
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.keys.keyring import begin_epoch, renew_public_keys
from likeness.store.read.versions import read_version
from likeness.store.write.catalog_copies import fetch_newest
from likeness.store.write.heads import read_head_state, write_head
from tests.audit.conftest import OBJECTS, SIZE, Filled, fill
from tests.support.faulty import FaultyTransport
from tests.unit.workshop import changed, noise

DISK = changed(noise("disk", SIZE), (400, b"what the next job brings"))
DOCUMENTS = sorted(set(OBJECTS) - {"pack"})


@pytest.fixture
def flickering(filled: Filled) -> tuple[Filled, FaultyTransport]:
    """A store that is opened over a transport which can misread."""
    faulty = FaultyTransport(filled.workshop.transport)
    filled.workshop.transport = filled.store.transport = faulty
    return filled, faulty


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    return fill(tmp_path)


def everything(filled: Filled) -> dict[str, bytes]:
    root = filled.root
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def backed_up(filled: Filled) -> None:
    filled.workshop.back_up(DISK)


def headed(filled: Filled) -> None:
    before = read_head_state(filled.store)
    filled.workshop.back_up(DISK)
    after = write_head(filled.store, clock=filled.workshop.clock)
    assert after.problem == ""
    assert after.number == before.number + 1
    assert after.objects.items() >= before.objects.items()
    for name, told in after.objects.items():
        assert digest([filled.path(name).read_bytes()]).hex() == told


def opened(filled: Filled) -> None:
    store = open_store_with_key_file(filled.store.transport, filled.workshop.key_file)
    assert store.keys.epoch == filled.store.keys.epoch


def renewed(filled: Filled) -> None:
    assert renew_public_keys(filled.store, clock=filled.workshop.clock) == ()


def begun(filled: Filled) -> None:
    number = len(filled.names(layout.OWNER))
    assert begin_epoch(filled.store, clock=filled.workshop.clock).keys.epoch == 2
    assert len(filled.names(layout.OWNER)) == number + 1


def audited(filled: Filled) -> None:
    assert filled.audited() == []


def proved(filled: Filled) -> None:
    for version in filled.versions:
        proof = prove_documents(filled.store, version.name, filled.workshop.folder)
        assert (proof.readable, proof.problems) == (True, ())


def fetched(filled: Filled) -> None:
    folder = filled.workshop.folder / "fetched"
    folder.mkdir()
    assert fetch_newest(filled.store, folder).passed_over == ()


DOINGS: dict[str, Callable[[Filled], None]] = {
    "backup": backed_up,
    "head": headed,
    "open": opened,
    "renew public keys": renewed,
    "begin an epoch": begun,
    "audit": audited,
    "prove": proved,
    "fetch the catalog": fetched,
}


@pytest.mark.parametrize("doing", DOINGS)
@pytest.mark.parametrize("kind", DOCUMENTS)
def test_one_misread_changes_nothing(
    flickering: tuple[Filled, FaultyTransport], kind: str, doing: str
) -> None:
    filled, faulty = flickering
    before = everything(filled)
    faulty.misread[OBJECTS[kind](filled)] = 1

    DOINGS[doing](filled)

    assert everything(filled).items() >= before.items()
    assert filled.names(layout.QUARANTINE) == []


@pytest.mark.parametrize("at", ["the newest record", "all records"])
def test_the_next_record_follows_the_one_that_was_misread_once(
    flickering: tuple[Filled, FaultyTransport], at: str
) -> None:
    filled, faulty = flickering
    last = filled.versions[-1]
    names = [last.name] if at == "the newest record" else [each.name for each in filled.versions]
    faulty.misread.update(dict.fromkeys(names, 1))

    version = filled.workshop.back_up(DISK)

    assert version.clear.previous == digest([filled.path(last.name).read_bytes()]).hex()
    assert version.sequence == last.sequence + 1
    assert version.record.disks[0].deltas == last.record.disks[0].deltas + 1
    faulty.misread.clear()
    assert filled.verified() == []


@pytest.mark.parametrize("times", [1, 2])
def test_a_record_of_this_very_run_goes_only_if_it_is_surely_torn_and_is_kept_aside(
    flickering: tuple[Filled, FaultyTransport], times: int
) -> None:
    filled, faulty = flickering
    receipt = filled.workshop.transfer(DISK)
    version = filled.workshop.commit(receipt)
    faulty.misread[version.name] = times

    again = filled.workshop.commit(receipt)

    assert again.name == version.name
    assert len(filled.names(layout.QUARANTINE)) == times - 1
    assert read_version(filled.store, version.name).version == version.version


def test_what_reads_in_other_ways_each_time_is_not_called_damaged(filled: Filled) -> None:
    name = filled.versions[0].name

    class Noisy(FaultyTransport):
        readings = 0

        def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
            self.readings += 1
            return super().read(name, offset, length)[: -self.readings]

    filled.store.transport = Noisy(filled.store.transport)

    with pytest.raises(ObjectUnreadable, match="two readings differ"):
        filled.store.read_surely(name, Kind.VERSION, VersionClear)
