"""Vaulting without any secret of the store: what is copied is checked, and nothing opened.

Which packs and block maps a version needs, the store's owner says in signed needs lists. Packs are
compared with the digests that index segments signed for, maps with those in the lists, documents
with their signatures; damage is believed when it was read twice. A version's record is copied when
all that its list names is in the vault. Data that moved meanwhile is looked for in newer lists; a
damaged pack holds up the versions that need it and no others, until the data store relies on
another one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime

from likeness.codec.blobs import check_blob
from likeness.codec.documents import MAX_DOCUMENT_BYTES, Frame, Kind
from likeness.codec.hashing import digest
from likeness.errors import (
    Damaged,
    ObjectMissing,
    ObjectUnreadable,
    ShareFull,
    ShareRefused,
)
from likeness.model.ids import PackId, VersionId, VmId, as_uuid
from likeness.pipelining import bounded_map
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.believing import read_surely
from likeness.store.format.data_store import signed_document
from likeness.store.format.documents import VersionClear
from likeness.store.format.guard import require_writer
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.owning import require_no_other_owner
from likeness.store.format.public_view import PublicStore
from likeness.store.format.vault_file import (
    VaultFile,
    facts_of,
    require_own_documents,
    vault_without_key,
)
from likeness.store.prune.sweeping import deleted_objects
from likeness.store.repair.begun_for_nothing import is_begun_for_nothing
from likeness.store.repair.copyable_objects import MAX_BYTES, not_listed, put
from likeness.store.repair.copying import AT_ONCE, Manner, lacking
from likeness.store.repair.needed_objects import NeededObjects, pack_of, vm_of
from likeness.store.repair.second_place import require_second_place
from likeness.store.repair.vault_mending import Copied, in_words
from likeness.transport.base import Entry, Transport
from likeness.transport.passing import CarefulTransport

_COPIERS = 3
_ROUNDS = 3
_MAX_REFUSALS = 32
Listed = Callable[[VmId, Mapping[VersionId, frozenset[PackId]]], None]


def copy_without_key(
    store: PublicStore,
    vault: Transport,
    said: VaultFile,
    *,
    stop: StopToken,
    manner: Manner = AT_ONCE,
    listed: Listed = lambda _vm, _packs: None,
) -> Iterator[Copied]:
    """Copy what the vault lacks, holding no key of the store; see `copying.copy_to_vault`.

    Args:
        store: Where from, with public keys that are pinned.
        vault: Where to: an empty place, or this vault.
        said: What the host of the vault was given by the store's owner.
        stop: Looked at before every object.
        manner: How fast, and when.
        listed: Told of the VMs that were looked at, and which packs each version needs.

    Yields:
        Each object that was copied, and each that the vault cannot have at the moment.

    Raises:
        BadInput: The vault file is another store's.
        NoVault: The place is another store's, another vault, or the data store by another name.
        StoreTooNew: This release may only read the store.
        StoreTakenOver: Somebody made a data store of his own of the vault.
        ShareFull, ShareRefused: The vault takes nothing more; raised when all was told of.
        ShareUnreachable: One of the two places does not answer.
        PauseHours: It is not to go on now; what was copied stays.
    """
    require_own_documents(said, store)
    require_writer(facts_of(store))
    require_second_place(store.transport, vault)
    there = vault_without_key(store, vault, said)
    require_no_other_owner(store, there)
    listing = CarefulTransport(store.transport)
    yield from _Copying(store.over(listing), there, said, stop, manner, listed).run()
    for folder, cause in sorted(listing.closed.items()):
        yield Copied(folder, 0, not_listed(folder, cause))


class _Copying:
    """One vaulting, in its order: nothing comes before what it needs."""

    def __init__(
        self,
        store: PublicStore,
        vault: PublicStore,
        said: VaultFile,
        stop: StopToken,
        manner: Manner,
        listed: Listed,
    ) -> None:
        self._store, self._vault, self._said = store, vault, said
        self._stop, self._manner, self._listed = stop, manner, listed
        self._needed = NeededObjects(store, vault, manner)
        self._refused: ShareFull | ShareRefused | None = None
        self._refusals = 0

    def run(self) -> Iterator[Copied]:
        """What comes last is listed first, so that a version committed meanwhile waits."""
        folders = (layout.SWEPT, layout.FORGETS, layout.HOLDS, layout.HEADS, layout.CATALOG)
        last = [] if self._manner.only is not None else self._lacking(*folders)
        versions = self._wanted(self._lacking(layout.VERSIONS))
        yield from self._own_keys()
        yield from self._copy(self._lacking(layout.KEYS, layout.OWNER, layout.ADOPTED))
        yield from self._fill(versions)
        yield from self._copy(versions)
        yield from self._unrestorable({entry.name for entry in versions})
        for vm, packs in self._needed.packs_of_versions():
            self._listed(vm, packs)
        yield from self._copy(last)
        yield from self._say_what_it_is()
        if self._refused is not None:
            raise self._refused

    def _fill(self, versions: list[Entry]) -> Iterator[Copied]:
        """Maps, packs, index and lists of all VMs that are looked at; again where data moved."""
        known: set[str] | None = None
        for _ in range(_ROUNDS):
            lists = self._needed.make_plan(versions)
            if known is not None and lists <= known:
                return  # nothing is known now that was not before
            known = lists | (known or set())
            maps = [e for e in self._lacking(layout.MAPS) if e.name in self._needed.plan.maps]
            yield from self._copy(maps)
            packs = self._needed.lacking_packs()
            self._manner.planned(sum(entry.size_bytes for entry in packs))
            yield from self._copy(packs)
            yield from self._copy(self._needed.segments_to_copy())
            yield from self._copy(Entry(name, 0) for name in sorted(self._needed.new_lists(lists)))
            self._needed.look()
            if all(self._needed.has_pack(pack) for pack in self._needed.plan.packs):
                return

    def _unrestorable(self, but: set[str]) -> Iterator[Copied]:
        """Versions that the vault has from earlier, and lacks something of now."""
        for vm in self._needed.plan.lists:
            entries = self._vault.transport.entries(layout.versions_of(vm))
            names = {_version_in(e.name): e.name for e in entries if layout.is_known(e.name)}
            for version, name in names.items():
                if name not in but and (why := self._needed.what_lacks(vm, version)):
                    with suppress(*UNREADABLE):
                        clear, _ = self._vault.read_surely(name, Kind.VERSION, VersionClear)
                        yield Copied(name, 0, _waits(clear, why))
            self._needed.remove_old_lists(vm, names)

    def _own_keys(self) -> Iterator[Copied]:
        name = layout.vault_keys(self._said.epoch)
        yield from self._put_own(name, bytes.fromhex(self._said.keys))

    def _say_what_it_is(self) -> Iterator[Copied]:
        for name in reversed(layout.FORMAT_COPIES):
            yield from self._put_own(name, bytes.fromhex(self._said.format))

    def _put_own(self, name: str, data: bytes) -> Iterator[Copied]:
        """A document of the vault itself, unless it is there."""
        with suppress(*UNREADABLE):
            there = self._vault.transport.read(name, 0, MAX_DOCUMENT_BYTES + 1)
            frame = Frame.parse(there, name=layout.signed_name(name))
            frame.require_signature(layout.kind_of(name), self._vault.verifier(frame))
            return
        self._stop.check()
        yield put(self._vault.transport, name, data)

    def _wanted(self, versions: list[Entry]) -> list[Entry]:
        only = self._manner.only
        return [e for e in versions if only is None or e.name.rpartition("-")[2] in only]

    def _lacking(self, *folders: str) -> list[Entry]:
        places = self._store.transport, self._vault.transport
        return [entry for folder in folders for entry in lacking(*places, folder)]

    def _copy(self, entries: Iterable[Entry]) -> Iterator[Copied]:
        found = bounded_map(self._copied, entries, workers=_COPIERS, name="vault")
        yield from (each for each in found if each is not None)

    def _copied(self, entry: Entry) -> Copied | None:
        if self._refusals >= _MAX_REFUSALS and entry.name.startswith(f"{layout.PACKS}/"):
            return None  # the versions that need it are told of
        self._manner.wait_for_turn(entry.size_bytes, stop=self._stop)
        try:
            data = read_surely(
                self._store,
                entry.name,
                lambda data: self._judged(entry.name, data),
                max_bytes=MAX_BYTES,
            )
        except _Waits as cause:
            return Copied(entry.name, 0, str(cause))
        except UNREADABLE as cause:
            return self._left_out(entry.name, cause)
        return self._given(entry.name, data)

    def _given(self, name: str, data: bytes) -> Copied | None:
        """Give the vault an object; none if it takes nothing more."""
        try:
            copied = put(self._vault.transport, name, data)
        except (ShareFull, ShareRefused) as cause:
            self._refused = self._refused or cause
            self._refusals += 1
            self._needed.why[name] = "the vault takes nothing more at the moment"
            return None
        self._refusals = 0
        return copied

    def _judged(self, name: str, data: bytes) -> bytes:
        """The bytes of an object that is whole.

        Raises:
            Damaged: It is not.
            _Waits: A version that the vault cannot have yet.
        """
        folder = name.partition("/")[0]
        if folder == layout.PACKS:
            if (pack := pack_of(name)) not in self._needed.digests:
                raise ObjectUnreadable("no part of the index that can be read vouches for it")
            if digest([data]) != self._needed.digests[pack][0]:
                raise Damaged(name, "its bytes are not what its index segment signed for")
        elif folder == layout.MAPS:
            check_blob(data, name=name)
            if digest([data]).hex() != self._needed.plan.maps[name][0]:
                raise Damaged(name, "it is not what its needs list signed for")
        elif folder == layout.CATALOG and "-" in name:
            check_blob(data, name=name)
        elif folder == layout.VERSIONS:
            self._require_all_it_needs(name, data)
        else:
            frame = Frame.parse(data, name=name)
            frame.require_signature(layout.kind_of(name), self._store.verifier(frame))
        return data

    def _require_all_it_needs(self, name: str, data: bytes) -> None:
        """A version is shown in the vault only when it can be restored from there."""
        verifier = self._store.verifier
        clear, _ = signed_document(data, name, Kind.VERSION, VersionClear, verifier)
        version = VersionId(clear.version)
        if layout.version_record(VmId(clear.vm), clear.sequence, version) != name:
            raise Damaged(name, "it is the record of another version")
        if why := self._needed.what_lacks(VmId(clear.vm), version):
            raise _Waits(_waits(clear, why))

    def _does_without(self, name: str, cause: Exception) -> bool:
        """Whether the vault lacks nothing: it has the object whole, or it went meanwhile."""
        if isinstance(cause, ObjectMissing) or name in deleted_objects(self._store):
            return True
        with suppress(*UNREADABLE, _Waits):
            data = self._vault.transport.read(name, 0, MAX_BYTES + 1)
            return bool(self._judged(name, data))
        return False

    def _left_out(self, name: str, cause: Exception) -> Copied | None:
        """What to say of an object that is not whole here; versions speak for what they need."""
        folder, what = name.partition("/")[0], in_words(cause)
        if self._does_without(name, cause) or is_begun_for_nothing(self._store, name):
            return None
        if folder in (layout.PACKS, layout.MAPS):
            kind = "a pack" if folder == layout.PACKS else "a block map"
            self._needed.why[name] = (
                f"{kind} it needs is {what} in the data store; validate it there, and it is copied"
                " once the data store relies on another one"
            )
            return None
        if folder == layout.VERSIONS:
            vm = as_uuid(vm_of(name))
            said = f"VM {vm}: the record of a version is {what} in the data store; validate it"
            return Copied(name, 0, said)
        if folder == layout.NEEDS:
            return None  # its versions are told of
        return Copied(name, 0, f"a document in {folder}/ is {what} there, and was not copied")


class _Waits(Exception):  # a state, in words
    """A version of which the vault cannot get all it needs."""


def _waits(clear: VersionClear, why: str) -> str:
    taken = datetime.fromisoformat(clear.taken_at)
    return f"VM {as_uuid(clear.vm)}, version of {taken:%Y-%m-%d %H:%M}, is not in the vault: {why}"


def _version_in(name: str) -> VersionId:
    return VersionId(name.rpartition("-")[2])
