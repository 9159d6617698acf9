"""What may be copied to a vault: what is whole, and a version only with all that it needs."""

from collections.abc import Collection, Container, Iterable, Iterator
from contextlib import suppress
from datetime import datetime

from likeness.codec.blobs import MAX_BLOB_BYTES, check_blob
from likeness.codec.documents import MAX_DOCUMENT_BYTES, Frame, Kind
from likeness.codec.hashing import digest
from likeness.errors import (
    Damaged,
    LikenessError,
    NameTaken,
    ObjectMissing,
    ObjectUnreadable,
)
from likeness.model.ids import PackId, VmId, as_uuid, is_name, random_name
from likeness.store.format import layout
from likeness.store.format.believing import read_surely
from likeness.store.format.data_store import DataStore, signed_part
from likeness.store.format.documents import IndexClear, VersionClear, VersionRecord
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.pack import MAX_PACK_BYTES
from likeness.store.format.vaults import signed_by_store
from likeness.store.prune.sweeping import deleted_objects, deleted_packs
from likeness.store.read.index import segments
from likeness.store.read.versions import last_version
from likeness.store.repair.begun_for_nothing import is_begun_for_nothing
from likeness.store.repair.vault_mending import Copied, Mending, in_words
from likeness.store.write.forgetting import read_forgotten
from likeness.transport.base import Entry, Transport

_MAX_REMEMBERED = 1 << 17
MAX_BYTES = max(MAX_BLOB_BYTES, MAX_DOCUMENT_BYTES, MAX_PACK_BYTES)
_WORDS = {
    layout.KEYS: "a key of the data store",
    layout.OWNER: "the document that says who owns the data store",
    layout.ADOPTED: "what an owner of the data store found there",
    layout.INDEX: "a part of the data store's index",
    layout.SWEPT: "a list of packs that were given back",
    layout.FORGETS: "a list of versions that were forgotten",
    layout.HOLDS: "a note of a version that must stay",
    layout.HEADS: "a link of the data store's history",
    layout.CATALOG: "a copy of the catalog",
}


class NotCommitted(Exception):  # a state, and nothing is wrong
    """A pack whose commit is under way; the next vaulting takes it."""


class Waits(Exception):  # a state, in words
    """A version of which the vault cannot get all it needs."""


