"""Writing needs lists: what each version of a VM needs, for vault hosts that hold no key."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from likeness.clock import Clock
from likeness.codec.documents import Kind, write_document
from likeness.model.ids import PackId, VersionId, VmId, random_name
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore, set_aside
from likeness.store.format.documents import (
    MapPart,
    NeedsDocument,
    NeedsMap,
    NeedsPack,
    VaultKeysDocument,
    encode,
)
from likeness.store.format.guard import NEEDS_LISTS
from likeness.store.format.needs_lists import NeededMap, list_names, lists_of
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.vault_file import VaultFile
from likeness.store.format.vaults import format_document, whole_format
from likeness.store.read.versions import read_version_surely

STAMP_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Uses:
    """What is known of a VM's versions, without their block maps.

    Attributes:
        records: Names of their records, in order.
        packs: Packs, each with the first version that needs it and the first after it that does
            not, counted in `records`.
    """

    records: Sequence[str]
    packs: Sequence[tuple[PackId, int, int]]


def has_needs_lists(store: DataStore) -> bool:
    """Whether the store says what its versions need."""
    return NEEDS_LISTS in store.facts.must_know_to_write


def begin_needs_lists(store: DataStore) -> None:
    """From now on each job's end writes needs lists; safe to repeat.

    Releases that do not know them may read the store and not change it any more.

    Raises:
        ShareUnreachable: Nobody knows how far it came; repeat.
    """
    features = dict.fromkeys((*store.facts.must_know_to_write, NEEDS_LISTS))
    facts = msgspec.structs.replace(store.facts, must_know_to_write=tuple(features))
    data = format_document(DataStore(store.transport, facts, store.keys, past=store.past))
    for name in reversed(layout.FORMAT_COPIES):
        there = whole_format(store, store.transport, name)
        if there is None or NEEDS_LISTS not in there.facts.must_know_to_write:
            set_aside(store, name)
            store.for_writing().create(name, [data])
    store.facts = facts


def make_vault_file(store: DataStore, *, clock: Clock) -> VaultFile:
    """A new vault of the store, for a host that is to fill it without any key."""
    vault = random_name()
    facts = msgspec.structs.replace(store.facts, vault=vault)
    keys = VaultKeysDocument(
        store=store.store_id,
        epoch=store.keys.epoch,
        vault=vault,
        verify=store.keys.public(vault=vault).verify.hex(),
        made_at=clock().isoformat(),
    )
    said = write_document(
        Kind.VAULT_KEYS,
        layout.vault_keys(store.keys.epoch),
        encode(keys),
        keys=store.keys,
        suite=store.suite,
        owner=store.past.owner_now(store),
    )
    of_vault = DataStore(store.transport, facts, store.keys, past=store.past)
    return VaultFile(
        store=store.store_id,
        vault=vault,
        fingerprint=store.keys.public().fingerprint,
        format=format_document(of_vault).hex(),
        epoch=store.keys.epoch,
        keys=said.hex(),
    )


def lists_to_write(store: DataStore, stamps: Mapping[VmId, str]) -> list[VmId]:
    """VMs without the list of their stamp; lists of VMs that have no stamp are deleted.

    Args:
        store: Where.
        stamps: 16 hex digits for each VM with versions, others whenever what they need changes.
    """
    there = set(list_names(store))
    for name in there:
        if VmId(name.split("/")[1]) not in stamps:
            store.for_writing().delete(name)
    return [vm for vm, stamp in stamps.items() if layout.needs_list(vm, stamp) not in there]


def write_list(
    store: DataStore, vm: VmId, stamp: str, uses: Uses, *, clock: Clock, anew: bool = False
) -> str:
    """Write a VM's list, and delete those that it takes the place of; its name.

    A version whose record cannot be read is left out, and the list is written anew next time.

    Args:
        store: Where.
        vm: Whose.
        stamp: 16 hex digits, which `lists_to_write` will know.
        uses: What its versions need.
        clock: The present.
        anew: Read every record, and rely on no list that is there.
    """
    before = list_names(store, vm)
    last = None if anew else next(lists_of(store, vm, []), None)
    whole: list[tuple[int, VersionId, Sequence[MapPart | NeededMap]]] = []
    for at, name in enumerate(uses.records):
        version = VersionId(name.rpartition("-")[2])
        with suppress(*UNREADABLE):
            parts = last.needed(version).maps if last and version in last else _parts(store, name)
            whole.append((at, version, parts))
    if len(whole) < len(uses.records):
        stamp = random_name()[:STAMP_DIGITS]
    document = NeedsDocument(
        vm=vm,
        made_at=clock().isoformat(),
        versions=tuple(version for _, version, _ in whole),
        maps=_maps([parts for _, _, parts in whole]),
        packs=tuple(_packs(uses.packs, [at for at, _, _ in whole])),
    )
    name = layout.needs_list(vm, stamp)
    if name in before:
        set_aside(store, name)
    store.write(name, Kind.NEEDS, document)
    for old in before:
        if old != name:
            store.for_writing().delete(old)
    return name


def _parts(store: DataStore, record: str) -> Sequence[MapPart]:
    version = read_version_surely(store, record)
    return [part for disk in version.record.disks for part in disk.parts]


def _packs(packs: Iterable[tuple[PackId, int, int]], places: Sequence[int]) -> Iterable[NeedsPack]:
    """The same, counted in the versions that are listed."""
    for pack, first, end in packs:
        since, until = bisect_left(places, first), bisect_left(places, end)
        if since < until:
            yield NeedsPack(pack=pack, since=since, until=until)


def _maps(versions: Sequence[Sequence[MapPart | NeededMap]]) -> tuple[NeedsMap, ...]:
    found: dict[tuple[str, str], list[NeedsMap]] = {}
    for at, parts in enumerate(versions):
        for part in parts:
            spans = found.setdefault(part.copies, [])
            since = spans.pop().since if spans and spans[-1].until >= at else at
            spans.append(
                NeedsMap(
                    copies=part.copies,
                    digests=part.digests,
                    sizes=part.sizes,
                    since=since,
                    until=at + 1,
                )
            )
    return tuple(span for spans in found.values() for span in spans)
