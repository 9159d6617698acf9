"""Vaulting on a host that holds no key: what it copies, and what it learns of versions."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime

from blocks import Site
from catalog import reconciling, space
from catalog.listed import ListedVersion, known_of_vm, record_listed
from likeness.clock import system_clock
from likeness.codec.documents import Kind
from likeness.errors import BadInput, Damaged, StoreMissing, UnknownVersion
from likeness.model.ids import PackId, VersionId, VmId
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.documents import VersionClear
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.public_view import PublicStore
from likeness.store.format.vault_file import open_without_key, vault_without_key
from likeness.store.repair.copying import Manner
from likeness.store.repair.copying_without_key import copy_without_key
from likeness.store.write.forgetting import read_forgotten
from likeness.store.write.history import records_of
from likeness.transport.base import Transport
from tasks.mend_catalog import require_catalog_of
from tasks.vault_tally import VaultTally


def copy_listed(
    site: Site, vault: Transport, manner: Manner, tally: VaultTally, stop: StopToken
) -> None:
    """Copy what the vault lacks, and note in the catalog which versions there are.

    Raises:
        See `copy_without_key`.
    """
    said = site.data_store.vault_file()
    with site.data_store.open_without_key() as store:
        require_catalog_of(site, store)
        there = vault_without_key(store, vault, said)

        def listed(vm: VmId, packs: Mapping[VersionId, frozenset[PackId]]) -> None:
            new = _new_versions(site, vm, store, there)
            record_listed(site.catalog.file, vm, new, packs, system_clock())

        for copied in copy_without_key(store, vault, said, stop=stop, manner=manner, listed=listed):
            tally.add(copied)
        _forget_what_is_gone(site, store)


def vault_as_seen(place: Transport, *, site: Site) -> PublicStore:
    """The vault under its own public keys; under the data store's, while it is not filled yet.

    Raises:
        NoVault: The place is not the vault of the vault file.
        WrongFingerprint: It has other keys.
    """
    said = site.data_store.vault_file()
    try:
        view = open_without_key(place, said)
    except (StoreMissing, Damaged):
        with site.data_store.open_without_key() as store:
            view = store.over(place)
    return vault_without_key(view, place, said)


def version_listed(asked: str, *, site: Site) -> VersionId:
    """The version of the data store whose id begins so, as its records are called.

    Raises:
        UnknownVersion: None, or several.
    """
    begins = asked.strip().lower().replace("-", "")
    with site.data_store.open_without_key() as store:
        ids = {each for each in _ids_in(store) if each.startswith(begins)}
    if len(ids) != 1 or len(begins) < 4:
        many = "several versions begin" if ids else "no version begins"
        raise UnknownVersion(f"{many} with {asked!r}; give more of the id")
    return ids.pop()


def require_no_rules(keep: str) -> None:
    """Return, unless the vault's block has rules of its own.

    Raises:
        BadInput: It has.
    """
    if keep.strip():
        raise BadInput(
            "this machine holds no key, so its vault keeps every version it ever got; take what to"
            " keep there out of the vault's block"
        )


def _new_versions(
    site: Site, vm: VmId, store: PublicStore, vault: PublicStore
) -> list[ListedVersion]:
    """Versions of a VM that the catalog does not know, as their records say."""
    known = known_of_vm(site.catalog.file, vm)
    found: dict[VersionId, ListedVersion] = {}
    for view in (store, vault):
        for name in records_of(view.transport, vm):
            version = _version_in(name)
            if version not in known and version not in found:
                with suppress(*UNREADABLE):
                    found[version] = _listed(view, name)
    return list(found.values())


def _listed(view: PublicStore, name: str) -> ListedVersion:
    clear, frame = view.read_surely(name, Kind.VERSION, VersionClear)
    return ListedVersion(
        VersionId(clear.version),
        clear.sequence,
        name,
        frame.digest,
        datetime.fromisoformat(clear.taken_at),
        datetime.fromisoformat(clear.committed_at),
    )


def _forget_what_is_gone(site: Site, store: PublicStore) -> None:
    """Versions that the data store has no more, on purpose or not, and those that are back."""
    catalog, now = site.catalog.file, system_clock()
    known = reconciling.known_records(catalog)
    there = _ids_in(store)
    if gone := [each for each in known if not each.expired and each.version not in there]:
        with store.again() as again:
            there |= _ids_in(again)
        on_purpose = read_forgotten(store).now
        gone = [each for each in gone if each.version not in there]
        forgotten = [each.version for each in gone if each.record in on_purpose]
        space.forget_versions(catalog, forgotten, now)
        lost = [each.version for each in gone if each.record not in on_purpose]
        reconciling.expire_versions(catalog, lost, now)
    back = [each.version for each in known if each.expired and each.version in there]
    if back:
        reconciling.versions_are_back(catalog, back, now)


def _ids_in(store: PublicStore) -> set[VersionId]:
    entries = store.transport.entries(layout.VERSIONS)
    return {_version_in(each.name) for each in entries if layout.is_known(each.name)}


def _version_in(name: str) -> VersionId:
    return VersionId(name.rpartition("-")[2])
