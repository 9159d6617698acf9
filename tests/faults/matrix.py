"""Faults of stored objects: every kind of object, every way to spoil it, and what comes of it."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from likeness.errors import LikenessError
from likeness.model.ids import PackId, VmId, random_name
from likeness.store.check.proving import Finding, prove_documents
from likeness.store.format import layout
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.read.versions import Version, find_version
from likeness.store.write.catalog_copies import fetch_newest, put_copy
from likeness.store.write.heads import read_head_state, write_head
from tests.unit.workshop import CHUNK, Workshop, changed, noise, text

Objects = dict[str, bytes]

KINDS: dict[str, Callable[[str], bool]] = {
    "pack": lambda name: name.startswith("packs/"),
    "map": lambda name: name.startswith("maps/"),
    "version record": lambda name: name.startswith("versions/"),
    "index segment": lambda name: name.startswith("index/"),
    "head": lambda name: name.startswith("heads/"),
    "format document": lambda name: name.startswith("ADS-FORMAT"),
    "slot": lambda name: "/slot-" in name,
    "public keys": lambda name: "/pub-" in name,
    "owner": lambda name: name.startswith("owner/"),
    "catalog copy": lambda name: name.startswith("catalog/") and "-" not in name,
    "catalog part": lambda name: name.startswith("catalog/") and "-" in name,
}


"""Lines for the end of the test run."""

# --- how an object is spoilt ---

Fault = Callable[["Bench", random.Random, str], None]


def bit_flip(bench: "Bench", rng: random.Random, name: str) -> None:
    data = bench.objects[name]
    at = rng.randrange(len(data))
    bench.objects[name] = changed(data, (at, bytes([data[at] ^ 1 << rng.randrange(8)])))


def zero_fill(bench: "Bench", rng: random.Random, name: str) -> None:
    data = bench.objects[name]
    at = rng.randrange(len(data))
    bench.objects[name] = changed(data, (at, bytes(min(rng.randint(1, 4096), len(data) - at))))


def overwrite(bench: "Bench", rng: random.Random, name: str) -> None:
    data = bench.objects[name]
    at = rng.randrange(len(data))
    bench.objects[name] = changed(
        data, (at, rng.randbytes(min(rng.randint(1, 4096), len(data) - at)))
    )


def truncation(bench: "Bench", rng: random.Random, name: str) -> None:
    data = bench.objects[name]
    bench.objects[name] = data[: rng.choice([0, rng.randrange(len(data)), len(data) - 1])]


def extension(bench: "Bench", rng: random.Random, name: str) -> None:
    bench.objects[name] += rng.choice([b"\0", rng.randbytes(rng.randint(1, 9000))])


def swap(bench: "Bench", rng: random.Random, name: str) -> None:
    peer = bench.peer(rng, name)
    objects = bench.objects
    objects[name], objects[peer] = objects[peer], objects[name]


def replacement(bench: "Bench", rng: random.Random, name: str) -> None:
    """By a whole object of the same kind: of this store, or of another one."""
    strangers = bench.stranger_of(name)
    bench.objects[name] = rng.choice([bench.objects[bench.peer(rng, name)], *strangers])


def deletion(bench: "Bench", _: random.Random, name: str) -> None:
    del bench.objects[name]


def duplicate(bench: "Bench", rng: random.Random, name: str) -> None:
    """Under another name that such an object could have."""
    folder, _, last = name.rpartition("/")
    digits = rng.randbytes(32).hex()
    new = "".join(
        digits[at] if each in "0123456789abcdef" else each for at, each in enumerate(last)
    )
    target = f"{folder}/{new}" if folder else f"{name}.2"
    if folder.startswith("packs"):
        target = layout.pack(PackId(new))
    bench.objects[target] = bench.objects[name]


def rollback(bench: "Bench", _: random.Random, name: str) -> None:
    """The whole kind of object as it was before the last job."""
    kind = next(each for each, belongs in KINDS.items() if belongs(name))
    for each in [each for each in bench.objects if KINDS[kind](each)]:
        del bench.objects[each]
    bench.objects.update({n: d for n, d in bench.earlier.items() if KINDS[kind](n)})


FAULTS: dict[str, Fault] = {
    "bit flip": bit_flip,
    "zero fill": zero_fill,
    "random overwrite": overwrite,
    "truncation": truncation,
    "extension": extension,
    "swap": swap,
    "replacement": replacement,
    "deletion": deletion,
    "duplicate": duplicate,
    "rollback": rollback,
}

# --- what comes of it ---


@dataclass
class Figures:
    """What was counted over many faults."""

    faults: int = 0
    wrong: list[str] = field(default_factory=list)
    unmarked: list[str] = field(default_factory=list)
    undeclared: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Figures") -> None:
        self.faults += other.faults
        self.wrong += other.wrong
        self.unmarked += other.unmarked
        self.undeclared += other.undeclared
        self.outcomes.update(other.outcomes)

    def __str__(self) -> str:
        told = ", ".join(f"{name} {count}" for name, count in sorted(self.outcomes.items()))
        return (
            f"{self.faults} faults; restores that returned wrong bytes without an error ="
            f" {len(self.wrong)}; faulted versions not all marked bad by validation ="
            f" {len(self.unmarked)}; undeclared errors = {len(self.undeclared)}; {told}"
        )


@dataclass(frozen=True)
class Told:
    """What is known of a version from before any fault."""

    version: Version
    digests: tuple[str, ...]
    packs: frozenset[PackId]


class Bench:
    """A store that is spoilt again and again, each time from its whole state."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.seed = seed
        self.workshop = Workshop(folder)
        self.told: list[Told] = []
        catalog = folder / f"catalog-{random_name()}"
        catalog.mkdir()
        (catalog / "rows").write_bytes(noise(seed, 3000))
        self.fetched = folder / f"fetched-{random_name()}"
        self.fetched.mkdir()
        base = noise(seed, 4 * CHUNK) + bytes(CHUNK) + text(seed, 3 * CHUNK + 77)
        web, mail = VmId(random_name()), VmId(random_name())
        self.earlier: Objects = {}
        for vm, disks in (
            (web, (base, text("small", 900))),
            (mail, (changed(base, (CHUNK, b"another machine")),)),
            (web, (changed(base, (0, noise("x", 2 * CHUNK))), text("small", 900))),
            (web, (changed(base, (5 * CHUNK, noise("y", 700))), b"")),
        ):
            self.earlier = dict(self.workshop.objects)
            version = self.workshop.back_up(*disks, vm=vm)
            self.told.append(
                Told(
                    version,
                    tuple(hashlib.sha256(disk).hexdigest() for disk in disks),
                    frozenset(self.workshop.packs_of(version)),
                )
            )
            write_head(self.workshop.store, clock=self.workshop.clock)
            put_copy(self.workshop.store, catalog, clock=self.workshop.clock)
        self.whole = dict(self.workshop.objects)
        stranger = Workshop(folder)
        stranger.back_up(base, text("small", 900))
        write_head(stranger.store, clock=stranger.clock)
        put_copy(stranger.store, catalog, clock=stranger.clock)
        self.strange = stranger.objects

    @property
    def objects(self) -> Objects:
        return self.workshop.objects

    def names(self, kind: str) -> list[str]:
        """In the order they were made: names are random, and the seed should mean something."""
        return [name for name in self.whole if KINDS[kind](name)]

    def peer(self, rng: random.Random, name: str) -> str:
        """Another object of the kind; the object itself if it is the only one."""
        kind = next(each for each, belongs in KINDS.items() if belongs(name))
        return rng.choice([each for each in self.names(kind) if each != name] or [name])

    def stranger_of(self, name: str) -> list[bytes]:
        kind = next(each for each, belongs in KINDS.items() if belongs(name))
        return [data for each, data in self.strange.items() if KINDS[kind](each)]

    def spoil(self, kind: str, fault: str, number: int) -> Figures:
        """Inject one fault, look at everything, and mend it."""
        where = f"seed {self.seed}: {fault} of {kind}, number {number}"
        rng = random.Random(where)
        name = rng.choice(self.names(kind))
        FAULTS[fault](self, rng, name)
        figures = Figures(faults=1)
        try:
            self._look(figures, f"{where}, {name}")
        finally:
            self.objects.clear()
            self.objects.update(self.whole)
        return figures

    def _look(self, figures: Figures, where: str) -> None:
        try:
            self._look_at_all(figures, where)
        except LikenessError as refused:
            figures.outcomes[f"refused as a whole ({type(refused).__name__})"] += 1
        except Exception as leak:  # noqa: BLE001  # counted
            figures.undeclared.append(f"{where}: {leak!r}")

    def _look_at_all(self, figures: Figures, where: str) -> None:
        self.workshop.store = open_store_with_key_file(
            self.workshop.transport, self.workshop.key_file
        )
        for told in self.told:
            outcome = self._restored(told)
            figures.outcomes[outcome] += 1
            if outcome == "wrong":
                figures.wrong.append(where)
            elif outcome == "refused" and not self._is_marked(told):
                figures.unmarked.append(where)
        for extra in (self._heads, self._catalog):
            figures.outcomes[extra()] += 1

    def _restored(self, told: Told) -> str:
        """Restore by what the store says now, as a person would who knows the version's id."""
        try:
            version = find_version(self.workshop.store, told.version.version)
            found = tuple(
                hashlib.sha256(self.workshop.restore_in_memory(version, at)).hexdigest()
                for at in range(len(version.record.disks))
            )
        except LikenessError:
            return "refused"
        return "restored" if found == told.digests else "wrong"

    def _is_marked(self, told: Told) -> bool:
        """Whether validation calls the version bad, knowing its packs as the catalog does."""
        store = self.workshop.store
        if not prove_documents(store, told.version.name, self.workshop.folder).readable:
            return True
        bad = (Finding.DAMAGED, Finding.MISSING)
        return any(proof.finding in bad for proof in self.workshop.prove(set(told.packs)))

    def _heads(self) -> str:
        try:
            read_head_state(self.workshop.store)
        except LikenessError:
            return "heads refused"
        return "heads whole"

    def _catalog(self) -> str:
        try:
            passed_over = fetch_newest(self.workshop.store, self.fetched).passed_over
        except LikenessError:
            return "no catalog copy"
        return "older catalog copy" if passed_over else "catalog copy"
