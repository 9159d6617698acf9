"""In the reader's process: where the library reads wrongly, it is put right before it is used."""

from collections.abc import Mapping
from typing import Any

from dissect.fat import exfat
from dissect.util.stream import RunlistStream


def mend() -> None:
    """Let the library read whole folders of exFAT, of which it takes one cluster alone."""
    exfat.RootDirectory._parse_subdir = _folder  # type: ignore[method-assign]


def _folder(root: Any, entry: Any) -> Mapping[str, Any]:
    """What is in a folder; in one piece it is as long as it says, else as its chain."""
    disk, told = root.exfat, entry.stream
    length = told.data_length if told.flags.not_fragmented else None
    runs = disk.runlist(told.location, told.flags.not_fragmented, length)
    file = RunlistStream(disk.filesystem, runs, told.data_length, disk.sector_size)
    found: Mapping[str, Any] = root._parse_file_entries(file)
    return found
