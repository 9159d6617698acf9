"""In the reader's process: whether a file system's journal holds what is not in its place yet.

A disk that was frozen while its VM ran has such a journal. It is not played back here, so what is
newest is missing, or is as it was before; that is told.
"""

import struct
from collections.abc import Callable
from typing import Any

IN_THE_JOURNAL = (
    "it was in use: changes that its journal alone holds are not read, so that what is newest may"
    " be missing or as it was before; restore the disk to have it"
)
_EXT_RECOVER = 0x4
_SECTOR = 512
_XFS_RECORD = 0xFEEDBABE
_XFS_LONGEST = 8192  # sectors that one record takes, and more
_XFS_UNMOUNTED = 0x20
_NTFS_NO_CLIENT, _NTFS_CLEAN = 0xFFFF, 2


def remark(opened: Any) -> str:
    """What people must know of a file system that can be read; empty if it was put away well."""
    try:
        return IN_THE_JOURNAL if _HOLDS[opened.__type__](opened) else ""
    except Exception:  # noqa: BLE001 -- a guest's bytes may make the library fail in any way
        return IN_THE_JOURNAL


def _ext(opened: Any) -> bool:
    return bool(opened.extfs.sb.s_feature_incompat & _EXT_RECOVER)


def _btrfs(opened: Any) -> bool:
    return bool(opened.btrfs.sb.log_root)


def _ntfs(opened: Any) -> bool:
    """By the newer of the two pages with which its journal begins."""
    file = opened.ntfs.mft.get("$LogFile").open()
    pages = []
    for at in (0, 4096):
        file.seek(at)
        page = file.read(4096)
        if page[:4] == b"RSTR":
            (area,) = struct.unpack_from("<H", page, 0x18)
            pages.append(struct.unpack_from("<QxxxxHH", page, area))
    if not pages:
        return False  # emptied by who put it away
    _, client, flags = max(pages)
    return client != _NTFS_NO_CLIENT and not flags & _NTFS_CLEAN


def _xfs(opened: Any) -> bool:
    """Whether anything but the record of a clean unmount is the last in its journal."""
    sb, file = opened.xfs.sb, opened.xfs.fh
    group, block = divmod(sb.sb_logstart, 1 << sb.sb_agblklog)
    start = (group * sb.sb_agblocks + block) * sb.sb_blocksize
    count = sb.sb_logblocks * sb.sb_blocksize // _SECTOR
    if not sb.sb_logstart or not count:
        return True  # it is on another disk

    def sector(number: int) -> bytes:
        file.seek(start + number * _SECTOR)
        return bytes(file.read(_SECTOR))

    end = _end_of_log(sector, count)
    for at in range(end - 1, max(end - _XFS_LONGEST, -1), -1):
        header = sector(at)
        if int.from_bytes(header[:4], "big") == _XFS_RECORD:
            return not _is_unmount(header, sector, at, end)
    return bool(end)


def _is_unmount(header: bytes, sector: Callable[[int], bytes], at: int, end: int) -> bool:
    length, operations = (struct.unpack_from(">I", header, place)[0] for place in (12, 40))
    version, size = (struct.unpack_from(">I", header, place)[0] for place in (8, 320))
    headers = max(-(-size // (32 << 10)), 1) if version & 2 else 1
    last = at + headers - (-length // _SECTOR) == end
    return bool(last and operations == 1 and sector(at + headers)[9] & _XFS_UNMOUNTED)


def _end_of_log(sector: Callable[[int], bytes], count: int) -> int:
    """The first sector that was not written in the newest round; each bears its round's number."""

    def round_of(number: int) -> int:
        data = sector(number)
        head = int.from_bytes(data[:4], "big")
        return int.from_bytes(data[4:8], "big") if head == _XFS_RECORD else head

    newest = round_of(0)
    if newest == 0:
        return 0  # never written
    below, above = 0, count
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if round_of(middle) == newest else (below, middle)
    return above


def _none(opened: Any) -> bool:
    del opened
    return False


_HOLDS: dict[str, Callable[[Any], bool]] = {
    "ext": _ext,
    "xfs": _xfs,
    "btrfs": _btrfs,
    "ntfs": _ntfs,
    "fat": _none,
    "exfat": _none,
}
