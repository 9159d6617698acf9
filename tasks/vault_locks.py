"""Locks: what a version in the vault needs cannot be deleted before the version's time is up."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta

from blocks import Site, Vault
from catalog.vault_locks import not_locked_until, note_locks, packs_of_versions
from likeness.clock import system_clock
from likeness.codec.documents import Kind
from likeness.errors import BadInput
from likeness.model.ids import VersionId, VmId
from likeness.pipelining import bounded_map
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import VersionClear
from likeness.store.format.needs_lists import lists_of
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.public_view import SignedView
from likeness.store.read.versions import read_version

_LOCKERS = 4
_NOTED_AT_ONCE = 1000


def lock_versions(
    versions: Iterable[VersionId], vault: SignedView, *, site: Site, block: Vault
) -> int:
    """Keep what versions need undeletable for as long as the vault's block says.

    A pack that many versions need is locked as long as the latest of them; a little longer, so
    that a new version every night does not ask for all of them every night.

    Returns:
        How many objects were locked, or for longer.

    Raises:
        BadInput: The vault is no bucket.
        ShareRefused: The bucket does not lock objects, or the account may not.
    """
    keep = getattr(vault.transport, "keep_until", None)
    if keep is None:
        raise BadInput(
            f"the vault {block.place} is no bucket and locks nothing; take the days of locks out of"
            " the vault's block"
        )
    wanted = set(versions)
    names = [*packs_of_versions(site.catalog.file, wanted), *_documents(vault, wanted)]
    needed = system_clock() + timedelta(days=block.locked_days)
    until = needed + timedelta(days=max(block.locked_days // 8, 1))
    open_ = not_locked_until(site.catalog.file, block.place, names, needed)
    may_lack = (layout.PACKS, layout.INDEX)  # what was given back is not copied any more
    entries = (e for folder in may_lack if open_ for e in vault.transport.entries(folder))
    there = {entry.name for entry in entries}
    todo = [n for n in open_ if n in there or n.partition("/")[0] not in may_lack]

    def lock(name: str) -> str:
        keep(name, until)
        return name

    done: list[str] = []
    try:
        for name in bounded_map(lock, todo, workers=_LOCKERS, name="lock"):
            done.append(name)
    finally:
        for start in range(0, len(done), _NOTED_AT_ONCE):
            some = done[start : start + _NOTED_AT_ONCE]
            note_locks(site.catalog.file, block.place, some, until)
    return len(done)


def _documents(vault: SignedView, versions: set[VersionId]) -> list[str]:
    """Records of the versions, their block maps, and the index segments they brought in."""
    found: dict[str, None] = {}
    for entry in vault.transport.entries(layout.VERSIONS):
        if not layout.is_known(entry.name) or entry.name.rpartition("-")[2] not in versions:
            continue
        with suppress(*UNREADABLE):  # the check of the vault tells of it
            found.update(dict.fromkeys((entry.name, *_needed_documents(vault, entry.name))))
    return list(found)


def _needed_documents(vault: SignedView, record: str) -> Iterator[str]:
    if isinstance(vault, DataStore):
        version = read_version(vault, record)
        yield from version.clear.objects
        yield from (c for disk in version.record.disks for p in disk.parts for c in p.copies)
        return
    clear, _ = vault.read_surely(record, Kind.VERSION, VersionClear)
    yield from clear.objects
    for each in lists_of(vault, VmId(clear.vm), []):
        yield each.name
        if (version_id := VersionId(clear.version)) in each:
            yield from (c for p in each.needed(version_id).maps for c in p.copies)
