"""What is under way: each VM of a job and each validation, with how far it is.

One kind of row for both, written by the process that is at work, every few seconds, and read by
whoever draws the page; so it says the same to everybody, and survives whoever wrote it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from catalog.connection import CatalogLocation, Connection, from_utc, reading, to_utc, writing
from likeness.model.ids import RunId

COMMIT, VALIDATE = "commit", "validate"


@dataclass(frozen=True, slots=True)
class Work:
    """One item of a queue.

    Attributes:
        run: The run that is at it.
        queue: ``commit`` or ``validate``.
        item: A VM's id; empty for all that a validation reads.
        label: What it is at, in words.
        step: ``waiting``, ``address``, ``delegate``, ``snapshot``, ``transfer``, ``commit`` or
            ``reading``.
        todo_bytes: All of it; 0 if that is not known yet.
        done_bytes: What is done.
        percent: 0 to 100; never less than it was, whoever died meanwhile.
        bytes_a_second: Measured; none if there is nothing to measure yet.
        seconds_left: At the speed so far.
        seen_at: When it last said so.
    """

    run: RunId
    queue: str
    item: str
    label: str
    step: str
    todo_bytes: int = 0
    done_bytes: int = 0
    percent: float = 0.0
    bytes_a_second: float | None = None
    seconds_left: float | None = None
    seen_at: datetime | None = field(default=None, compare=False)


def note_work(catalog: CatalogLocation, run: RunId, items: Sequence[Work], now: datetime) -> None:
    """Write down all that a run is at, in its order; what is not among it is done.

    What is done and the percentage never become less.
    """
    with writing(catalog) as connection:
        before = {each.item: each for each in _read(connection, [run])}
        connection.execute("DELETE FROM at_work WHERE run_id = ?", [run])
        for ordinal, each in enumerate(items):
            last = before.get(each.item, each)
            connection.execute(
                """INSERT INTO at_work (run_id, queue, item, label, step, ordinal, seen_at,
                    todo_bytes, done_bytes, percent, bytes_a_second, seconds_left)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                [
                    *(run, each.queue, each.item, each.label, each.step, ordinal, to_utc(now)),
                    *(max(each.todo_bytes, last.todo_bytes if each.todo_bytes == 0 else 0),),
                    max(each.done_bytes, last.done_bytes),
                    max(each.percent, last.percent),
                    *(each.bytes_a_second, each.seconds_left),
                ],
            )


def list_work(catalog: CatalogLocation) -> list[Work]:
    """All that is under way, and what was when its process died: by queue, run and place."""
    with reading(catalog) as connection:
        return _read(connection, None)


def forget_work(catalog: CatalogLocation, runs: Iterable[RunId]) -> None:
    """Runs that are over are at nothing any more."""
    with writing(catalog) as connection:
        for run in runs:
            connection.execute("DELETE FROM at_work WHERE run_id = ?", [run])


def take_over_work(connection: Connection, dead: RunId, run: RunId) -> None:
    """A run goes on where one that died was; inside a transaction of the caller."""
    connection.execute("UPDATE at_work SET run_id = ? WHERE run_id = ?", [run, dead])


def _read(connection: Connection, runs: Sequence[RunId] | None) -> list[Work]:
    rows = connection.execute(
        """SELECT run_id, queue, item, label, step, todo_bytes, done_bytes, percent,
            bytes_a_second, seconds_left, seen_at
        FROM at_work WHERE ? OR list_contains(?::UUID[], run_id)
        ORDER BY queue, run_id, ordinal""",
        [runs is None, list(runs or ())],
    ).fetchall()
    return [
        Work(
            *(RunId(run.hex), queue, item, label, step, int(todo), int(done), percent),
            *(speed, left, from_utc(seen_at)),
        )
        for run, queue, item, label, step, todo, done, percent, speed, left, seen_at in rows
    ]