class CopyableObjects:
    """What may be copied: only what is whole here, and a version only with all it needs."""

    def __init__(
        self,
        store: DataStore,
        vault: DataStore,
        mending: Mending,
        *,
        of: Collection[str] | None = None,
    ) -> None:
        """Learn what each pack must hash to; about 200 bytes of memory a pack.

        Args:
            store: Where from.
            vault: Where to.
            mending: Makes anew what cannot be copied.
            of: The index segments to learn from; all if none.
        """
        self._store, self._vault, self._mending = store, vault, mending
        self._packs: dict[PackId, tuple[bytes, int]] = {}
        self._segments: set[str] = set()
        self._deleted_packs: set[PackId] = set()
        self._spoilt_maps: dict[str, str] = {}
        self._maps_there: set[str] = set()
        self._holes = False
        if of is None:
            self.learn_all()
        for name in of or ():
            self._learn(name)

    def learn_all(self) -> None:
        """Learn from every index segment there is, in either place."""
        for name in dict.fromkeys((*segments(self._store), *segments(self._vault))):
            if name not in self._segments:
                self._learn(name)

    def copy(self, name: str) -> Copied | None:
        """Copy one object; none if it is not yet time for it, or not needed."""
        try:
            data = self._whole(name)
        except NotCommitted:
            return None
        except Waits as cause:
            return Copied(name, 0, str(cause))
        except UNREADABLE as cause:
            if self._does_without(name) or is_begun_for_nothing(self._store, name):
                return None
            return self._left_out(name, cause)
        if not self._vault.facts.vault:
            data = signed_by_store(self._store, name, data)
        return self.put(name, data) if data else None

    def put(self, name: str, data: bytes) -> Copied:
        """Write an object to the vault, or say that it takes none."""
        return put(self._vault.transport, name, data)

    def take(self, name: str) -> Copied:
        """Copy a pack that no index segment knows, and that was found whole.

        Raises:
            One of `UNREADABLE`: It cannot be had, or the vault cannot take it.
        """
        data = _read(self._store.transport, name)
        _put(self._vault.transport, name, data)
        return Copied(name, len(data))

    def keep_only(self, packs: Container[PackId]) -> None:
        """Care for these packs alone."""
        self._packs = {pack: facts for pack, facts in self._packs.items() if pack in packs}

    def packs_there(self) -> set[PackId]:
        """Packs that the vault has in the length they should have."""
        return {
            pack
            for entry in self._vault.transport.entries(layout.PACKS)
            if self._packs.get(pack := _pack_of(entry.name), (b"", -1))[1] == entry.size_bytes
        }

    def missing(self, there: Container[PackId]) -> set[PackId]:
        """Packs that the vault should have and has not, and that were not given back."""
        missing = {pack for pack in self._packs if pack not in there}
        if missing:
            with suppress(*UNREADABLE):  # they are looked up one by one then
                self._deleted_packs = deleted_packs(self._store)
        return missing - self._deleted_packs

    def index_has_holes(self, versions: Iterable[Entry]) -> bool:
        """Whether an index segment is whole in neither place, known or named by one of these."""
        unknown = {
            name
            for clear, _ in self.records(versions)
            for name in clear.objects
            if name.startswith(f"{layout.INDEX}/") and name not in self._segments
        }
        return self._holes or bool(unknown and unknown - deleted_objects(self._store))

    def records(self, versions: Iterable[Entry]) -> Iterator[tuple[VersionClear, VersionRecord]]:
        """Records that can be read; the others are told of when they are to be copied."""
        for entry in versions:
            with suppress(*UNREADABLE):
                yield _record(self._store, _read(self._store.transport, entry.name), entry.name)

    def unrestorable(self, but: Container[str]) -> Iterator[Copied]:
        """Versions that the vault has from earlier, and that cannot be restored from there."""
        for entry in self._vault.transport.entries(layout.VERSIONS) if self._mending.lost else ():
            if entry.name in but or not layout.is_known(entry.name):
                continue
            with suppress(*UNREADABLE):
                data = _read(self._vault.transport, entry.name)
                try:
                    self._require_all_it_needs(*_record(self._vault, data, entry.name))
                except Waits as cause:
                    yield Copied(entry.name, 0, str(cause))

    def spoilt_maps(self) -> Iterator[Copied]:
        """Copies of block maps that are not whole here; their versions have the other copy."""
        for name, sentence in self._spoilt_maps.items():
            yield Copied(name, 0, sentence)

    def _learn(self, segment: str) -> None:
        for store in (self._store, self._vault):
            with suppress(*UNREADABLE):
                clear, _ = store.read_surely(segment, Kind.INDEX, IndexClear)
                self._segments.add(segment)
                for pack in clear.packs:
                    self._packs[PackId(pack.pack)] = bytes.fromhex(pack.digest), pack.size_bytes
                return
        self._holes = True

    def _whole(self, name: str) -> bytes:
        """An object as it was signed for; damage is believed when it was read twice."""

        def judge(data: bytes) -> bytes:
            self._require_whole(name, data)
            return data

        return read_surely(self._store, name, judge, max_bytes=MAX_BYTES)

    def _does_without(self, name: str) -> bool:
        """Whether the vault lacks nothing although an object is not whole here.

        Either the vault has it whole, or it was given back or forgotten, perhaps since it was
        listed.
        """
        if self._is_deleted(name) or self._is_forgotten(name):
            return True
        try:
            self._require_whole(name, _read(self._vault.transport, name))
        except (*UNREADABLE, Waits, NotCommitted):
            return False
        return True

    def _left_out(self, name: str, cause: Exception) -> Copied | None:
        """What to say of an object that is not whole here; versions speak for what they need."""
        folder = name.partition("/")[0]
        what = in_words(cause)
        if folder == layout.PACKS:
            return None
        if folder == layout.MAPS:
            self._spoilt_maps[name] = (
                f"a copy of a block map is {what}, and no version waits for it"
            )
            return None
        if folder == layout.VERSIONS:
            vm = self._vm_name(VmId(name.split("/")[1]))
            said = f"VM {vm}: the record of a version is {what} in the data store; validate it"
            return Copied(name, 0, said)
        return Copied(name, 0, f"{_words(name)} is {what} in the data store and was not copied")

    def _vm_name(self, vm: VmId) -> str:
        for store in (self._store, self._vault):
            with suppress(*UNREADABLE):
                if last := last_version(store, vm):
                    return repr(last.record.vm_name)
        return as_uuid(vm)

    def _is_forgotten(self, name: str) -> bool:
        """Whether a version was given up, or what came with it was deleted since."""
        if name.startswith(f"{layout.VERSIONS}/"):
            return name in read_forgotten(self._store).now
        return name in deleted_objects(self._store)

    def _is_deleted(self, name: str) -> bool:
        """Whether other packs hold all that was in this one, as statements say, new ones too."""
        if not name.startswith(f"{layout.PACKS}/"):
            return False
        if _pack_of(name) not in self._deleted_packs:
            with suppress(*UNREADABLE):
                self._deleted_packs = deleted_packs(self._store)
        return _pack_of(name) in self._deleted_packs

    def _require_whole(self, name: str, data: bytes) -> None:
        """Nothing damaged is vaulted.

        Raises:
            Damaged: It is not what was signed.
            NotCommitted: A pack no index segment knows.
            Waits: A version that the vault cannot have yet.
        """
        folder = name.partition("/")[0]
        if folder == layout.PACKS:
            expected = self._packs.get(_pack_of(name))
            if expected is None:
                raise NotCommitted
            if digest([data]) != expected[0]:
                raise Damaged(name, "its bytes are not what its index segment signed for")
        elif folder == layout.MAPS or (folder == layout.CATALOG and "-" in name):
            check_blob(data, name=name)
        elif folder == layout.VERSIONS:
            self._require_all_it_needs(*_record(self._store, data, name))
        else:
            _signed(self._store, layout.kind_of(name), data, name)

    def _require_all_it_needs(self, clear: VersionClear, record: VersionRecord) -> None:
        """A version is shown in the vault only when it can be restored from there."""
        taken = datetime.fromisoformat(clear.taken_at)
        waits = f"VM {record.vm_name!r}, version of {taken:%Y-%m-%d %H:%M}, is not in the vault:"
        for disk in record.disks:
            for part in disk.parts:
                lacking = [copy for copy in part.copies if not self._has(copy)]
                if len(lacking) == len(part.copies):
                    why = f"a block map of its disk {disk.name!r} is damaged"
                    raise Waits(f"{waits} {self._mending.why or why}")
                for copy in lacking:
                    self._spoilt_maps[copy] = (
                        f"VM {record.vm_name!r}: one of two copies of a block map of disk"
                        f" {disk.name!r} is not whole in the data store; validate it"
                    )
        try:
            lost = self._mending.needs_what_is_lost(record)
        except UNREADABLE as cause:
            raise Waits(f"{waits} a block map is {in_words(cause)}; validate it") from cause
        if lost:
            why = (
                "some of its data is not readable in the data store; validate it, then back the VM"
                " up again"
            )
            raise Waits(f"{waits} {self._mending.why or why}")

    def _has(self, name: str) -> bool:
        """Whether the vault has a copy of a block map; most are asked for by many versions."""
        if name not in self._maps_there:
            if len(self._maps_there) >= _MAX_REMEMBERED:
                self._maps_there.clear()
            if not _has(self._vault.transport, name):
                return False
            self._maps_there.add(name)
        return True


