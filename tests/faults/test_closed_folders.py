"""A folder that cannot be listed stops nothing but what must know what lies in it.

A bad sector under a directory, or rights that somebody took away: every check says *could not
check* of that folder once and nothing of it is called missing; heads, backups and the vault go on.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from likeness.errors import LikenessError, ObjectUnreadable, ShareRefused
from likeness.model.ids import as_uuid
from likeness.stopping import StopToken
from likeness.store.check.recorded import recorded_versions
from likeness.store.check.scrubbing import scrub_frames, scrub_signatures
from likeness.store.format import layout
from likeness.store.format.observations import Observation, Weight
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.repair.copying import copy_to_vault
from likeness.store.write.heads import read_head_state, write_head
from tests.audit.conftest import Filled, fill
from tests.faults.closed_folders import Closed
from tests.faults.test_unreadable import DISKS, NEXT
from tests.support.memory import MemoryTransport

IN_THEM: dict[str, Callable[[Filled], str]] = {
    "a VM's versions": lambda filled: layout.versions_of(filled.versions[0].vm),
    "a disk's maps": lambda filled: filled.names(layout.MAPS)[0].rpartition("/")[0],
    "some packs": lambda filled: filled.names(layout.PACKS)[0].rpartition("/")[0],
}
WHOLE = layout.FOLDERS
NOT_VAULTED = (
    *(layout.INBOX, layout.QUARANTINE, layout.FORGOTTEN, layout.CONDEMNED),
    layout.NEEDS,
)
ERRORS: dict[str, Callable[[str], LikenessError]] = {
    "EIO": lambda name: ObjectUnreadable(f"{name}: Input/output error"),
    "no rights": lambda name: ShareRefused(f"{name}: permission denied"),
}
CELLS = [(kind, "EIO") for kind in (*IN_THEM, *WHOLE)] + [(kind, "no rights") for kind in IN_THEM]


class Shut:
    """A store, one folder of which cannot be listed from now on."""

    def __init__(self, folder: Path, kind: str, how: str) -> None:
        self.filled = filled = fill(folder)
        self.folder = IN_THEM[kind](filled) if kind in IN_THEM else kind
        self.whole = filled.workshop.transport
        closed = Closed(self.whole, self.folder, ERRORS[how](self.folder))
        filled.workshop.transport = filled.store.transport = closed

    def hides(self, name: str) -> bool:
        return name.startswith(f"{self.folder}/")

    def is_all_of(self, found: list[Observation]) -> bool:
        """Whether the folder is the one thing that was found, notices apart."""
        bad = [(each.name, each.weight) for each in found if each.weight is not Weight.NOTICE]
        return bad == [(self.folder, Weight.UNCHECKED)]


@pytest.mark.parametrize(("kind", "how"), CELLS, ids=[f"{k}, {h}" for k, h in CELLS])
def test_a_folder_that_cannot_be_listed(tmp_path: Path, kind: str, how: str) -> None:
    shut = Shut(tmp_path, kind, how)
    every_check_says_so_once_and_looks_at_the_rest(shut)
    all_versions_restore_and_those_elsewhere_are_listed(shut)
    the_vault_is_given_the_rest_and_what_it_shows_restores(shut)
    another_vm_goes_on_and_no_head_forgets_what_it_cannot_see(shut)


def every_check_says_so_once_and_looks_at_the_rest(shut: Shut) -> None:
    filled, transport = shut.filled, shut.filled.store.transport

    assert shut.is_all_of(filled.audited())
    assert shut.is_all_of(list(scrub_frames(transport, stop=StopToken())))
    assert shut.is_all_of(list(scrub_signatures(filled.store, stop=StopToken())))

    spoilt = layout.FORMAT_COPIES[1]
    whole = filled.path(spoilt).read_bytes()
    filled.path(spoilt).write_bytes(b"spoilt")
    frames = scrub_frames(transport, stop=StopToken())
    assert {each.name for each in frames} == {spoilt, shut.folder}
    filled.path(spoilt).write_bytes(whole)


def all_versions_restore_and_those_elsewhere_are_listed(shut: Shut) -> None:
    filled = shut.filled

    recorded = recorded_versions(filled.store)

    names = {version.name for version in filled.versions}
    assert set(recorded.versions) == {name for name in names if not shut.hides(name)}
    told = [(each.name, each.weight) for each in recorded.told]
    concerned = shut.folder in (layout.HEADS, layout.FORGETS) or any(map(shut.hides, names))
    assert told == ([(shut.folder, Weight.UNCHECKED)] if concerned else [])
    if shut.folder != layout.KEYS:  # then nobody knows which slots there are
        open_store_with_key_file(filled.store.transport, filled.workshop.key_file)
    for version, disk in zip(filled.versions, DISKS, strict=True):
        assert filled.workshop.restore(version) == disk


def another_vm_goes_on_and_no_head_forgets_what_it_cannot_see(shut: Shut) -> None:
    filled, other = shut.filled, shut.filled.versions[1].vm
    before = read_head_state(filled.store.over(shut.whole))
    if shut.folder == layout.VERSIONS:
        filled.store.transport = shut.whole
    version = filled.workshop.back_up(NEXT, vm=other)
    filled.store.transport = filled.workshop.transport
    if shut.folder == layout.HEADS:
        with pytest.raises((ObjectUnreadable, ShareRefused)):
            write_head(filled.store, clock=filled.workshop.clock)
        return

    after = write_head(filled.store, clock=filled.workshop.clock)

    assert not after.problem
    assert before.objects.keys() <= after.objects.keys()
    assert {vm: said for vm, said in after.vms.items() if vm != other} == {
        vm: said for vm, said in before.vms.items() if vm != other
    }
    assert after.vms[other][0] == before.vms[other][0] + 1
    assert filled.workshop.restore(version) == NEXT


def the_vault_is_given_the_rest_and_what_it_shows_restores(shut: Shut) -> None:
    filled, vault = shut.filled, MemoryTransport()

    problems = [
        each.problem
        for each in copy_to_vault(filled.store, vault, stop=StopToken())
        if each.problem
    ]

    assert bool(problems) == (shut.folder not in NOT_VAULTED)
    assert not any(problem.count(shut.folder) for problem in problems if "/" in shut.folder)
    if shut.folder == layout.versions_of(filled.versions[0].vm):
        assert f"versions of VM {as_uuid(filled.versions[0].vm)} cannot be listed" in problems[0]
    opened = filled.store.over(vault)
    there = [version for version in filled.versions if version.name in vault.objects]
    for version in there:
        disk = DISKS[filled.versions.index(version)]
        assert filled.workshop.restore(version, store=opened) == disk
    for version in filled.versions:
        held_up = any(shut.hides(name) for name in (version.name, *version.clear.objects))
        assert version in there or held_up
