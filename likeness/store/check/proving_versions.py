"""Proving versions: whether each restores in full, asked from what it needs.

First the documents of each version, then the packs that the index knows, and then every block of
every block map against what was proved. Where something is lacking, packs that the index does not
know, or knows wrongly, are opened record by record, as a restore would. So a version is called
damaged only if it does not restore, and nothing is called well that was not read.
"""

import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from likeness.clock import Clock
from likeness.errors import LikenessError, ObjectMissing
from likeness.model.ids import ChunkId, PackId
from likeness.pipelining import bounded_map
from likeness.stopping import StopToken
from likeness.store.check.needs import Needs, needs_of
from likeness.store.check.proving import Finding, PackProof, documents_of, prove_pack
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.ledger import Ledger
from likeness.store.format.observations import (
    NOT_READ,
    UNREADABLE,
    Observation,
    Weight,
    cause_of,
    notice,
    unchecked,
)
from likeness.store.prune.sweeping import deleted_objects, deleted_packs
from likeness.store.read.index import KnownPack, read_segment, segments
from likeness.store.read.packs_needed import packs_of
from likeness.store.read.salvaging import Salvager, unindexed_packs
from likeness.store.read.versions import Version, misplaced_records, read_version_at

MAX_SUSPECTS = 1 << 20
"""Blocks of damaged packs remembered one by one: about 200 MB."""
_LOST = (Finding.DAMAGED, Finding.MISSING)


@dataclass(frozen=True, slots=True)
class _Trouble:
    """A pack that is not as it should be, and the blocks in question."""

    proof: PackProof
    chunks: tuple[ChunkId, ...]


