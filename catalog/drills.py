"""Drills: when a VM was last restored and started for a trial, and how that ended."""

from dataclasses import dataclass
from datetime import datetime

from catalog.connection import CatalogLocation, from_utc, reading, to_utc, writing
from likeness.model.ids import VersionId, VmId, as_uuid


@dataclass(frozen=True, slots=True)
class Drill:
    """One trial.

    Attributes:
        vm: Whose version was restored.
        version: Which.
        ended_at: When it was over.
        well: Whether the guest came up, or the script was content.
        said: In words.
    """

    vm: VmId
    version: VersionId
    ended_at: datetime
    well: bool
    said: str


def record_drill(catalog: CatalogLocation, drill: Drill) -> None:
    """Note a drill."""
    with writing(catalog) as connection:
        connection.execute(
            "INSERT INTO drills (vm_id, version_id, ended_at, well, said) VALUES (?, ?, ?, ?, ?)",
            [
                as_uuid(drill.vm),
                as_uuid(drill.version),
                to_utc(drill.ended_at),
                drill.well,
                drill.said,
            ],
        )


def last_drills(catalog: CatalogLocation) -> dict[VmId, Drill]:
    """Each VM's last drill."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT vm_id, version_id, ended_at, well, said FROM drills
            QUALIFY row_number() OVER (PARTITION BY vm_id ORDER BY ended_at DESC) = 1"""
        ).fetchall()
    found = [
        Drill(VmId(row[0].hex), VersionId(row[1].hex), from_utc(row[2]) or row[2], row[3], row[4])
        for row in rows
    ]
    return {each.vm: each for each in found}


def last_good_drills(catalog: CatalogLocation) -> dict[VmId, datetime]:
    """When each VM last came up in a drill."""
    with reading(catalog) as connection:
        rows = connection.execute(
            "SELECT vm_id, max(ended_at) FROM drills WHERE well GROUP BY vm_id"
        ).fetchall()
    return {VmId(row[0].hex): from_utc(row[1]) or row[1] for row in rows}
