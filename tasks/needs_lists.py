"""Needs lists: what vault hosts without a key go by, written where something changed."""

from collections.abc import Iterable, Iterator

from blocks import Site
from catalog.connection import CatalogLocation
from catalog.needs import listed_short, stamps_of_needs, uses_of_vm
from likeness.clock import system_clock
from likeness.model.ids import VersionId, VmId, as_uuid, random_name
from likeness.store.format import layout
from likeness.store.format.believing import LOST
from likeness.store.format.data_store import DataStore
from likeness.store.format.needs_lists import NeedsList, list_names, read_list
from likeness.store.format.observations import UNREADABLE
from likeness.store.read.versions import read_version, record_names
from likeness.store.write.needs_listing import (
    STAMP_DIGITS,
    has_needs_lists,
    lists_to_write,
    write_list,
)
from tasks.claims import store_claimed
from tasks.logs import step_logger

_MAX_SHOWN = 5


def write_needs_lists(store: DataStore, *, site: Site) -> int:
    """Write the list of each VM whose versions, or what they need, changed; how many.

    Nothing where the store has no such lists. What is the matter with one VM stops no other.
    """
    if not has_needs_lists(store):
        return 0
    catalog, written = site.catalog.file, 0
    stamps = stamps_of_needs(catalog)
    for vm in lists_to_write(store, stamps):
        uses = uses_of_vm(catalog, vm)
        try:
            write_list(store, vm, stamps[vm], uses, clock=system_clock)
            written += 1
        except UNREADABLE as cause:
            step_logger().warning("no needs list of VM %s was written: %s", vm[:8], cause)
    return written


def renew_needs_lists(vms: Iterable[VmId], *, site: Site) -> None:
    """Write lists anew that omit something, or are damaged; under names of their own."""
    with site.data_store.open() as store, store_claimed(site):
        for vm in vms:
            uses = uses_of_vm(site.catalog.file, vm)
            stamp = random_name()[:STAMP_DIGITS]
            write_list(store, vm, stamp, uses, clock=system_clock, anew=True)


def short_lists(
    store: DataStore, live: CatalogLocation, of_store: CatalogLocation
) -> Iterator[tuple[VmId, str]]:
    """VMs whose needs list is damaged, or omits what a version needs, and that in words.

    A list that is out of date is passed over: the end of the job under way writes it anew.

    Args:
        store: Where, with its key: records say which block maps a version needs.
        live: The catalog that lists are written from.
        of_store: One that was made of the store alone.
    """
    current = {layout.needs_list(vm, stamp) for vm, stamp in stamps_of_needs(live).items()}
    for name in sorted(current.intersection(list_names(store))):
        vm = VmId(name.split("/")[1])
        try:
            listed = read_list(store, name)
        except LOST:
            if name in list_names(store, vm):  # it was not renewed meanwhile
                yield vm, f"the needs list of VM {as_uuid(vm)} is damaged"
            continue
        except UNREADABLE as cause:
            step_logger().warning("%s; what it says was not compared", cause)
            continue
        needed = {version: listed.needed(version).packs for version in listed.versions}
        short = {*listed_short(of_store, vm, needed), *_short_of_maps(store, vm, listed)}
        if short:
            shown = ", ".join(sorted(each[:8] for each in short)[:_MAX_SHOWN])
            yield vm, f"the needs list of VM {as_uuid(vm)} omits what versions need: {shown}"


def _short_of_maps(store: DataStore, vm: VmId, listed: NeedsList) -> Iterator[VersionId]:
    for name in record_names(store, vm):
        version_id = VersionId(name.rpartition("-")[2])
        if version_id not in listed:
            continue
        try:
            version = read_version(store, name)
        except UNREADABLE:
            continue  # an audit tells of it
        said = {part.copies for part in listed.needed(version_id).maps}
        if any(part.copies not in said for disk in version.record.disks for part in disk.parts):
            yield version_id
