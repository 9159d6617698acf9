"""In the reader's process: where the library reads wrongly, it is put right before it is used."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, get_type_hints

from dissect.btrfs import btrfs
from dissect.btrfs.c_btrfs import c_btrfs
from dissect.extfs import extfs
from dissect.fat import exfat
from dissect.util.stream import RunlistStream
from dissect.volume.disk.schemes import mbr
from dissect.volume.lvm.metadata import Segment

_subvolume = btrfs.Btrfs.open_subvolume
_with_all = Segment._from_dict
_table_read = mbr.MBR.__init__
_ext_opened = extfs.ExtFS.__init__
_of_indirect, _runs_of = extfs._parse_indirect, extfs.INode.dataruns


def mend() -> None:
    """Each of these is one fault of the library."""
    btrfs.Btrfs.open_subvolume = _where_it_lies
    extfs.ExtFS.__init__ = _with_its_last_node
    mbr.MBR.__init__ = _counted_as_linux_does
    extfs._parse_indirect = _nothing_at_nowhere
    extfs.INode.dataruns = _holes_to_the_end
    exfat.RootDirectory._parse_subdir = _folder
    Segment._from_dict = _with_what_is_there


def _where_it_lies(disk: Any, number: int, parent: Any = None) -> Any:
    """Where a snapshot has the name of a subvolume of its origin, btrfs itself shows nothing.

    The library would go into the subvolume, as it is today, and from there to the snapshot again.
    """
    if isinstance(parent, btrfs.INode):
        try:
            disk._root_tree.find(parent.subvolume.objectid, c_btrfs.BTRFS_ROOT_REF_KEY, number)
        except KeyError:
            return SimpleNamespace(root=None)
    return _subvolume(disk, number, parent)


def _with_its_last_node(disk: Any, file: Any) -> None:
    """When folders are read, the library takes the last inode for one that cannot be."""
    _ext_opened(disk, file)
    disk.sb.s_inodes_count += 1


def _counted_as_linux_does(table: Any, file: Any, sector_size: int = 512) -> None:
    """Logical partitions are 5 and on; the library gives them numbers that others have."""
    _table_read(table, file, sector_size)
    logical = [p for p in table.partitions if not any(p.raw is each for each in table.mbr.part)]
    for number, partition in enumerate(logical, 5):
        partition.number = number


def _nothing_at_nowhere(inode: Any, offset: int, blocks: int, level: int) -> Any:
    """A table of tables of ext3 that is not there is a hole, and not what the first block says."""
    most = (inode.extfs.block_size // 4) ** level
    return _of_indirect(inode, offset, blocks, level) if offset else [0] * min(blocks, most)


def _holes_to_the_end(inode: Any) -> list[tuple[int | None, int]]:
    """A file of ext3 may end in a hole, which the library takes for the first block of the disk."""
    return [(place or None, count) for place, count in _runs_of(inode)]


def _folder(root: Any, entry: Any) -> Mapping[str, Any]:
    """A folder of exFAT in one piece is as long as it says; the library takes one cluster of it."""
    disk, told = root.exfat, entry.stream
    length = told.data_length if told.flags.not_fragmented else None
    runs = disk.runlist(told.location, told.flags.not_fragmented, length)
    file = RunlistStream(disk.filesystem, runs, told.data_length, disk.sector_size)
    found: Mapping[str, Any] = root._parse_file_entries(file)
    return found


def _with_what_is_there(
    segment: Any, told: Mapping[str, Any], name: str | None = None, parent: Any = None
) -> None:
    """LVM writes down of a segment what is not as ever; the library wants all, as of RAID."""
    _with_all(segment, {**dict.fromkeys(get_type_hints(type(segment))), **told}, name, parent)
