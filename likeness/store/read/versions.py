"""Versions in the store: their records, and the maps the records name."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from likeness.codec.documents import MAX_DOCUMENT_BYTES, Frame, Kind
from likeness.codec.hashing import digest
from likeness.errors import (
    Damaged,
    LikenessError,
    ObjectUnreadable,
    ShareRefused,
    StoreTooNew,
    UnknownVersion,
)
from likeness.model.ids import DiskId, VersionId, VmId, is_name
from likeness.store.format import layout
from likeness.store.format.believing import LOST, read_surely
from likeness.store.format.data_store import DataStore, read_frame, signed_document, signed_part
from likeness.store.format.documents import DiskRecord, MapPart, VersionClear, VersionRecord, decode
from likeness.store.format.maps import STRETCH, FlatMap, Run, decode_part, positions_of
from likeness.store.format.observations import NOT_READ, UNREADABLE
from likeness.store.format.public_view import SignedView
from likeness.transport.passing import CarefulTransport


@dataclass(frozen=True, slots=True)
class Version:
    """One restore point of one VM, as its signed record says.

    Attributes:
        name: The record's name in the store.
        clear: What everybody may read of it.
        record: The rest.
        digest: BLAKE3 of the record's bytes, as hex.
    """

    name: str
    clear: VersionClear
    record: VersionRecord
    digest: str

    @property
    def version(self) -> VersionId:
        """Its id."""
        return VersionId(self.clear.version)

    @property
    def vm(self) -> VmId:
        """Whose version it is."""
        return VmId(self.clear.vm)

    @property
    def sequence(self) -> int:
        """1 for a VM's first version, 2 for the next."""
        return self.clear.sequence

    @property
    def taken_at(self) -> datetime:
        """When its snapshot was taken."""
        return datetime.fromisoformat(self.clear.taken_at)


def vms(store: DataStore) -> list[VmId]:
    """Every VM with a folder of versions."""
    return [VmId(name) for name in store.transport.folders(layout.VERSIONS) if is_name(name)]


@dataclass(frozen=True, slots=True)
class ListedRecords:
    """A VM's folder of versions, as it was listed.

    Attributes:
        names: Of its version records, oldest first; not yet believed.
        strange: What bears such a name and is a folder.
    """

    names: tuple[str, ...]
    strange: tuple[str, ...] = ()


def list_records(store: DataStore, vm: VmId) -> ListedRecords:
    """Look into a VM's folder."""
    folder = layout.versions_of(vm)
    there = store.transport.listing(folder)
    strange = (f"{folder}/{each}" for each in there.folders)
    return ListedRecords(
        tuple(sorted(filter(layout.is_known, there.names))),
        tuple(filter(layout.is_known, strange)),
    )


def record_names(store: SignedView, vm: VmId) -> list[str]:
    """Names of a VM's version records, oldest first; not yet believed."""
    names = (entry.name for entry in store.transport.entries(layout.versions_of(vm)))
    return sorted(name for name in names if layout.is_known(name))


def read_version(store: DataStore, name: str) -> Version:
    """Read and verify one version record.

    Raises:
        ObjectMissing: It is not there.
        Damaged: It is not whole, or not signed by this store for this place.
        StoreTooNew: A later release wrote it.
    """
    return _version(store, name, store.transport.read(name, 0, MAX_DOCUMENT_BYTES + 1))


def read_version_surely(store: DataStore, name: str) -> Version:
    """As `read_version`; for decisions that rest on its being lost, see `believing`."""
    return read_surely(store, name, lambda data: _version(store, name, data))


def _version(store: DataStore, name: str, data: bytes) -> Version:
    clear, frame = signed_document(data, name, Kind.VERSION, VersionClear, store.verifier)
    if layout.version_record(VmId(clear.vm), clear.sequence, VersionId(clear.version)) != name:
        raise Damaged(name, "it is the record of another version")
    record = signed_part(frame.unseal(store.keys), VersionRecord, name=name)
    if any(disk.chunk_bytes != store.chunk_bytes for disk in record.disks):
        raise StoreTooNew(
            f"{name} was written by a later release: its disks have data blocks of another size"
            " than the store's; install a later release"
        )
    return Version(name, clear, record, frame.digest)