def _record(store: DataStore, data: bytes, name: str) -> tuple[VersionClear, VersionRecord]:
    frame = _signed(store, Kind.VERSION, data, name)
    clear = signed_part(frame.clear, VersionClear, name=name)
    return clear, signed_part(frame.unseal(store.keys), VersionRecord, name=name)


def _signed(store: DataStore, kind: Kind, data: bytes, name: str) -> Frame:
    frame = Frame.parse(data, name=layout.FORMAT_COPIES[0] if kind is Kind.FORMAT else name)
    frame.require_signature(kind, store.verifier(frame))
    return frame


def _words(name: str) -> str:
    return _WORDS.get(name.partition("/")[0], "a copy of what says what the store is")


def not_listed(folder: str, cause: LikenessError) -> str:
    """What to say of a folder of the data store that cannot be listed."""
    top, _, below = folder.partition("/")
    what = {layout.PACKS: "packs", layout.MAPS: "block maps"}.get(top, f"the folder {top}")
    if top == layout.VERSIONS:
        what = f"versions of VM {as_uuid(below)}" if is_name(below) else "the versions of all VMs"
    why = str(cause).removeprefix(f"{folder}: ")
    return (
        f"{what} cannot be listed in the data store ({why}), so what is new there is not in the"
        " vault; see its disk and its rights, the next vaulting goes on"
    )


def _pack_of(name: str) -> PackId:
    return PackId(name.rpartition("/")[2])


def _read(transport: Transport, name: str) -> bytes:
    """An object, or of one that is longer than any may be only so much that it is refused."""
    return transport.read(name, 0, MAX_BYTES + 1)


def _has(transport: Transport, name: str) -> bool:
    try:
        transport.size(name)
    except ObjectMissing:
        return False
    return True


def put(vault: Transport, name: str, data: bytes) -> Copied:
    """Write an object to the vault, or say that it takes none."""
    try:
        _put(vault, name, data)
    except (ObjectUnreadable, NameTaken, ObjectMissing):
        return Copied(name, 0, f"the vault could not take {_words(name)}; look at its disks")
    return Copied(name, len(data))


def _put(vault: Transport, name: str, data: bytes) -> None:
    """Write an object; what is torn in its place is set aside."""
    if _has(vault, name):
        with suppress(*UNREADABLE):
            if _read(vault, name) == data:
                return  # it only seemed to be of another length
        vault.rename(name, f"{layout.QUARANTINE}/{random_name()}")
    try:
        vault.create(name, [data])
    except NameTaken:  # another vaulting's, or a folder
        with suppress(ObjectMissing):
            if _read(vault, name) == data:
                return
        vault.rename(name, f"{layout.QUARANTINE}/{random_name()}")
        vault.create(name, [data])