@dataclass
class VersionsProof:
    """Proves versions of one store; see `prove`.

    Attributes:
        store: Where.
        scratch: A folder for block maps and lists of what was proved.
        clock: The present.
        stop: Looked at before every object.
        progress: Told of bytes read.
    """

    store: DataStore
    scratch: Path
    clock: Clock
    stop: StopToken
    progress: Callable[[int], None] = lambda _: None
    _versions: dict[str, str] = field(default_factory=dict)
    _named: set[str] = field(default_factory=set)
    _indexed: dict[PackId, int] = field(default_factory=dict)
    _troubles: dict[PackId, _Trouble] = field(default_factory=dict)
    _suspects: dict[ChunkId, None] = field(default_factory=dict)
    _segments: dict[str, LikenessError] = field(default_factory=dict)
    _unread: dict[str, LikenessError] = field(default_factory=dict)

    def prove(
        self, versions: Mapping[str, str], *, only: Container[PackId] | None = None
    ) -> Iterator[Observation]:
        """Prove versions with all they need.

        Args:
            versions: Names of their records, each with the name it lies under.
            only: Of the packs that the index knows, read these alone; all by default.

        Yields:
            Whatever is damaged, missing or could not be read, and whom it concerns.

        Raises:
            ShareUnreachable: The store does not answer any more.
            Stopped: On request.
        """
        for name, lies_at in versions.items():
            yield from self._documents(name, lies_at)
        proved = Ledger(self.scratch)
        self._prove_indexed(proved, only)
        needs = known = self._needs(proved)
        if needs.lacking:
            self._salvage(proved)
            needs = self._needs(proved)
        yield from self._told_of_index(needed=bool(known.lacking))
        yield from self._told_of_packs(needs)
        yield from self._told_of_versions(needs)

    def _needs(self, proved: Ledger) -> Needs:
        return needs_of(
            self.store,
            self._versions,
            proved,
            self._suspects,
            scratch=self.scratch,
            stop=self.stop,
        )

    # documents

    def _documents(self, name: str, lies_at: str) -> Iterator[Observation]:
        self.stop.check()
        try:
            version = read_version_at(self.store, name, lies_at)
            proof = documents_of(self.store, version, self.scratch)
        except NOT_READ as cause:
            meaning = "whether this version restores is not known; try again"
            yield Observation(Weight.UNCHECKED, name, str(cause), meaning, (name,))
            return
        except UNREADABLE as cause:
            meaning = "this version cannot be restored from here"
            yield Observation(Weight.DAMAGE, name, cause_of(cause), meaning, (name,))
            return
        for problem in proof.unread:
            meaning = "the version restores by the other copy; try again"
            yield Observation(Weight.UNCHECKED, name, problem, meaning, (name,))
        weight = Weight.SPARE_LOST if proof.readable else Weight.DAMAGE
        meaning = (
            "the version restores by its other copies"
            if proof.readable
            else "this version cannot be restored from here"
        )
        for problem in proof.problems:
            yield Observation(weight, name, problem, meaning, (name,))
        if proof.readable:
            self._versions[name] = lies_at
            self._named.update(n for n in version.clear.objects if n.startswith(layout.INDEX))

    # reading packs

    def _prove_indexed(self, proved: Ledger, only: Container[PackId] | None) -> None:
        def look(pack: KnownPack) -> tuple[KnownPack, PackProof]:
            self.stop.check()
            return pack, prove_pack(self.store, pack, clock=self.clock)

        found = self._known_packs(only)
        for pack, proof in bounded_map(look, found, workers=os.cpu_count() or 1, name="prove"):
            self.progress(proof.read_bytes)
            bad = {damaged.chunk for damaged in proof.damaged}
            if proof.finding is not Finding.COULD_NOT_CHECK:
                proved.add(p.chunk for p in pack.locations if p.chunk not in bad)
            if proof.finding is not Finding.PROVED or proof.cause:
                self._suspect(proof, pack)

    def _suspect(self, proof: PackProof, pack: KnownPack) -> None:
        chunks = tuple(pack.locations.chunks())
        if len(self._suspects) + len(chunks) > MAX_SUSPECTS:
            chunks = ()
        self._suspects.update(dict.fromkeys(chunks))
        self._troubles[pack.pack] = _Trouble(proof, chunks)

    def _known_packs(self, only: Container[PackId] | None) -> Iterator[KnownPack]:
        """Every pack that an index segment knows, once; segments that cannot be read are noted."""

        def closed(cause: LikenessError) -> None:
            self._segments[layout.INDEX] = cause

        for name in sorted({*segments(self.store, unread=closed), *self._named}):
            self.stop.check()
            try:
                packs = list(read_segment(self.store, name))
            except (*NOT_READ, *UNREADABLE) as cause:
                if not (isinstance(cause, ObjectMissing) and name in self._on_purpose):
                    self._segments[name] = cause
                continue
            for pack in packs:
                if pack.pack not in self._indexed:
                    self._indexed[pack.pack] = pack.size_bytes
                    if only is None or pack.pack in only:
                        yield pack

    @cached_property
    def _on_purpose(self) -> set[str]:
        """Segments that went since later ones say what they said."""
        return deleted_objects(self.store)

    def _salvage(self, proved: Ledger) -> None:
        """Open whatever the index does not know, or knows wrongly, record by record."""
        salvager = Salvager(self.store, self.stop, self._unread.__setitem__)

        def open_all(name: str) -> tuple[ChunkId, ...]:
            return tuple(opened.chunk for opened in salvager.records(name))

        names = unindexed_packs(self.store, self._indexed, self._troubles, self._unread.__setitem__)
        for chunks in bounded_map(open_all, names, workers=os.cpu_count() or 1, name="salvage"):
            proved.add(chunks)

    # what is told

    def _told_of_index(self, *, needed: bool) -> Iterator[Observation]:
        """Segments that could not be read; what a dead run left of them is no damage."""
        for name, cause in self._segments.items():
            counts = needed or name in self._named
            if counts and isinstance(cause, NOT_READ):
                yield unchecked(name, cause)
            elif counts:
                meaning = "what its packs hold was proved by their own records instead"
                yield Observation(Weight.SPARE_LOST, name, cause_of(cause), meaning)
            else:
                yield notice(name, cause_of(cause), "no version brought it, and none needs it")

    def _told_of_packs(self, needs: Needs) -> Iterator[Observation]:
        expected = deleted_packs(self.store) if self._troubles else set()
        for pack, trouble in self._troubles.items():
            name, proof = layout.pack(pack), trouble.proof
            users = {v for chunk in trouble.chunks for v in needs.users.get(chunk, ())}
            lacking = _lacking(needs, trouble, users)
            gone = proof.finding is Finding.MISSING
            cause = "missing" if gone else proof.cause or proof.finding
            if not lacking and gone and pack in expected:
                continue
            if lacking and proof.finding in _LOST:
                meaning = f"{len(lacking)} versions cannot be restored in full: {_told(lacking)}"
                yield Observation(Weight.DAMAGE, name, cause, meaning, lacking)
            elif proof.finding is Finding.COULD_NOT_CHECK and (users or not trouble.chunks):
                who = f" for {_told(lacking)}" if lacking else ""
                meaning = f"whether it is whole is not known{who}; try again"
                yield Observation(Weight.UNCHECKED, name, cause, meaning, lacking)
            elif users or not trouble.chunks:
                meaning = "all that versions need of it was proved, there or in other packs"
                yield Observation(Weight.SPARE_LOST, name, cause, meaning)
            else:
                yield notice(name, cause, "no version needs what is in it")

    def _told_of_versions(self, needs: Needs) -> Iterator[Observation]:
        """A line for every version that lacks something."""
        may_be_in = {
            chunk
            for trouble in self._troubles.values()
            if trouble.proof.finding is Finding.COULD_NOT_CHECK
            for chunk in trouble.chunks
        }
        for name, lack in sorted(needs.lacking.items()):
            cause = f"{lack.lost_bytes} bytes of its disks are in no pack that could be proved"
            if self._unread or lack.chunks <= may_be_in:
                why = "; ".join(str(each) for each in list(self._unread.values())[:1])
                cause = f"{cause} ({why})" if why else cause
                meaning = "whether it restores in full is not known; try again"
                yield Observation(Weight.UNCHECKED, name, cause, meaning, (name,))
            else:
                meaning = "it cannot be restored in full from here; look for it in the vault"
                yield Observation(Weight.DAMAGE, name, cause, meaning, (name,))


def prove_one(proof: VersionsProof, version: Version) -> Iterator[Observation]:
    """Prove one version with the packs it needs; see `VersionsProof.prove`."""
    lies_at = dict(misplaced_records(proof.store)).get(version.name, version.name)
    try:
        packs = packs_of(proof.store, version, scratch=proof.scratch, stop=proof.stop)
    except (*NOT_READ, *UNREADABLE):
        packs = set()  # its block map is damaged, which is told with its documents
    return proof.prove({version.name: lies_at}, only=packs)


def _lacking(needs: Needs, trouble: _Trouble, users: Iterable[str]) -> tuple[str, ...]:
    chunks = set(trouble.chunks)
    found = {v for v in users if v in needs.lacking and needs.lacking[v].chunks & chunks}
    return tuple(sorted(found))


def _told(versions: tuple[str, ...]) -> str:
    return ", ".join(versions)
