"""Night by night: what became of each VM, and how large the store was."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from catalog.connection import CatalogLocation, reading, to_utc
from likeness.model.ids import VmId
from likeness.model.outcome import VmState


@dataclass(frozen=True, slots=True)
class StoreDay:
    """The packs of the store at the end of a day.

    Attributes:
        day: In UTC.
        size_bytes: Of all packs that were there.
        new_bytes: Of those that came on that day.
    """

    day: date
    size_bytes: int
    new_bytes: int


def vm_days(catalog: CatalogLocation, now: datetime, days: int) -> dict[VmId, dict[date, VmState]]:
    """How the last run of each day ended for each VM that a run had."""
    found: dict[VmId, dict[date, VmState]] = defaultdict(dict)
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT vm_id, recorded_at::DATE, arg_max(state, recorded_at) FROM run_vms
            WHERE recorded_at >= ? AND vm_id <> '' GROUP BY ALL""",
            [to_utc(now - timedelta(days=days))],
        ).fetchall()
    for vm, day, state in rows:
        found[VmId(vm)][day] = VmState(state)
    return found


def store_days(catalog: CatalogLocation, now: datetime, days: int) -> list[StoreDay]:
    """How large the store was at the end of each day, and what was new, oldest first."""
    with reading(catalog) as connection:
        came = connection.execute(
            """SELECT recorded_at::DATE, sum(size_bytes) FROM packs
            WHERE state <> 'nowhere' GROUP BY ALL"""
        ).fetchall()
        went = connection.execute(
            """SELECT gone_at::DATE, sum(size_bytes) FROM packs
            WHERE gone_at IS NOT NULL GROUP BY ALL"""
        ).fetchall()
    new, gone = ({day: int(size) for day, size in rows} for rows in (came, went))
    today = now.date()
    each = [today - timedelta(days=back) for back in range(days - 1, -1, -1)]
    size = sum(b for d, b in new.items() if d < each[0]) - sum(
        b for d, b in gone.items() if d < each[0]
    )
    found = []
    for day in each:
        size += new.get(day, 0) - gone.get(day, 0)
        found.append(StoreDay(day, size, new.get(day, 0)))
    return found


@dataclass(frozen=True, slots=True)
class VmPace:
    """What a VM's last backups took, on average.

    Attributes:
        read_bytes: Read from the source.
        sent_bytes: Sealed bytes sent.
        seconds: While its snapshot existed.
    """

    read_bytes: int
    sent_bytes: int
    seconds: float


def vm_paces(catalog: CatalogLocation, last: int = 5) -> dict[VmId, VmPace]:
    """Of every VM that was backed up well, over its last backups."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT vm_id, avg(read_bytes), avg(sent_bytes), avg(snapshot_seconds) FROM (
                SELECT *, row_number() OVER (PARTITION BY vm_id ORDER BY recorded_at DESC) AS turn
                FROM run_vms WHERE state = 'done' AND vm_id <> ''
            ) WHERE turn <= ? GROUP BY vm_id""",
            [last],
        ).fetchall()
    return {VmId(vm): VmPace(int(read), int(sent), float(took)) for vm, read, sent, took in rows}
