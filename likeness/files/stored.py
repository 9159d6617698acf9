"""In the reader's process: which bytes of a file its file system has stored.

Room may be set aside for a file before anything is written to it. What lies there is whatever was
on the disk before, often of files long deleted; the guest reads zeros, and so does everybody else.
"""

from collections.abc import Iterator
from typing import Any

from dissect.util.stream import RunlistStream

_EXT_ENCRYPTED = 0x800
_UNWRITTEN = 3  # where the library says so of an extent of XFS


def inside(folder: Any) -> Iterator[Any]:
    """What is in a folder; see `mended` for what only seems to be.

    Raises:
        ValueError: The names in it are encrypted.
    """
    require_clear(folder)
    return (entry for entry in folder.scandir() if entry.entry is not None)


def require_clear(entry: Any) -> None:
    """Of what a guest has encrypted nothing is read, neither bytes nor names."""
    if entry.fs.__type__ == "ext" and int(entry.entry.inode.i_flags) & _EXT_ENCRYPTED:
        raise ValueError("it is encrypted in the guest")


def stream_of(entry: Any) -> Any:
    """The bytes of a file, with zeros for what XFS only set aside for it."""
    file = entry.open()
    if entry.fs.__type__ == "xfs" and type(file) is RunlistStream:
        file.runlist = _written_runs(entry.entry)
    if entry.fs.__type__ == "exfat":
        file.block_size = entry.fs.exfat.sector_size  # what the library counts its runs in
    return file


def _written_runs(node: Any) -> list[tuple[int | None, int]]:
    """Its runs as the library makes them of its extents, and the unwritten ones as holes."""
    extents = node._iter_blocks()
    return [
        (None, count) if place is None or next(extents)[_UNWRITTEN] else (place, count)
        for place, count in node.dataruns
    ]


def written_bytes(entry: Any, size: int) -> int:
    """How many of a file's bytes, from its first one on, were ever written."""
    if entry.fs.__type__ == "ntfs":
        for each in entry.entry.attributes.DATA:
            header = each.header
            if not (header.name or header.resident or header.lowest_vcn):
                return min(size, int(header.header.Form.Nonresident.ValidDataLength))
    if entry.fs.__type__ == "exfat":
        return min(size, int(entry.entry[0].stream.valid_data_length))
    return size
