"""A black box: a store that the product made, spoilt at random, and looked at from outside.

Whoever judges here knows nothing of how the product reads: what a version must be is known from its
disks' own bytes, and whether its data is still somewhere from the sealed bytes as they were made.
"""

import contextlib
import hashlib
import os
import random
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from likeness.cli.running import main
from likeness.codec import slots
from likeness.codec.slots import SlotKind
from likeness.errors import LikenessError
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.opening import open_store
from likeness.store.read.restoring import restore_disk
from likeness.store.read.versions import Version, find_version
from likeness.transport.local import LocalTransport
from tests.faults.black_box_faults import FAULTS, Objects, Place, kind_of
from tests.faults.black_box_store import NOBODY, House, Known
from tests.unit.workshop import DiskInMemory

CHECKS = ("prove", "audit", "scrub", "verify")


@dataclass
class Told:
    """What one command answered."""

    code: int
    out: str
    err: str


@dataclass
class Figures:
    """What was counted over many faults."""

    faults: int = 0
    harmful: int = 0
    restores: int = 0
    silent: list[str] = field(default_factory=list)
    unreported: list[str] = field(default_factory=list)
    unproved: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    false_alarms: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.faults} faults, {self.harmful} harmful, {self.restores} restores compared:"
            f" {len(self.silent)} silent wrong, {len(self.unreported)} unreported,"
            f" {len(self.unproved)} that prove ended well, {len(self.unnamed)} versions unnamed,"
            f" {len(self.false_alarms)} false alarms, {len(self.refused)} refused though whole"
            f" somewhere, {len(self.tracebacks)} tracebacks"
        )

    def bad(self) -> list[str]:
        """A line for every zero that is none."""
        kinds = ("silent", "unreported", "unproved", "unnamed", "false_alarms", "refused")
        return [f"{k}: {each}" for k in (*kinds, "tracebacks") for each in getattr(self, k)]


def ready_house(seed: int) -> House:
    """A store, looked at before any fault: all is well, and what is imported late is imported."""
    house = House(seed)
    "\x1b".encode("unicode_escape")
    figures = Figures()
    for place in house.places:
        told = _Look(house, place, "before any fault", figures).look()
        assert [each.code for each in told.values()] == [0] * len(CHECKS), told
    assert figures.bad() == [], figures.bad()
    return house


def spoil(house: House, number: int, figures: Figures) -> None:
    """One fault, or two at once, and what comes of it."""
    rng = random.Random(f"{house.seed} {number}")
    place = rng.choice(house.places)
    names = _chosen(place, rng)
    done = [rng.choice(list(FAULTS)) for _ in names]
    where = f"seed {house.seed}, number {number}, {place.root.name}: " + ", ".join(
        f"{fault} of {name}" for fault, name in zip(done, names, strict=True)
    )
    try:
        for name, fault in zip(names, done, strict=True):
            FAULTS[fault](place, rng, name)
        figures.faults += 1
        with _without_rights():
            _Look(house, place, where, figures).look()
    finally:
        place.mend()


def _chosen(place: Place, rng: random.Random) -> list[str]:
    """Each kind of object is as likely as the others; the second is often one that stands in."""
    kinds = sorted({kind_of(name) for name in place.whole})
    of = {kind: [n for n in place.whole if kind_of(n) == kind] for kind in kinds}
    weights = [3 if kind in ("packs", "maps", "index", "versions") else 1 for kind in kinds]

    def one() -> str:
        return rng.choice(of[rng.choices(kinds, weights)[0]])

    first = one()
    if rng.random() < 0.6:
        return [first]
    twins = {"maps": "maps", "packs": "index", "index": "packs", "slot": "slot"}
    kind = twins.get(kind_of(first))
    return [first, rng.choice(of[kind]) if kind in of and rng.random() < 0.6 else one()]


