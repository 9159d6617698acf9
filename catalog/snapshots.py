"""Snapshots that are ours: said before XenServer is asked, so that none is ever forgotten."""

from datetime import datetime

from catalog.connection import CatalogFile, from_utc, reading, to_utc, writing
from catalog.values import SnapshotIntent
from likeness.model.ids import RunId, VmId


def intend_snapshot(catalog: CatalogFile, run: RunId, vm: VmId, label: str, now: datetime) -> None:
    """Say that a snapshot is about to be taken; safe to repeat."""
    with writing(catalog) as connection:
        connection.execute(
            """INSERT INTO snapshots (run_id, vm_id, label, snapshot, intended_at)
            SELECT ?, ?, ?, '', ? WHERE NOT EXISTS (
                SELECT 1 FROM snapshots WHERE run_id = ? AND vm_id = ? AND label = ?
                AND dropped_at IS NULL)""",
            [run, vm, label, to_utc(now), run, vm, label],
        )


def snapshot_taken(catalog: CatalogFile, run: RunId, vm: VmId, label: str, snapshot: str) -> None:
    """Note what XenServer calls the snapshot that was intended."""
    with writing(catalog) as connection:
        connection.execute(
            """UPDATE snapshots SET snapshot = ?
            WHERE run_id = ? AND vm_id = ? AND label = ? AND dropped_at IS NULL""",
            [snapshot, run, vm, label],
        )


def snapshot_dropped(catalog: CatalogFile, run: RunId, vm: VmId, label: str, now: datetime) -> None:
    """Say that it is gone, or never came to be; safe to repeat."""
    with writing(catalog) as connection:
        connection.execute(
            """UPDATE snapshots SET dropped_at = ?
            WHERE run_id = ? AND vm_id = ? AND label = ? AND dropped_at IS NULL""",
            [to_utc(now), run, vm, label],
        )


def open_snapshots(catalog: CatalogFile) -> list[SnapshotIntent]:
    """Snapshots that may still exist, oldest first."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT run_id, vm_id, label, snapshot, intended_at FROM snapshots
            WHERE dropped_at IS NULL ORDER BY intended_at, rowid"""
        ).fetchall()
    return [
        SnapshotIntent(RunId(run.hex), VmId(vm.hex), label, snapshot, from_utc(at) or at)
        for run, vm, label, snapshot, at in rows
    ]
