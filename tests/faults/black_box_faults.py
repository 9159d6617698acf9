"""What may happen to a file of a store, whoever did it; each fault is one function."""

import os
import random
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from likeness.model.ids import random_name

Objects = dict[str, bytes]

_TRAILER = struct.Struct("<QIIQ16s16s8s")


@dataclass
class Place:
    """A store in a folder: as it was made, and what was done to it since.

    Attributes:
        root: Where.
        whole: Every object as the product left it.
        earlier: The same at earlier moments, oldest first.
        touched: Names that a fault changed, made or took away.
    """

    root: Path
    whole: Objects
    earlier: list[Objects]
    touched: set[str] = field(default_factory=set)

    def path(self, name: str) -> Path:
        return self.root / name

    def put(self, name: str, data: bytes) -> None:
        self.clear(name)
        path = self.path(name)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.parent.chmod(0o755)
        path.write_bytes(data)
        path.chmod(0o644)

    def clear(self, name: str) -> None:
        self.touched.add(name)
        path = self.path(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def now(self, name: str) -> bytes:
        """What lies there; nothing if that is no file."""
        path = self.path(name)
        return path.read_bytes() if path.is_file() else b""

    def mend(self) -> None:
        """Everything as it was made."""
        for name in list(self.touched):
            if name in self.whole:
                self.put(name, self.whole[name])
            else:
                self.clear(name)
        self.touched.clear()


def kind_of(name: str) -> str:
    """The sort of object that a name stands for."""
    folder = name.partition("/")[0]
    if folder == "keys":
        return "slot" if "/slot-" in name else "public keys"
    if folder == "catalog":
        return "catalog part" if "-" in name else "catalog copy"
    return "format" if folder.startswith("ADS-FORMAT") else folder


def _spot(rng: random.Random, data: bytes, name: str) -> int:
    """A byte of an object; of a pack, each of its parts is as likely as the others."""
    if not name.startswith("packs/") or len(data) < 300 or rng.random() < 0.3:
        return rng.randrange(len(data))
    table, length, *_ = _TRAILER.unpack_from(data, len(data) - _TRAILER.size)
    if not 164 <= table < table + length < len(data):
        return rng.randrange(len(data))
    edges = (0, 164, table, table + length, len(data) - _TRAILER.size, len(data))
    part = rng.randrange(5)
    return rng.randrange(edges[part], edges[part + 1])


def _another(place: Place, rng: random.Random, name: str) -> str:
    peers = [each for each in place.whole if kind_of(each) == kind_of(name) and each != name]
    return rng.choice(peers or [n for n in place.whole if n != name])


def _free_name(rng: random.Random, name: str) -> str:
    """Another name that such an object could have."""
    folder, _, last = name.rpartition("/")
    digits = rng.randbytes(32).hex()
    new = "".join(digits[at] if c in "0123456789abcdef" else c for at, c in enumerate(last))
    if folder.startswith("packs/"):
        return f"packs/{new[:2]}/{new}"
    return f"{folder}/{new}" if folder else f"ADS-FORMAT.{rng.randint(4, 9)}"


def flip(place: Place, rng: random.Random, name: str) -> None:
    data = bytearray(place.now(name))
    if data:
        data[_spot(rng, bytes(data), name)] ^= 1 << rng.randrange(8)
        place.put(name, bytes(data))


def zero(place: Place, rng: random.Random, name: str) -> None:
    data = bytearray(place.now(name))
    if data:
        at = _spot(rng, bytes(data), name)
        length = min(rng.choice([1, 64, 512, 4096]), len(data) - at)
        data[at : at + length] = bytes(length)
        place.put(name, bytes(data))


def truncate(place: Place, rng: random.Random, name: str) -> None:
    data = place.now(name)
    if data:
        place.put(name, data[: rng.choice([0, len(data) - 1, _spot(rng, data, name)])])


def delete(place: Place, _: random.Random, name: str) -> None:
    place.clear(name)


def duplicate(place: Place, rng: random.Random, name: str) -> None:
    place.put(_free_name(rng, name), place.now(name))


def swap(place: Place, rng: random.Random, name: str) -> None:
    other = _another(place, rng, name)
    one, two = place.now(name), place.now(other)
    place.put(name, two)
    place.put(other, one)


def old_copy(place: Place, rng: random.Random, name: str) -> None:
    """Another object of the kind, as an older one put back under the wrong name."""
    place.put(name, place.whole[_another(place, rng, name)])


def set_back(place: Place, rng: random.Random, name: str) -> None:
    """All objects of the kind as they were at an earlier moment."""
    before = rng.choice(place.earlier)
    kind = kind_of(name)
    kinds = {kind, "index"} if kind == "packs" and rng.random() < 0.5 else {kind}
    for each in [each for each in place.whole if kind_of(each) in kinds]:
        if each not in before:
            place.clear(each)
        elif place.now(each) != before[each]:
            place.put(each, before[each])


def append(place: Place, rng: random.Random, name: str) -> None:
    place.put(name, place.now(name) + rng.choice([b"\0", rng.randbytes(rng.randint(1, 9000))]))


def insert(place: Place, rng: random.Random, name: str) -> None:
    data = place.now(name)
    at = rng.randrange(len(data) + 1)
    place.put(name, data[:at] + rng.randbytes(rng.randint(1, 64)) + data[at:])


def rename(place: Place, rng: random.Random, name: str) -> None:
    data = place.now(name)
    folder = name.rpartition("/")[0]
    new = rng.choice([_free_name(rng, name), _free_name(rng, name), f"{folder}/copy of it"])
    place.clear(name)
    place.put(new.lstrip("/"), data)


def no_rights(place: Place, _: random.Random, name: str) -> None:
    if place.path(name).is_file() and not place.path(name).is_symlink():
        place.touched.add(name)
        place.path(name).chmod(0)


def closed_folder(place: Place, rng: random.Random, name: str) -> None:
    """Nobody may list the folder; what lies in it may still be read, or not even that."""
    folder = place.path(name).parent
    if folder == place.root or not folder.is_dir():
        return
    place.touched.update(str(p.relative_to(place.root)) for p in folder.rglob("*") if p.is_file())
    folder.chmod(rng.choice([0o000, 0o111]))


def folder_in_its_place(place: Place, rng: random.Random, name: str) -> None:
    place.clear(name)
    place.path(name).mkdir(parents=True)
    if rng.random() < 0.5:
        (place.path(name) / random_name()).write_bytes(b"something")


def link(place: Place, rng: random.Random, name: str) -> None:
    target = rng.choice(
        [
            place.path(_another(place, rng, name)),
            place.path(name),
            place.root / "nowhere",
            Path("/dev/zero"),
        ]
    )
    place.clear(name)
    place.path(name).parent.mkdir(parents=True, exist_ok=True)
    place.path(name).symlink_to(target)


Fault = Callable[[Place, random.Random, str], None]
FAULTS: dict[str, Fault] = {
    each.__name__.replace("_", " "): each
    for each in (
        flip,
        zero,
        truncate,
        delete,
        duplicate,
        swap,
        old_copy,
        set_back,
        append,
        insert,
        rename,
        no_rights,
        folder_in_its_place,
        closed_folder,
        link,
    )
}


def readable_by_all(root: Path) -> None:
    """Let a user without any rights of his own read a tree."""
    for folder, _, files in os.walk(root):
        Path(folder).chmod(0o755)
        for name in files:
            (Path(folder) / name).chmod(0o644)