@contextlib.contextmanager
def _without_rights() -> Iterator[None]:
    """Root may read everything, whatever its mode: look as somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


class _Look:
    """One look at a store that was spoilt: restores first, then what the checks say."""

    def __init__(self, house: House, place: Place, where: str, figures: Figures) -> None:
        self._house, self._place, self._figures = house, place, figures
        self._where = where
        self._lost: list[Known] = []

    def look(self) -> dict[str, Told]:
        store = self._opened()
        for known in self._house.known:
            self._figures.restores += 1
            outcome = "refused" if store is None else self._restored(store, known)
            if outcome == "wrong":
                self._note(self._figures.silent, known.version.name)
            elif outcome != "right":
                self._lost.append(known)
                if self._is_somewhere(known):
                    self._note(self._figures.refused, f"{known.version.name}: {outcome}")
        told = {name: self._run(name) for name in CHECKS}
        self._figures.harmful += bool(self._lost)
        self._judge(told)
        return told

    def _note(self, list_: list[str], what: str) -> None:
        list_.append(f"{self._where}: {what}")

    # restores

    def _opened(self) -> DataStore | None:
        transport = LocalTransport(self._place.root)
        key = slots.read_key_file(self._house.key_file)
        words = slots.from_words(self._house.words_file.read_text())
        for opener, kind in ((key, SlotKind.KEY_FILE), (words, SlotKind.RECOVERY_WORDS)):
            try:
                return open_store(transport, opener, kind)
            except LikenessError:
                continue
            except Exception:  # noqa: BLE001  # counted
                self._note(self._figures.tracebacks, traceback.format_exc())
        return None

    def _restored(self, store: DataStore, known: Known) -> str:
        """What a person gets who knows the version's id."""
        try:
            found = find_version(store, known.version.version)
            disks = tuple(self._disk(store, found, at) for at in range(len(found.record.disks)))
        except LikenessError as cause:
            return str(cause)
        except Exception:  # noqa: BLE001  # counted
            self._note(self._figures.tracebacks, traceback.format_exc())
            return "traceback"
        return "right" if disks == known.digests else "wrong"

    def _disk(self, store: DataStore, version: Version, at: int) -> str:
        disk = version.record.disks[at]
        target = DiskInMemory(disk.size_bytes)
        with tempfile.TemporaryDirectory() as scratch:
            restore_disk(store, disk, target, scratch=Path(scratch), stop=StopToken())
        return hashlib.sha256(target.whole or b"").hexdigest()

    def _is_somewhere(self, known: Known) -> bool:
        """Whether everything that the version needs lies in the store, readable."""
        there = self._readable()
        whole = self._place.whole
        disks = known.version.record.disks
        pairs = [part.copies for disk in disks for part in disk.parts]
        slot_names = {name for name in whole if kind_of(name) == "slot"}
        documents = [{known.version.name}, *map(set, pairs), slot_names]
        lying = {(kind_of(name), data) for name, data in there.items()}
        if not all(any((kind_of(n), whole[n]) in lying for n in each) for each in documents):
            return False
        in_place = [set(layout.FORMAT_COPIES), {"keys/pub-00000002", layout.numbered("owner", 2)}]
        if not all(any(there.get(n) == whole[n] for n in each) for each in in_place):
            return False
        packs = [d for n, d in there.items() if n.startswith(("packs/", "in/"))]
        return all(
            any(any(r in d for d in packs) and any(b in d for d in packs) for r, b in ways)
            for ways in known.records
        )

    def _readable(self) -> Objects:
        """Files under names that a store's objects may have."""
        found = {}
        for path in self._place.root.rglob("*"):
            name = str(path.relative_to(self._place.root))
            if (
                os.access(path, os.R_OK, effective_ids=True)
                and path.is_file()
                and layout.is_known(name)
            ):
                found[name] = path.read_bytes()
        return found

    # checks

    def _run(self, check: str) -> Told:
        """A command line, as somebody types it who has both keys at hand."""
        words = [check, "--store", str(self._place.root)]
        if check == "verify":
            words += ["--head", *self._house.head]
        if check == "scrub":
            return self._answer(words)
        told = self._answer([*words, "--key-file", str(self._house.key_file)])
        if "no slot of" in told.err:
            told = self._answer([*words, "--words-file", str(self._house.words_file)])
        return told

    def _answer(self, words: list[str]) -> Told:
        with _file() as out, _file() as err:
            code = 99
            try:
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    code = main(words)
            except BaseException:  # noqa: BLE001  # counted
                self._note(self._figures.tracebacks, f"{words[0]}: {traceback.format_exc()}")
            told = Told(code, _text(out), _text(err))
        if code not in (0, 1, 2, 3) or "Traceback" in told.err:
            self._note(self._figures.tracebacks, f"{words[0]}: exit code {code} {told.err}")
        return told

    def _judge(self, told: dict[str, Told]) -> None:
        figures, prove = self._figures, told["prove"]
        if self._lost and not any(each.code for each in told.values()):
            self._note(figures.unreported, self._names_lost())
        heads_too = any(name.startswith("heads/") for name in self._place.touched)
        for known in self._lost:
            path = self._place.path(known.version.name)
            gone = not _is_file(path)
            if prove.code == 0 and not (heads_too and (gone or self._is_tail(known, prove))):
                self._note(figures.unproved, known.version.name)
            elif prove.out and known.version.version not in prove.out:
                told_of_vm = layout.versions_of(known.version.vm) in prove.out
                if not ((gone or not _is_listed(path)) and (told_of_vm or heads_too)):
                    self._note(figures.unnamed, f"{known.version.name}\n{prove.out}{prove.err}")
        self._judge_alarms(told)

    def _is_tail(self, known: Known, prove: Told) -> bool:
        """Whether a record was cut off, and is told as what a commit that died leaves.

        With the heads set back as well nothing in the store tells the two apart; whoever kept the
        last head learns it from `verify`, and it counts as unreported if not.
        """
        name = known.version.name
        path = self._place.path(name)
        cut = _is_file(path) and not path.is_symlink()
        cut = cut and path.stat().st_size < len(self._place.whole[name])
        return cut and f"notice: {name}: a record that no head covers" in prove.out

    def _names_lost(self) -> str:
        return ", ".join(known.version.name for known in self._lost)

    def _judge_alarms(self, told: dict[str, Told]) -> None:
        """Called damaged: what was not touched, what restores, or what a dead run left."""
        lost = {known.version.version for known in self._lost}
        fine = {known.version.version for known in self._house.known} - lost
        for check, each in told.items():
            for line in each.out.splitlines():
                if line.startswith("damage:") and (
                    any(version in line for version in fine) or (check == "prove" and not lost)
                ):
                    self._note(self._figures.false_alarms, f"{check}: {line}")
            if self._is_false_about_leftovers(check, each):
                self._note(
                    self._figures.false_alarms, f"{check} of leftovers: {each.out}{each.err}"
                )

    def _is_false_about_leftovers(self, check: str, told: Told) -> bool:
        """Nothing was touched that a version needs.

        What an index segment knows may be needed, for all that a check without keys can tell.
        """
        touched = self._place.touched & self._place.whole.keys()
        added = {kind_of(name) for name in self._place.touched - touched}
        if not touched <= self._house.leftovers or not added <= {"packs", "maps", "in"}:
            return False
        closed = not all(map(_is_listed, map(self._place.path, touched)))
        unclear = closed or not touched or touched & self._house.known_leftovers
        return (
            "damage:" in told.out
            or (told.code != 0 and bool(touched) and not unclear)
            or (check == "prove" and bool(touched) and told.code != 0)
        )


def _is_file(path: Path) -> bool:
    """Whether somebody without rights can see a file there."""
    return os.access(path, os.F_OK, effective_ids=True) and path.is_file()


def _is_listed(path: Path) -> bool:
    """Whether somebody without rights can list the folder that something lies in."""
    return os.access(path.parent, os.R_OK, effective_ids=True)


def _file() -> "contextlib.AbstractContextManager[TextIO]":
    return tempfile.TemporaryFile("w+", encoding="utf-8")


def _text(file: TextIO) -> str:
    file.seek(0)
    return file.read()
