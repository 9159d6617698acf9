"""Known ids: chunks that the store has and that were proved, for sources that are trusted.

They are asked for a range of packs at a time, since places lie in the order of their packs; so
the catalog is never held for long, and all of it together costs one look at every place. Sorting is
done outside: first into files by the first bits of the ids, then each file by itself.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catalog.connection import CatalogLocation, reading, to_utc
from catalog.serving import CLOCK_SLACK
from catalog.staging import private_folder

Halves = npt.NDArray[np.uint64]
_AT_ONCE = 1 << 20
"""Ids asked for while the catalog is held once: less than a second, and 50 MB."""
_MAX_BITS = 8
_RELIABLE = "k.state = 'live' AND NOT k.bad AND NOT k.unreachable AND k.proved_at BETWEEN ? AND ?"


def write_known_ids(
    catalog: CatalogLocation,
    path: Path,
    now: datetime,
    max_age: timedelta,
    *,
    at_once: int = _AT_ONCE,
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
    times = [to_utc(now - max_age), to_utc(now + CLOCK_SLACK)]
    ranges, most = _ranges(catalog, times, at_once)
    bits = min(max((most // at_once).bit_length(), 0), _MAX_BITS)
    with private_folder(catalog) as scratch:
        parts = [scratch / f"{nth}.ids" for nth in range(1 << bits)]
        for first, last in ranges:
            _append(_halves(catalog, first, last, times), parts, bits)
        seconds, draft = scratch / "second", path.with_name(f"{path.name}.new")
        count = 0
        with draft.open("wb") as first_file, seconds.open("w+b") as second_file:
            for ids in map(_sorted, parts):
                first_file.write(ids[:, 0].tobytes())
                second_file.write(ids[:, 1].tobytes())
                count += len(ids)
            second_file.seek(0)
            while piece := second_file.read(1 << 24):
                first_file.write(piece)
        draft.replace(path)
    return count


def _ranges(
    catalog: CatalogLocation, times: Sequence[datetime], at_once: int
) -> tuple[list[tuple[int, int]], int]:
    """Ranges of packs with about so many data blocks each, and how many there are in all."""
    with reading(catalog) as connection:
        rows = connection.execute(
            f"""SELECT min(pack_no), max(pack_no), sum(chunks) FROM (
                SELECT pack_no, chunks,
                    (sum(chunks) OVER (ORDER BY pack_no) - 1) // {int(at_once)} AS part
                FROM packs AS k WHERE {_RELIABLE})
            GROUP BY part ORDER BY 1""",  # noqa: S608  # our own words
            list(times),
        ).fetchall()
    return [(first, last) for first, last, _ in rows], sum(int(chunks) for *_, chunks in rows)


def _halves(catalog: CatalogLocation, first: int, last: int, times: Sequence[datetime]) -> Halves:
    """Both halves of the ids that a range of packs serves, in no order."""
    with reading(catalog) as connection:
        found = connection.execute(
            f"""SELECT (id >> 64)::UBIGINT AS first,
                (id & 18446744073709551615::UHUGEINT)::UBIGINT AS second
            FROM (SELECT p.chunk::BLOB::BIT::UHUGEINT AS id
                FROM places AS p JOIN packs AS k USING (pack_no)
                WHERE p.pack_no BETWEEN ? AND ? AND p.serves AND {_RELIABLE}
                  AND p.chunk NOT IN (SELECT chunk FROM damaged_chunks WHERE healed_at IS NULL))""",  # noqa: S608
            [first, last, *times],
        ).fetchnumpy()
    return np.stack([found["first"], found["second"]], axis=1).astype(np.uint64, copy=False)


def _append(ids: Halves, parts: Sequence[Path], bits: int) -> None:
    """Add ids to the files of their first bits."""
    if not bits:
        pieces: Iterator[Halves] = iter([ids])
    else:
        which = ids[:, 0] >> np.uint64(64 - bits)
        order = np.argsort(which, kind="stable")
        ends = np.searchsorted(which[order], np.arange(1, len(parts), dtype=np.uint64))
        pieces = iter(np.split(ids[order], ends))
    for path, piece in zip(parts, pieces, strict=True):
        with path.open("ab") as file:
            file.write(piece.tobytes())


def _sorted(path: Path) -> Halves:
    """The ids of one file, ascending, each once."""
    if not path.exists():
        return np.zeros((0, 2), np.uint64)
    ids = np.fromfile(path, np.uint64).reshape(-1, 2)
    ids = ids[np.lexsort((ids[:, 1], ids[:, 0]))]
    fresh = np.ones(len(ids), bool)
    fresh[1:] = (ids[1:] != ids[:-1]).any(axis=1)
    return ids[fresh]
