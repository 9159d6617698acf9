"""In the reader's process: which file systems a version's disks hold, by name."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import msgspec
from dissect.btrfs.c_btrfs import c_btrfs
from dissect.target.filesystem import Filesystem
from dissect.target.filesystems.btrfs import BtrfsFilesystem
from dissect.target.filesystems.exfat import ExfatFilesystem
from dissect.target.filesystems.extfs import ExtFilesystem
from dissect.target.filesystems.fat import FatFilesystem
from dissect.target.filesystems.ntfs import NtfsFilesystem
from dissect.target.filesystems.xfs import XfsFilesystem
from dissect.target.volumes.disk import DissectVolumeSystem
from dissect.target.volumes.lvm import LvmVolumeSystem

from likeness.files.journals import remark
from likeness.files.logical import logical_volumes
from likeness.files.mended import mend
from likeness.files.messages import Volume
from likeness.files.sources import DiskFile

mend()

_KNOWN = (
    NtfsFilesystem,
    ExtFilesystem,
    XfsFilesystem,
    FatFilesystem,
    ExfatFilesystem,
    BtrfsFilesystem,
)
_IN_THE_BOOT_SECTOR = (NtfsFilesystem, FatFilesystem, ExfatFilesystem)  # it looks like an MBR
_OTHERS = (
    (0, b"LUKS\xba\xbe", "encrypted by LUKS: it cannot be read without its key"),
    (3, b"-FVE-FS-", "encrypted by BitLocker: it cannot be read without its key"),
    (4086, b"SWAPSPACE2", "swap space: no files"),
)
_LARGE_FOLDERS = (  # the library would leave out what is in the rest of each
    "xfs, with folders in blocks of more than its own size: they cannot be read here; restore the"
    " disk and mount it"
)
_META_BG = 0x10
_SPREAD_TABLES = (  # the library would look for all but the first where other things are
    "ext4, with the tables of its groups all over the disk (meta_bg): it cannot be read here;"
    " restore the disk and mount it"
)
_LOST_GROUP = "of an LVM group that cannot be read here: a disk of it may be missing"


@dataclass(frozen=True)
class FoundVolume:
    """A volume as it is told of, and its file system if it has one."""

    told: Volume
    files: Any = None  # a Filesystem


@dataclass(frozen=True)
class _Piece:
    name: str
    disks: tuple[int, ...]
    size_bytes: int
    file: BinaryIO
    not_read: str = ""


def find_volumes(disks: list[tuple[str, DiskFile]]) -> list[FoundVolume]:
    """Every volume of these disks: partitions, whole disks, and LVM across them."""
    pieces: list[_Piece] = []
    for position, disk in disks:
        pieces.extend(_pieces_of(position, disk))
    grouped, logical = _lvm(pieces)
    found: list[FoundVolume] = []
    btrfs: dict[bytes, list[_Piece]] = {}
    for piece in [*(p for p in pieces if p not in grouped), *logical]:
        if piece.not_read:
            found.append(FoundVolume(_told(piece, "", piece.not_read)))
        elif _is(BtrfsFilesystem, piece.file):
            btrfs.setdefault(BtrfsFilesystem.detect_id(piece.file) or b"", []).append(piece)
        else:
            found.append(_looked_at(piece))
    for members in btrfs.values():
        found.append(_opened(members[0], BtrfsFilesystem, [m.file for m in members]))
    return _named_apart(sorted(found, key=lambda each: each.told.name))


def _pieces_of(position: str, disk: DiskFile) -> Iterator[_Piece]:
    whole = _Piece(position, (disk.number,), disk.size, cast("BinaryIO", disk))
    kind = _kind(whole.file)
    volumes = [] if kind in _IN_THE_BOOT_SECTOR else _partitions(disk)
    if kind is not None or not volumes:
        yield whole
    for number, volume in enumerate(volumes, 1):
        yield _Piece(
            f"{position}-{volume.number or number}", (disk.number,), volume.size or 0, volume
        )


def _partitions(disk: DiskFile) -> list[Any]:
    disk.seek(0)
    try:
        return [v for v in DissectVolumeSystem(disk).volumes if v.size]
    except Exception:  # noqa: BLE001 -- a guest's bytes may make the library fail in any way
        return []


def _lvm(pieces: list[_Piece]) -> tuple[list[_Piece], list[_Piece]]:
    """The pieces that are in whole volume groups, and the logical volumes there."""
    members = [piece for piece in pieces if _in_lvm(piece.file)]
    logical: list[_Piece] = []
    grouped: list[_Piece] = []
    try:
        groups = list(LvmVolumeSystem.open_all([piece.file for piece in members]))
    except Exception:  # noqa: BLE001 -- as above
        groups = []
    for group in groups:
        inside = [p for p in members if any(p.file is one for one in group.disk)]
        disks = tuple(sorted({number for piece in inside for number in piece.disks}))
        try:
            volumes = [
                _Piece(each.name, disks, each.size_bytes, each.file, each.not_read)
                for each in logical_volumes(group.lvm.volume_group)
            ]
        except Exception:  # noqa: BLE001 -- as above; its pieces are told of as they are
            volumes = []
        grouped += inside if volumes else []
        logical += volumes
    return grouped, logical


def _in_lvm(file: BinaryIO) -> bool:
    try:
        return bool(LvmVolumeSystem.detect_volume(file))
    except Exception:  # noqa: BLE001 -- as above
        return False


def _looked_at(piece: _Piece) -> FoundVolume:
    if (kind := _kind(piece.file)) is not None:
        return _opened(piece, kind, piece.file)
    note = _LOST_GROUP if _in_lvm(piece.file) else _other(piece.file)
    return FoundVolume(_told(piece, "", note))


def _opened(piece: _Piece, kind: type[Filesystem], files: object) -> FoundVolume:
    try:
        opened = kind(files)
    except Exception as cause:  # noqa: BLE001 -- as above
        return FoundVolume(
            _told(piece, "", f"{kind.__type__}, but it cannot be read: {cause!r}"[:200])
        )
    if why := _read_in_part(kind, opened):
        return FoundVolume(_told(piece, "", why))
    if kind is BtrfsFilesystem:  # from its top, wherever the guest begins
        opened = opened.open_subvolume(subvolid=c_btrfs.BTRFS_FS_TREE_OBJECTID)
    return FoundVolume(_told(piece, kind.__type__, remark(opened)), opened)


def _read_in_part(kind: type[Filesystem], opened: Any) -> str:
    """Why much of a file system would be missing, if so."""
    if kind is XfsFilesystem and opened.xfs.sb.sb_dirblklog:
        return _LARGE_FOLDERS
    if kind is ExtFilesystem and opened.extfs.sb.s_feature_incompat & _META_BG:
        return _SPREAD_TABLES
    return ""


def _told(piece: _Piece, kind: str, note: str) -> Volume:
    name = piece.name.encode(errors="backslashreplace").replace(b"/", b"-").replace(b"\0", b"")
    return Volume(name[:200] or b"unnamed", piece.disks, piece.size_bytes, kind, note)


def _kind(file: BinaryIO) -> type[Filesystem] | None:
    return next((kind for kind in _KNOWN if _is(kind, file)), None)


def _is(kind: type[Filesystem], file: BinaryIO) -> bool:
    try:
        return bool(kind.detect(file))
    except Exception:  # noqa: BLE001 -- as above
        return False


def _other(file: BinaryIO) -> str:
    file.seek(0)
    try:
        begin = file.read(4096)
    except Exception:  # noqa: BLE001 -- as above
        return "it cannot be read"
    for offset, magic, meaning in _OTHERS:
        if begin[offset : offset + len(magic)] == magic:
            return meaning
    return "no file system that is known here"


def _named_apart(found: list[FoundVolume]) -> list[FoundVolume]:
    """No two volumes of one name: a guest may have named its groups as it likes."""
    seen: dict[bytes, int] = {}
    apart: list[FoundVolume] = []
    for each in found:
        name = each.told.name
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            other = msgspec.structs.replace(each.told, name=name + b"~%d" % seen[name])
            each = FoundVolume(other, each.files)
        apart.append(each)
    return apart
