"""One object that cannot be read stops nothing but what needs it, and is said once.

A disk with a bad sector, a virus scanner that has the object open, or a folder that somebody made
in its place: backup, heads and the catalog's copy go on; whoever checks says *could not check* of
exactly the versions concerned, or *missing* where a folder is in its place, and every version that
does without the object restores.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from likeness.codec.slots import SlotKind
from likeness.errors import Damaged, LikenessError, ObjectUnreadable, ShareRefused
from likeness.stopping import StopToken
from likeness.store.check.proving import Finding, prove_documents
from likeness.store.check.scrubbing import scrub_frames, scrub_signatures
from likeness.store.format import layout
from likeness.store.format.observations import UNKNOWN, Weight
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.keys.keyring import list_slots, renew_public_keys
from likeness.store.read.versions import Version
from likeness.store.repair.copying import copy_to_vault
from likeness.store.write.catalog_copies import fetch_newest, put_copy
from likeness.store.write.heads import write_head
from tests.audit.conftest import OBJECTS, SIZE, Filled, fill
from tests.support.faulty import FaultyTransport
from tests.support.memory import MemoryTransport
from tests.unit.workshop import changed, noise

DISK = noise("disk", SIZE)
DISKS = (
    DISK,
    noise("other", SIZE),
    changed(DISK, (100 << 10, b"changed")),
    changed(DISK, (300 << 10, b"again")),
)
NEXT = changed(DISK, (5000, b"next"))

FAULTS: dict[str, Callable[[str], LikenessError]] = {
    "EIO": lambda name: ObjectUnreadable(f"{name}: Input/output error"),
    "sharing violation": lambda name: ObjectUnreadable(f"{name}: somebody else has it open"),
    "no rights": lambda name: ShareRefused(f"{name}: permission denied"),
}
BY_LENGTH = {"pack", "block map", "key slot", "public keys", "owner", "part of a catalog copy"}
"""What an audit looks at by name and length alone."""
UNSEEN = {"head", "newest head", "catalog copy"}
"""What nothing else in the store speaks of."""
HOW = (*FAULTS, "folder")
CELLS = [(kind, how) for kind in sorted(OBJECTS) for how in HOW]
matrix = pytest.mark.parametrize(("kind", "how"), CELLS, ids=[f"{k}, {h}" for k, h in CELLS])


class Sick:
    """A store of which one object cannot be read."""

    def __init__(self, folder: Path, kind: str, how: str) -> None:
        self.filled = filled = fill(folder)
        self.name = _words_slot(filled) if kind == "key slot" else OBJECTS[kind](filled)
        self.packs = filled.workshop.packs_of(filled.versions[0])
        faulty = FaultyTransport(filled.workshop.transport)
        filled.workshop.transport = filled.store.transport = faulty
        self.missing = how == "folder"
        if self.missing:
            filled.path(self.name).unlink()
            filled.path(self.name).mkdir()
        else:
            faulty.unreadable[self.name] = FAULTS[how](self.name)

    def is_a(self, folder: str) -> bool:
        return self.name.startswith(f"{folder}/")

    @property
    def brought(self) -> set[str]:
        """Versions that brought it, if it is an index segment: their packs were not looked for."""
        return {
            each.name
            for each in self.filled.versions
            if self.is_a(layout.INDEX) and self.name in each.clear.objects
        }

    @property
    def hit(self) -> set[str]:
        """Versions whose record it is."""
        return {each.name for each in self.filled.versions if each.name == self.name}


def _words_slot(filled: Filled) -> str:
    """Of the recovery words: the jobs open the store with its key file."""
    slots = list_slots(filled.store)
    return next(slot.name for slot in slots if slot.kind is SlotKind.RECOVERY_WORDS)


@pytest.fixture
def sick(tmp_path: Path, kind: str, how: str) -> Sick:
    return Sick(tmp_path, kind, how)


@matrix
def test_the_store_opens_and_says_who_is_unreadable(sick: Sick) -> None:
    filled = sick.filled

    store = open_store_with_key_file(filled.store.transport, filled.workshop.key_file)
    problems = [slot.name for slot in list_slots(store) if slot.problem]

    assert store.keys.epoch == 1
    assert problems == ([sick.name] if "/slot-" in sick.name and not sick.missing else [])


@matrix
def test_jobs_go_on(sick: Sick) -> None:
    filled = sick.filled
    folder = filled.workshop.folder / "catalog"

    version = filled.workshop.back_up(NEXT)
    copy = put_copy(filled.store, folder, clock=filled.workshop.clock)
    head_state = write_head(filled.store, clock=filled.workshop.clock)
    renew_public_keys(filled.store, clock=filled.workshop.clock)

    assert sick.is_a(layout.PACKS) or filled.workshop.restore(version) == NEXT
    assert copy.number == 2
    assert head_state.vms[version.vm][0] == 4 - (sick.missing and bool(sick.hit))
    assert write_head(filled.store, clock=filled.workshop.clock).problem == ""
    assert sick.missing or filled.path(sick.name).is_file(), "what is unreadable stays in its place"


@matrix
def test_every_version_that_does_without_it_restores(sick: Sick) -> None:
    filled = sick.filled
    told = {version.name: restored(filled, version) for version in filled.versions}

    for version, disk in zip(filled.versions, DISKS, strict=True):
        if sick.is_a(layout.PACKS):
            assert told[version.name] in (disk, "lost" if sick.missing else "not read")
        else:
            assert told[version.name] == disk


def restored(filled: Filled, version: Version) -> bytes | str:
    try:
        return filled.workshop.restore(version)
    except Damaged:
        return "lost"
    except (ObjectUnreadable, ShareRefused):
        return "not read"


@matrix
def test_an_audit_says_it_once_and_goes_on(sick: Sick, kind: str) -> None:
    found = [each for each in sick.filled.audited() if each.weight is not Weight.NOTICE]

    if sick.missing:
        assert len(found) == (0 if kind in UNSEEN else 1)
        return
    assert [each.name for each in found] == ([] if kind in BY_LENGTH else [sick.name])
    for each in found:
        assert each.weight is Weight.UNCHECKED
        assert set(each.versions) == sick.hit | sick.brought


@matrix
def test_a_scrub_says_it_once_and_goes_on(sick: Sick) -> None:
    store = sick.filled.store
    frames = list(scrub_frames(store.transport, stop=StopToken()))
    signed = list(scrub_signatures(store, stop=StopToken()))

    for found in (frames, signed):
        if sick.missing:
            assert {each.name for each in found} <= {sick.name, *sick.filled.names(layout.HEADS)}
        else:
            assert [(e.name, e.weight) for e in found] == [(sick.name, Weight.UNCHECKED)]


@matrix
def test_vaulting_goes_on(sick: Sick, kind: str, how: str) -> None:
    filled, vault = sick.filled, MemoryTransport()

    copied = list(copy_to_vault(filled.store, vault, stop=StopToken()))

    opened = open_store_with_key_file(vault, filled.workshop.key_file)
    there = [each for each in filled.versions if each.name in vault.objects]
    if kind != "format copy":  # a vault has its own
        assert sick.name not in vault.objects
        assert how == "folder" or any(each.problem for each in copied) or kind == "index segment"
    assert len(there) >= {"pack": 1, "index segment": 2}.get(kind, 3)
    for version, disk in zip(filled.versions, DISKS, strict=True):
        if version in there:
            assert filled.workshop.restore(version, store=opened) == disk


@matrix
def test_a_proof_could_not_check_exactly_what_is_concerned(sick: Sick) -> None:
    filled = sick.filled

    found = {proof.pack: proof for proof in filled.workshop.prove(sick.packs)}
    documents = {version.name: documents_of(filled, version) for version in filled.versions}

    for pack, proof in found.items():
        if layout.pack(pack) == sick.name:
            expected = Finding.MISSING if sick.missing else Finding.COULD_NOT_CHECK
            assert proof.finding is expected
        else:
            assert proof.finding is Finding.PROVED
    concerned = {name for name, told in documents.items() if told != "whole"}
    if sick.is_a(layout.VERSIONS):
        assert concerned == {sick.name}
        assert documents[sick.name] == ("lost" if sick.missing else "not read")
    elif sick.is_a(layout.MAPS):
        spare = "a spare lost" if sick.missing else "a spare unread"
        assert set(documents.values()) == {"whole", spare}
    else:
        assert concerned == set()


def documents_of(filled: Filled, version: Version) -> str:
    try:
        proof = prove_documents(filled.store, version.name, filled.workshop.folder)
    except UNKNOWN:
        return "not read"
    if not proof.readable:
        return "lost"
    if proof.problems:
        return "a spare lost"
    return "a spare unread" if proof.unread else "whole"


@matrix
def test_the_catalog_comes_from_a_copy_that_can_be_read(sick: Sick) -> None:
    filled = sick.filled
    folder = filled.workshop.folder / "catalog"
    put_copy(filled.store, folder, clock=filled.workshop.clock)
    target = filled.workshop.folder / "fetched"
    target.mkdir()

    assert fetch_newest(filled.store, target).number == 2
