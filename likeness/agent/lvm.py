"""Volumes of LVM on a guest's disks, and snapshots of them.

Device-mapper lets a mounted file system write out and holds it still while its snapshot is taken,
as fsfreeze would; freezing it before that makes the snapshot fail.
"""

import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from likeness.agent.commands import environment, run
from likeness.agent.patched import Patch
from likeness.clock import stopwatch
from likeness.errors import BadInput
from likeness.model.ids import random_name

BLOCKS = Path("/sys/class/block")
_REPORT = ("--reportformat", "json", "--units", "b", "--nosuffix")
_RANGE = re.compile(r"(?P<pv>\S+):(?P<first>\d+)-(?P<last>\d+)\Z")
_INVALID = 4
_REMOVE_SECONDS = 20.0
_LEAST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a volume that lies in one stretch on one of the disks."""

    disk: int
    offset: int
    length: int
    volume_offset: int


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """A volume of LVM whose snapshot can stand for it.

    Attributes:
        group: Its volume group.
        name: Within that.
        device: What the kernel calls it.
        room_bytes: How much its snapshot may take in.
        pieces: Where it lies.
        metadata: What LVM wrote at the beginning of its disks, before anything is made: number of
            the disk, and the bytes.
    """

    group: str
    name: str
    device: str
    room_bytes: int
    pieces: tuple[Piece, ...]
    metadata: tuple[tuple[int, Patch], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot of a volume.

    Attributes:
        group: Its volume group.
        name: Within that.
        path: Where it is read.
        volume: What it is of.
        device: What the kernel calls that.
    """

    group: str
    name: str
    path: str
    volume: str
    device: str


@dataclass(frozen=True, slots=True)
class _Physical:
    """A physical volume that lies on one of the disks."""

    disk: int
    start: int
    first_extent: int
    extent_bytes: int


