"""Runs: what was begun, how it ended, and what became of every VM in it."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from catalog.connection import CatalogLocation, Connection, from_utc, reading, to_utc, writing
from catalog.values import RunRow
from likeness.errors import BadInput
from likeness.model.ids import RunId, VmId
from likeness.model.outcome import VmOutcome, VmState

RUNNING = "running"


def begin_run(catalog: CatalogLocation, run: RunId, job: str, now: datetime) -> None:
    """Say that a run has begun; safe to repeat: a run that is begun again goes on."""
    with writing(catalog) as connection:
        if _known(connection, run):
            connection.execute(
                """UPDATE runs SET finished_at = NULL, state = ?, sentence = ''
                WHERE run_id = ?""",
                [RUNNING, run],
            )
        else:
            connection.execute(
                """INSERT INTO runs (run_id, job, begun_at, state, sentence)
                VALUES (?, ?, ?, ?, '')""",
                [run, job, to_utc(now), RUNNING],
            )


def finish_run(
    catalog: CatalogLocation, run: RunId, state: str, sentence: str, now: datetime
) -> None:
    """Say how a run ended; safe to repeat.

    Raises:
        BadInput: It was never begun.
    """
    with writing(catalog) as connection:
        if not _known(connection, run):
            raise BadInput(f"run {run} was never begun, so it cannot end")
        connection.execute(
            "UPDATE runs SET finished_at = ?, state = ?, sentence = ? WHERE run_id = ?",
            [to_utc(now), state, sentence, run],
        )


def record_outcome(
    catalog: CatalogLocation,
    run: RunId,
    outcome: VmOutcome,
    now: datetime,
    *,
    transfer_seconds: float = 0.0,
    commit_seconds: float = 0.0,
) -> None:
    """Note what became of one VM in a run; told again, it replaces what was said before.

    Args:
        catalog: Which.
        run: The run.
        outcome: Told apart by VM, or by name where the pool does not know the VM.
        now: The present.
        transfer_seconds: How long the transfer took.
        commit_seconds: How long the commit took.
    """
    with writing(catalog) as connection:
        _note(connection, run, outcome, now, transfer_seconds, commit_seconds)


def record_outcomes(
    catalog: CatalogLocation, run: RunId, outcomes: Iterable[VmOutcome], now: datetime
) -> None:
    """The same of several VMs, at once."""
    with writing(catalog) as connection:
        for each in outcomes:
            _note(connection, run, each, now)


def _note(
    connection: Connection,
    run: RunId,
    outcome: VmOutcome,
    now: datetime,
    transfer_seconds: float = 0.0,
    commit_seconds: float = 0.0,
) -> None:
    o = outcome
    connection.execute(
        "DELETE FROM run_vms WHERE run_id = ? AND vm_id = ? AND (vm_id <> '' OR vm_name = ?)",
        [run, o.vm, o.name],
    )
    connection.execute(
        """INSERT INTO run_vms (run_id, ordinal, vm_id, vm_name, state, version_id, disk_bytes,
            read_bytes, sent_bytes, new_bytes, dropped_bytes, freed_bytes, snapshot_seconds,
            transfer_seconds, commit_seconds, sentence, recorded_at)
        SELECT ?, (SELECT count(*) FROM run_vms WHERE run_id = ?),
            ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?""",
        [
            *(run, run, o.vm, o.name, o.state.value, o.version, o.disk_bytes),
            *(o.read_bytes, o.sent_bytes, o.new_bytes, o.dropped_bytes, o.freed_bytes),
            *(o.snapshot_seconds, transfer_seconds, commit_seconds, o.sentence, to_utc(now)),
        ],
    )


def is_known(catalog: CatalogLocation, run: RunId) -> bool:
    """Whether the catalog knows a backup run, be it from a version of it alone."""
    with reading(catalog) as connection:
        return (
            connection.execute(
                """SELECT 1 FROM (SELECT run_id FROM runs UNION ALL SELECT run_id FROM versions)
                WHERE run_id = ?""",
                [run],
            ).fetchone()
            is not None
        )


def last_runs(catalog: CatalogLocation, most: int = 20, *, job: str | None = None) -> list[RunRow]:
    """The newest runs with their VMs, newest first."""
    return _runs(catalog, "? IS NULL OR job = ?", [job, job], most)


def live_runs(catalog: CatalogLocation) -> list[RunRow]:
    """Runs that were begun and have not said that they ended; they may have died."""
    return _runs(catalog, "finished_at IS NULL", [], 1 << 20)


def _runs(catalog: CatalogLocation, which: str, arguments: list[object], most: int) -> list[RunRow]:
    with reading(catalog) as connection:
        rows = connection.execute(
            f"""SELECT run_id, job, begun_at, finished_at, state, sentence FROM runs
            WHERE {which} ORDER BY begun_at DESC, rowid DESC LIMIT ?""",  # noqa: S608
            [*arguments, most],
        ).fetchall()
        vms = _vms(connection, {row[0].hex for row in rows})
    return [
        RunRow(
            run=RunId(run.hex),
            job=job,
            begun_at=from_utc(begun) or begun,
            finished_at=from_utc(finished),
            state=state,
            sentence=sentence,
            vms=tuple(vms[run.hex]),
        )
        for run, job, begun, finished, state, sentence in rows
    ]


def _vms(connection: Connection, runs: set[str]) -> dict[str, list[VmOutcome]]:
    found: dict[str, list[VmOutcome]] = defaultdict(list)
    for row in connection.execute(
        """SELECT run_id, vm_id, vm_name, state, version_id, disk_bytes, read_bytes, sent_bytes,
            new_bytes, dropped_bytes, freed_bytes, snapshot_seconds, sentence
        FROM run_vms ORDER BY ordinal"""
    ).fetchall():
        run, vm, name, state, version, disk, read, sent, new, dropped, freed, seconds, said = row
        if run.hex in runs:
            found[run.hex].append(
                VmOutcome(
                    vm=VmId(vm),
                    name=name,
                    state=VmState(state),
                    version=version,
                    disk_bytes=disk,
                    read_bytes=read,
                    sent_bytes=sent,
                    new_bytes=new,
                    dropped_bytes=dropped,
                    freed_bytes=freed,
                    snapshot_seconds=seconds,
                    sentence=said,
                )
            )
    return found


def _known(connection: Connection, run: RunId) -> bool:
    return connection.execute("SELECT 1 FROM runs WHERE run_id = ?", [run]).fetchone() is not None
