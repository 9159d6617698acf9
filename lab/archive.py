"""XVA: a VM with its disks as one tar archive.

`ova.xml` describes the objects; references in it are `Ref:N`. Each disk is a folder of pieces of
1 MiB, numbered by their position, each followed by its xxHash; pieces of zeros are left out unless
they are the first or the last.
"""

import tarfile
from collections.abc import Iterator

import xxhash

from lab.parts.assembly import Parts
from lab.storage.disk import Disk
from lab.wire.values import NULL, Value
from lab.wire.xmlrpc import encode

PIECE_BYTES = 1 << 20
FOLLOWED = (("VBDs", "VBD"), ("VIFs", "VIF"), ("VTPMs", "VTPM"))
POINTED = {"VBD": (("VDI", "VDI"),), "VIF": (("network", "network"),)}
METRICS = (("metrics", "VM_metrics"), ("guest_metrics", "VM_guest_metrics"))
REF_PREFIX = "Ref:"


class ArchiveContents:
    """The objects of an archive and the `Ref:N` each goes by.

    Attributes:
        objects: Class and reference, in the order of their numbers.
    """

    def __init__(self, pool: Parts, vm: str) -> None:
        """Collect what belongs to a VM."""
        self._pool = pool
        self._ids: dict[str, str] = {}
        self.objects: list[tuple[str, str]] = []
        self._add_vm(vm)

    def _add(self, class_name: str, ref: str) -> None:
        if ref not in self._ids and self._pool.db.exists(class_name, ref):
            self._ids[ref] = f"{REF_PREFIX}{len(self._ids)}"
            self.objects.append((class_name, ref))

    def _add_vm(self, vm: str) -> None:
        db = self._pool.db
        record = db.record("VM", vm)
        self._add("VM", vm)
        for field, class_name in METRICS:
            self._add(class_name, record[field])
        for field, class_name in FOLLOWED:
            for ref in record[field]:
                self._add(class_name, ref)
                for other, target in POINTED.get(class_name, ()):
                    self._add(target, db.get(class_name, ref, other))
        for vdi in self.disks():
            self._add("SR", db.get("VDI", vdi, "SR"))

    def disks(self) -> list[str]:
        """The VDIs of the archive."""
        return [ref for class_name, ref in self.objects if class_name == "VDI"]

    def folder(self, vdi: str) -> str:
        """The folder of a disk's pieces."""
        return self._ids[vdi]

    def _plain(self, value: Value) -> Value:
        if isinstance(value, str) and value.startswith("OpaqueRef:"):
            return self._ids.get(value, NULL)
        if isinstance(value, list):
            known = [self._plain(item) for item in value]
            return [item for item in known if item != NULL]
        return value

    def xml(self) -> bytes:
        """Write `ova.xml`."""
        db = self._pool.db
        major, minor = self._pool.facts.api_version
        version = {
            "hostname": "lab",
            "date": "1970-01-01",
            "product_version": "8.3.0",
            "product_brand": "XCP-ng",
            "build_number": "0",
            "xapi_major": major,
            "xapi_minor": minor,
            "export_vsn": 2,
        }
        objects = []
        for class_name, ref in self.objects:
            record = {k: self._plain(v) for k, v in db.record(class_name, ref).items()}
            objects.append({"class": class_name, "id": self._ids[ref], "snapshot": record})
        return encode({"version": version, "objects": objects}).encode()


def _entry(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    padding = bytes(-len(data) % tarfile.BLOCKSIZE)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + padding


def write_archive(pool: Parts, vm: str) -> Iterator[bytes]:
    """Yield the bytes of a VM's archive."""
    description = ArchiveContents(pool, vm)
    yield _entry("ova.xml", description.xml())
    for vdi in description.disks():
        folder = description.folder(vdi)
        for number, piece in _pieces(pool.storage.disk(vdi)):
            name = f"{folder}/{number:08d}"
            yield _entry(name, piece)
            yield _entry(f"{name}.xxhash", xxhash.xxh64(piece).hexdigest().encode())
    yield bytes(2 * tarfile.BLOCKSIZE)


def _pieces(disk: Disk) -> Iterator[tuple[int, bytes]]:
    last = max(0, -(-disk.size // PIECE_BYTES) - 1)
    for number in range(last + 1 if disk.size else 0):
        start = number * PIECE_BYTES
        end = min(start + PIECE_BYTES, disk.size)
        zero = all(segment.file is None for segment in disk.segments(start, end))
        if number in (0, last) or not zero:
            piece = disk.read(start, end - start)
            if number in (0, last) or piece.count(0) < len(piece):
                yield number, piece
