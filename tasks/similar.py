"""A new VM's first backup is compared with a VM that it may be a clone of.

Only what is sent depends on it: a data block that is the same at the same place is in the store
already, and proved. Whatever is wrong with the other version, the new one is made whole.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from prefect import get_run_logger

from blocks import Site
from catalog.similar import similar_versions
from likeness.errors import CatalogBusy
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import DiskRecord
from likeness.store.format.observations import UNREADABLE
from likeness.store.read.versions import Version, read_version
from likeness.xen.inventory import position_order
from likeness.xen.snapshots import XenSnapshot

_MOST_LOOKED_AT = 5


@dataclass(frozen=True, slots=True)
class Compared:
    """What a VM's disks are compared with.

    Attributes:
        disks: The disk of a version for each disk of the snapshot; none: nothing.
        own: Whether that is the VM's own last version.
        note: What is to be said of it; empty for the VM's own.
    """

    disks: tuple[DiskRecord | None, ...]
    own: bool
    note: str = ""


def compared_with(
    snapshot: XenSnapshot, last: Version | None, *, store: DataStore, site: Site
) -> Compared:
    """The VM's last version; of a VM that has none, a good version of a similar VM."""
    if last is not None:
        own = {disk.disk: disk for disk in last.record.disks}
        return Compared(tuple(own.get(disk.facts.disk) for disk in snapshot.disks), own=True)
    like = _similar(snapshot, store, site)
    if like is None:
        return Compared((None,) * len(snapshot.disks), own=False)
    theirs = sorted(like.record.disks, key=lambda disk: position_order(disk.position))
    mine = sorted(snapshot.disks, key=lambda disk: position_order(disk.facts.position))
    of = {disk.facts.disk: record for disk, record in zip(mine, theirs, strict=True)}
    note = f"first backup, compared with version {like.version[:8]} of VM {like.record.vm_name}"
    get_run_logger().info("%s: %s", snapshot.vm.name, note)
    return Compared(tuple(of[disk.facts.disk] for disk in snapshot.disks), own=False, note=note)


def _similar(snapshot: XenSnapshot, store: DataStore, site: Site) -> Version | None:
    """A proved version of a VM with such disks; rather one made from the same template."""
    disks = sorted(snapshot.disks, key=lambda disk: position_order(disk.facts.position))
    sizes = [disk.facts.size_bytes for disk in disks]
    try:
        names = similar_versions(site.catalog.file, sizes, most=_MOST_LOOKED_AT) if sizes else []
    except CatalogBusy:
        return None
    found = [version for name in names if (version := _whole(store, name, sizes)) is not None]
    mine = _template_of(snapshot.vm.configuration)
    same = [each for each in found if mine and _template_of(each.record.configuration) == mine]
    return next(iter((*same, *found)), None)


def _whole(store: DataStore, name: str, sizes: Sequence[int]) -> Version | None:
    try:
        found = read_version(store, name)
    except UNREADABLE:
        return None
    ordered = sorted(found.record.disks, key=lambda disk: position_order(disk.position))
    return found if [disk.size_bytes for disk in ordered] == list(sizes) else None


def _template_of(configuration: str) -> str:
    """What a VM was made from, as XenServer keeps it through every clone; empty if unknown."""
    try:
        return str(json.loads(configuration)["vm"]["other_config"].get("base_template_name", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
