"""XVA: a VM with its disks as one tar archive.

`ova.xml` describes the objects; references in it are `Ref:N`. Each disk is a folder of pieces of
1 MiB, numbered by their position, each followed by its xxHash; pieces of zeros are left out unless
they are the first or the last.
"""

import tarfile
from collections.abc import Iterator
from typing import IO
from xml.etree import ElementTree

import xxhash

from lab.database import Record
from lab.facts import Facts
from lab.failures import XapiFailure
from lab.parts.assembly import Parts
from lab.parts.machines import random_mac
from lab.storage.disk import Disk
from lab.wire.values import NULL, Value, coerce, is_null
from lab.wire.xmlrpc import decode, encode

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


class ArchiveReader:
    """Brings the VMs of an archive into a pool.

    Attributes:
        restore: Keep uuids and MAC addresses.
    """

    def __init__(self, pool: Parts, sr: str, *, restore: bool) -> None:
        self._pool = pool
        self._sr = sr
        self.restore = restore
        self._new: dict[str, str] = {}

    def read(self, stream: IO[bytes]) -> list[str]:
        """Take an archive; returns the references of its VMs."""
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=64 * tarfile.BLOCKSIZE) as tar:
                return self._take(tar)
        except (tarfile.TarError, ElementTree.ParseError, KeyError, ValueError) as cause:
            self._undo()
            raise XapiFailure("IMPORT_ERROR", str(cause)) from cause
        except (XapiFailure, OSError):
            self._undo()
            raise

    def _undo(self) -> None:
        """Leave nothing of an archive that could not be taken as a whole."""
        db = self._pool.db
        with db.lock:
            for ref in self._new.values():
                if db.exists("VM", ref):
                    self._pool.machines.drop_vm(ref)
            for ref in self._new.values():
                if db.exists("VDI", ref):
                    self._pool.storage.drop_vdi(ref)

    def _take(self, tar: tarfile.TarFile) -> list[str]:
        vms: list[str] = []
        pending: tuple[str, bytes] = ("", b"")
        for member in tar:
            content = tar.extractfile(member)
            data = content.read() if content else b""
            if member.name == "ova.xml":
                vms = self._make(decode(ElementTree.fromstring(data))["objects"])
            elif member.name.endswith(".xxhash"):
                if xxhash.xxh64(pending[1]).hexdigest().encode() != data:
                    raise XapiFailure("IMPORT_ERROR", f"checksum of {pending[0]}")
            else:
                folder, number = member.name.split("/")
                self._pool.storage.disk(self._new[folder]).write(int(number) * PIECE_BYTES, data)
                pending = (member.name, data)
        return vms

    def _make(self, objects: list[Record]) -> list[str]:
        by_class: dict[str, list[Record]] = {}
        for each in objects:
            by_class.setdefault(each["class"], []).append(each)
        for each in by_class.get("network", []):
            self._new[each["id"]] = self._network(each["snapshot"])
        for each in by_class.get("VDI", []):
            self._new[each["id"]] = self._disk(each["snapshot"])
        for each in by_class.get("VM", []):
            self._new[each["id"]] = self._vm(each["snapshot"])
        for class_name in ("VBD", "VIF"):
            for each in by_class.get(class_name, []):
                self._device(class_name, each["snapshot"])
        return [self._new[each["id"]] for each in by_class.get("VM", [])]

    def _network(self, record: Record) -> str:
        db = self._pool.db
        same = db.where("network", uuid=record["uuid"])
        same = same or db.where("network", name_label=record["name_label"])
        return (same or db.refs("network"))[0]

    def _disk(self, record: Record) -> str:
        given = {name: self._fit("VDI", name, record) for name in ("type", "sharable", "read_only")}
        texts = {
            name: self._fit("VDI", name, record)
            for name in ("name_label", "name_description", "other_config", "tags")
        }
        disk = self._pool.storage.empty_disk(int(record["virtual_size"]))
        return self._pool.storage.add_vdi(disk, SR=self._sr, **given, **texts)

    def _fit(self, class_name: str, field: str, record: Record) -> Value:
        facts: Facts = self._pool.facts
        return coerce(
            record[field], facts.classes[class_name].fields[field].type, field, facts.enums
        )

    def _fields(self, class_name: str, record: Record, *, leave: tuple[str, ...]) -> Record:
        message = self._pool.facts.classes[class_name].messages["create"]
        names = [marked.rstrip("*") for marked in message.constructor or ()]
        known = [name for name in names if name in record and name not in leave]
        return {name: self._fit(class_name, name, record) for name in known}

    def _vm(self, record: Record) -> str:
        leave = ("power_state", "suspend_VDI", "affinity", "appliance", "suspend_SR")
        fields = self._fields("VM", record, leave=leave)
        if self.restore:
            if self._pool.db.where("VM", uuid=record["uuid"]):
                raise XapiFailure("DUPLICATE_VM", record["uuid"])
            fields["uuid"] = record["uuid"]
        return self._pool.machines.add_vm_record(**fields)

    def _device(self, class_name: str, record: Record) -> None:
        fields = self._fields(class_name, record, leave=("VM", "VDI", "network"))
        fields |= {"VM": self._new[record["VM"]], "currently_attached": False}
        if class_name == "VBD":
            fields["VDI"] = NULL if is_null(record["VDI"]) else self._new[record["VDI"]]
        else:
            fields["network"] = self._new[record["network"]]
            if not self.restore:
                fields |= {"MAC": random_mac(), "MAC_autogenerated": True}
        self._pool.db.create(class_name, **fields)