def last_version(store: DataStore, vm: VmId, listed: ListedRecords | None = None) -> Version | None:
    """A VM's newest version whose record is to be had whole; none if it has none.

    What cannot be read at the moment is passed over too: a backup that works from an older version
    reads more, and lacks nothing.

    Args:
        store: Where.
        vm: Whose.
        listed: Its records, if they were listed just now.

    Raises:
        StoreTooNew: A later release wrote the newest.
    """
    for name in reversed(listed.names if listed else record_names(store, vm)):
        with suppress(*LOST, ObjectUnreadable, ShareRefused):
            return read_version_surely(store, name)
    return None


def find_version(store: DataStore, version: str) -> Version:
    """The version whose id begins with `version`, at least four hex digits, as people write them.

    A record that lies under another name is found by what it says of itself.

    Raises:
        UnknownVersion: None, or several.
        ObjectUnreadable: None among those that can be listed, and not all can be.
        ShareRefused: Likewise.
    """
    version = version.strip().lower().replace("-", "")
    listing = CarefulTransport(store.transport)
    there = store.over(listing)
    found = _records_that_begin_with(there, version)
    problem: LikenessError | None = None
    whole: dict[str, Version] = {}
    for name in found:
        try:
            whole[name] = read_version(store, name)
        except (*NOT_READ, *UNREADABLE) as cause:
            problem = cause
    if len(whole) < max(len(found), 1):
        for name, lies_at in misplaced_records(there):
            if name.rpartition("-")[2].startswith(version):
                whole.setdefault(name, read_version_at(store, name, lies_at))
    several = {name.rpartition("-")[2] for name in (*found, *whole)}
    if len(several) != 1 or len(version) < 4:
        listing.require_all()
        many = "several versions begin" if several else "no version begins"
        raise UnknownVersion(f"{many} with {version!r}; list the versions and give more of the id")
    if problem is not None and not whole:
        raise problem
    return next(iter(whole.values()))


def _records_that_begin_with(store: DataStore, version: str) -> list[str]:
    names = [name for vm in vms(store) for name in record_names(store, vm)]
    return [name for name in names if name.rpartition("-")[2].startswith(version)]


def misplaced_records(view: SignedView) -> Iterator[tuple[str, str]]:
    """Records that are whole and lie under another name than they are signed for: both names.

    Copies of records that are whole under their own name are left out.
    """
    for entry in view.transport.entries(layout.VERSIONS):
        if not layout.is_known(entry.name):
            continue
        try:
            data = read_frame(view.transport, entry.name).clear
            clear = decode(data, VersionClear, name=entry.name)
            name = layout.version_record(VmId(clear.vm), clear.sequence, VersionId(clear.version))
            if name != entry.name and not _is_whole(view, name):
                clear_part(view, name, entry.name)
                yield name, entry.name
        except (*NOT_READ, *UNREADABLE):
            continue


def _is_whole(view: SignedView, name: str) -> bool:
    try:
        view.read(name, Kind.VERSION, VersionClear)
    except (*NOT_READ, *UNREADABLE):
        return False
    return True


def clear_part(view: SignedView, name: str, lies_at: str) -> VersionClear:
    """What everybody may read of a record that may lie under another name than its own.

    Raises:
        ObjectMissing: Nothing lies there.
        Damaged: It is not whole, or not signed by this store for this name.
    """
    return _clear_part(view, name, lies_at)[0]


def _clear_part(view: SignedView, name: str, lies_at: str) -> tuple[VersionClear, Frame]:
    frame = replace(read_frame(view.transport, lies_at), name=name)
    frame.require_signature(Kind.VERSION, view.verifier(frame))
    return decode(frame.clear, VersionClear, name=name), frame


