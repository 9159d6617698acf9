"""In the reader's process: where the library reads wrongly, it is put right before it is used."""

from collections.abc import Mapping
from typing import Any, get_type_hints

from dissect.fat import exfat
from dissect.util.stream import RunlistStream
from dissect.volume.lvm.metadata import Segment

_with_all = Segment._from_dict


def mend() -> None:
    """Of a folder of exFAT it takes one cluster alone; of LVM no group that has RAID in it."""
    exfat.RootDirectory._parse_subdir = _folder
    Segment._from_dict = _with_what_is_there


def _folder(root: Any, entry: Any) -> Mapping[str, Any]:
    """What is in a folder; in one piece it is as long as it says, else as its chain."""
    disk, told = root.exfat, entry.stream
    length = told.data_length if told.flags.not_fragmented else None
    runs = disk.runlist(told.location, told.flags.not_fragmented, length)
    file = RunlistStream(disk.filesystem, runs, told.data_length, disk.sector_size)
    found: Mapping[str, Any] = root._parse_file_entries(file)
    return found


def _with_what_is_there(
    segment: Any, told: Mapping[str, Any], name: str | None = None, parent: Any = None
) -> None:
    """LVM writes down of a segment what is not as ever; the library wants all of it."""
    _with_all(segment, {**dict.fromkeys(get_type_hints(type(segment))), **told}, name, parent)
