"""Known ids: chunks that the store has and that were proved, for sources that are trusted."""

from datetime import datetime, timedelta
from pathlib import Path

from catalog.connection import CatalogFile, Connection, reading, to_utc
from catalog.serving import CLOCK_SLACK

_AT_ONCE = 1 << 20
"""Ids asked for while the catalog is held once: about a second, and 50 MB."""
_WHOLE = 1 << 128
_RELIABLE = """FROM places AS p JOIN packs AS k USING (pack_no)
    WHERE p.serves AND k.state = 'live' AND NOT k.bad AND NOT k.unreachable
      AND k.proved_at BETWEEN $since AND $later
      AND p.chunk NOT IN (SELECT chunk FROM damaged_chunks WHERE healed_at IS NULL)"""


def write_known_ids(
    catalog: CatalogFile, path: Path, now: datetime, max_age: timedelta, *, at_once: int = _AT_ONCE
) -> int:
    """Write the ids that others may rely on, as `likeness.agent.known_ids` reads them.

    Args:
        catalog: Which.
        path: The file; replaced when it is whole.
        now: The present.
        max_age: How old the proof of what is relied on may be.
        at_once: About how many ids are asked for while the catalog is held.

    Returns:
        How many there are.
    """
    times = {"since": to_utc(now - max_age), "later": to_utc(now + CLOCK_SLACK)}
    with reading(catalog) as connection:
        row = connection.execute(f"SELECT count(*) {_RELIABLE}", times).fetchone()
    slices = int(row[0]) // at_once + 1 if row else 1
    draft, seconds = path.with_name(f"{path.name}.new"), path.with_name(f"{path.name}.second")
    count = 0
    with draft.open("wb") as first_file, seconds.open("w+b") as second_file:
        for nth in range(slices):  # ids are hashes: every slice has about as many
            with reading(catalog) as connection:
                first, second = _halves(connection, nth, slices, times)
            first_file.write(first)
            second_file.write(second)
            count += len(first) // 8
        second_file.seek(0)
        while piece := second_file.read(1 << 24):
            first_file.write(piece)
    seconds.unlink()
    draft.replace(path)
    return count


def _halves(
    connection: Connection, nth: int, slices: int, times: dict[str, datetime]
) -> tuple[bytes, bytes]:
    """Both halves of the ids of one slice, ascending, 64 bits each in this machine's order."""
    begin, end = (_uuid(_WHOLE * each // slices) for each in (nth, nth + 1))
    found = connection.execute(
        f"""SELECT (id >> 64)::UBIGINT AS first,
            (id & 18446744073709551615::UHUGEINT)::UBIGINT AS second
        FROM (SELECT DISTINCT p.chunk, p.chunk::BLOB::BIT::UHUGEINT AS id {_RELIABLE}
              AND p.chunk >= $begin::UUID AND ($last OR p.chunk < $end::UUID))
        ORDER BY chunk""",  # noqa: S608  # our own words
        {**times, "begin": begin, "end": end, "last": nth + 1 == slices},
    ).fetchnumpy()
    return found["first"].tobytes(), found["second"].tobytes()


def _uuid(number: int) -> str:
    return f"{number % _WHOLE:032x}"