def read_version_at(store: DataStore, name: str, lies_at: str) -> Version:
    """Read and verify a version record that may lie under another name than its own.

    Raises:
        ObjectMissing: Nothing lies there.
        Damaged: It is not whole, or not signed by this store for this name.
    """
    if lies_at == name:
        return read_version(store, name)
    clear, frame = _clear_part(store, name, lies_at)
    record = decode(frame.unseal(store.keys), VersionRecord, name=name)
    whole = digest([store.transport.read(lies_at, 0, MAX_DOCUMENT_BYTES + 1)]).hex()
    return Version(name, clear, record, whole)


def map_runs(store: DataStore, disk: DiskRecord, *, only: VersionId | None = None) -> Iterator[Run]:
    """The runs of a disk's map parts, in the order to apply.

    Args:
        store: Where.
        disk: Whose map.
        only: Just the parts made in this version.

    Raises:
        Damaged: Both copies of a part are damaged.
    """
    positions = positions_of(disk.size_bytes, disk.chunk_bytes)
    for part in disk.parts:
        if only is None or part.version == only:
            yield from read_part(store, disk, part, positions)


def read_part(store: DataStore, disk: DiskRecord, part: MapPart, positions: int) -> list[Run]:
    """One part, from whichever of its copies is whole.

    Raises:
        Damaged: Neither is.
        ObjectUnreadable: One of them cannot be read at the moment, and the other is not whole.
        ShareRefused: Likewise.
        StoreTooNew: A later release wrote one of them, and the other is not whole.
    """
    problem: LikenessError | None = None
    unread: LikenessError | None = None
    for copy in range(len(part.copies)):
        try:
            return read_copy(store, disk, part, copy, positions)
        except NOT_READ as cause:
            unread = cause
        except UNREADABLE as cause:
            problem = cause
    misplaced = _misplaced_copy(store, disk, part, positions)
    if misplaced is not None:
        return misplaced
    if unread is not None:
        raise unread
    raise Damaged(part.copies[0], f"neither copy of this block map is whole ({problem})")


def _misplaced_copy(
    store: DataStore, disk: DiskRecord, part: MapPart, positions: int
) -> list[Run] | None:
    """A part that lies under another map's name, as after a rename; known by its digest."""
    for entry in store.transport.entries(layout.MAPS):
        for copy, size in enumerate(part.sizes):
            if entry.size_bytes == size and layout.is_known(entry.name):
                try:
                    return read_copy(store, disk, part, copy, positions, lies_at=entry.name)
                except (*NOT_READ, *UNREADABLE):
                    continue
    return None


def read_copy(
    store: DataStore,
    disk: DiskRecord,
    part: MapPart,
    copy: int,
    positions: int,
    *,
    lies_at: str = "",
) -> list[Run]:
    """One copy of one part; under its own name, or where it `lies_at`.

    Raises:
        ObjectMissing: It is not there.
        Damaged: It is not what the version record signed for.
    """
    name = lies_at or part.copies[copy]
    data = store.transport.read(name, 0, part.sizes[copy] + 1)
    if digest([data]).hex() != part.digests[copy]:
        raise Damaged(name, "it is not what its version record signed for")
    return decode_part(
        data,
        disk=DiskId(disk.disk),
        version=VersionId(part.version),
        first=part.first,
        delta=part.delta,
        positions=positions,
        keys=store.keys,
        name=name,
    )


def load_map(store: DataStore, disk: DiskRecord, path: Path) -> FlatMap:
    """Put a disk's whole block map together in a new file at `path`, and prove it.

    Raises:
        Damaged: A part is damaged, or the parts do not give the map the record signed for.
    """
    chunk_map = FlatMap(path, positions_of(disk.size_bytes, disk.chunk_bytes))
    try:
        for run in map_runs(store, disk):
            chunk_map.write(run.first, run.ids)
        if chunk_map.root() != disk.root:
            raise Damaged(
                f"the block map of disk {disk.name or disk.disk}",
                "its parts do not give the map its version record signed for",
            )
    except BaseException:
        chunk_map.close()
        raise
    return chunk_map


def stretches(positions: int) -> Iterator[tuple[int, int]]:
    """First position and length of each stretch a map is cut into."""
    for first in range(0, positions, STRETCH):
        yield first, min(STRETCH, positions - first)