def volumes_on(disks: Sequence[str]) -> list[LogicalVolume]:
    """The active volumes on some disks of which a snapshot can be read in their place.

    Those that are thin, striped or mirrored are left out: their snapshots lie elsewhere.

    Raises:
        BadInput: LVM is there and does not answer.
    """
    if not _is_there():
        return []
    physical, free = _physical_on(disks)
    segments: dict[tuple[str, str], list[Mapping[str, str]]] = defaultdict(list)
    told = "vg_name,lv_name,lv_path,lv_size,lv_active,segtype,seg_start,seg_pe_ranges,seg_size"
    for row in _rows("lvs", "lv", told) if physical else ():
        segments[row["vg_name"], row["lv_name"]].append(row)
    fit = {
        key: pieces for key, rows in segments.items() if (pieces := tuple(_pieces(rows, physical)))
    }
    metadata = {each: _metadata(disks, each) for each in physical.values()} if fit else {}
    shares = {group: sum(key[0] == group for key in fit) for group, _ in fit}
    return [
        LogicalVolume(
            group,
            name,
            Path(os.path.realpath(segments[group, name][0]["lv_path"])).name,
            min(free[group] // shares[group], int(segments[group, name][0]["lv_size"])),
            pieces,
            tuple((each.disk, patch) for each, patch in metadata.items()),
        )
        for (group, name), pieces in fit.items()
    ]


def take_snapshot(volume: LogicalVolume, mark: str) -> Snapshot:
    """Take one, as large as there is room.

    Raises:
        BadInput: There is no room, or LVM refuses.
    """
    what = f"{volume.group}/{volume.name}"
    if volume.room_bytes < _LEAST_BYTES:
        raise BadInput(
            f"volume group {volume.group} of the guest has no room for a snapshot of {what}, which"
            " is read while it is in use; leave some of the group free"
        )
    name = f"likeness-{random_name()[:12]}"
    run(
        [
            *("lvcreate", "--snapshot", "--yes", "-qq", "--setactivationskip", "n"),
            *("--addtag", mark, "--name", name, "--size", f"{volume.room_bytes}b", what),
        ]
    )
    path = f"/dev/{volume.group}/{name}"
    for row in _rows("lvs", "lv", "lv_name,lv_path"):
        if row["lv_name"] == name:
            path = row["lv_path"]
    return Snapshot(volume.group, name, path, what, volume.device)


def is_whole(snapshot: Snapshot) -> bool:
    """Whether it still has all it should: one that ran full has not."""
    for row in _rows("lvs", "lv", "vg_name,lv_name,lv_attr"):
        if (row["vg_name"], row["lv_name"]) == (snapshot.group, snapshot.name):
            return row["lv_attr"][_INVALID : _INVALID + 1] not in ("I", "S", "")
    return False


def remove(snapshot: Snapshot) -> None:
    """Remove a snapshot; for a moment something may still look at it.

    Raises:
        BadInput: It stays; the next backup of this guest tries again.
    """
    begun = stopwatch()
    while True:
        try:
            run(["lvremove", "--force", "-qq", f"{snapshot.group}/{snapshot.name}"])
        except BadInput:
            if stopwatch() - begun > _REMOVE_SECONDS:
                raise
        else:
            return


def drop_left_over(mark: str) -> None:
    """Remove what an agent that died has left."""
    for row in _rows("lvs", "lv", "vg_name,lv_name,lv_path,lv_tags") if _is_there() else ():
        if mark in row["lv_tags"].split(","):
            with suppress(BadInput):
                remove(Snapshot(row["vg_name"], row["lv_name"], row["lv_path"], "", ""))


def _is_there() -> bool:
    return shutil.which("lvs", path=environment()["PATH"]) is not None


def _rows(program: str, kind: str, fields: str) -> list[dict[str, str]]:
    said = run([program, *_REPORT, "-o", fields])
    try:
        report: Any = json.loads(said)["report"]
        return [row for part in report for row in part[kind]]
    except (ValueError, KeyError, TypeError) as cause:
        raise BadInput(f"{program} in the guest says nothing that can be read") from cause


def _physical_on(disks: Sequence[str]) -> tuple[dict[str, _Physical], dict[str, int]]:
    """Physical volumes on the disks by name, and what is free in each volume group."""
    found, free = {}, {}
    for row in _rows("pvs", "pv", "pv_name,pe_start,vg_name,vg_extent_size,vg_free"):
        place = _located(row["pv_name"], disks) if row["vg_name"] else None
        if place is not None:
            disk, start = place
            found[row["pv_name"]] = _Physical(
                disk, start, int(row["pe_start"]), int(row["vg_extent_size"])
            )
            free[row["vg_name"]] = int(row["vg_free"])
    return found, free


def _located(device: str, disks: Sequence[str]) -> tuple[int, int] | None:
    """On which of the disks a device lies, and where it begins there."""
    real = [os.path.realpath(disk) for disk in disks]
    path = os.path.realpath(device)
    if path in real:
        return real.index(path), 0
    here = (BLOCKS / Path(path).name).resolve()
    disk = f"/dev/{here.parent.name}"
    if (here / "partition").exists() and disk in real:
        return real.index(disk), int((here / "start").read_text()) * 512
    return None


def _pieces(
    rows: Sequence[Mapping[str, str]], physical: Mapping[str, _Physical]
) -> Iterator[Piece]:
    """Where a volume lies; nothing if a snapshot of it could not be read in its place."""
    if any(row["segtype"] != "linear" or row["lv_active"] != "active" for row in rows):
        return
    for row in rows:
        where = _RANGE.match(row["seg_pe_ranges"])
        on = physical.get(where["pv"]) if where else None
        if where is not None and on is not None:
            offset = on.start + on.first_extent + int(where["first"]) * on.extent_bytes
            yield Piece(on.disk, offset, int(row["seg_size"]), int(row["seg_start"]))


def _metadata(disks: Sequence[str], physical: _Physical) -> Patch:
    """What stands before the first extent, as it is now: without our snapshots."""
    with Path(disks[physical.disk]).open("rb") as disk:
        disk.seek(physical.start)
        return Patch(physical.start, physical.first_extent, disk.read(physical.first_extent))
