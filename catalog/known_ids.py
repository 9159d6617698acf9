"""Known ids: chunks that the store has and that were proved, for sources that are trusted.

They lie in a folder, in files as `likeness.agent.known_ids` reads them, beside a list of the packs
whose ids these are. To renew it, only packs are asked for that became reliable since, some at a
time, so the catalog is never held for long; what is in it and is not reliable any more may stay for
a while, since every commit looks again. Files that have grown as long as the ones before are
merged. Sorting is done outside: first into files by the first bits of the ids, then each by itself;
the first time, all that `catalog.finding` has in order is taken from there.
"""

import fcntl
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catalog.connection import CatalogLocation, Connection, is_taken, reading, to_utc
from catalog.finding import (
    MANY_PACKS,
    among,
    check_of_packs,
    covered_by_parts,
    folder_of,
    halves,
)
from catalog.id_parts import TornPart, first_to_merge, thrown_away
from catalog.ids_in_order import in_order, of_parts
from catalog.serving import CLOCK_SLACK
from catalog.staging import private_folder

Halves = npt.NDArray[np.uint64]
Packs = npt.NDArray[np.uint32]
ENDING = ".ids"
_LISTED = "packs"
_AT_ONCE = 1 << 20
_MAX_BITS = 8
_FEW_IDS = 1 << 22
"""May be sorted in memory."""
_NOT_MANY = 1000
"""Packs that are not reliable any more do no harm, if they are no more, or few of all."""
_RELIABLE = "k.state = 'live' AND NOT k.bad AND NOT k.unreachable AND k.proved_at BETWEEN ? AND ?"


@dataclass(frozen=True, slots=True)
class _Listed:
    """Which packs' ids the files have.

    Attributes:
        packs: Their numbers, ascending.
        last: The last number that any pack had.
        check: Of the numbers and names of all packs up to that: whether they are still the same.
    """

    packs: Packs
    last: int = 0
    check: int = 0

    @classmethod
    def read(cls, folder: Path) -> "_Listed":
        """What was written; none where it is not there, or torn."""
        try:
            numbers = np.fromfile(folder / _LISTED, np.uint64)
        except FileNotFoundError:
            return cls(np.zeros(0, np.uint32))
        if len(numbers) < 3 or int(numbers[2]) != len(numbers) - 3:
            return cls(np.zeros(0, np.uint32))
        return cls(numbers[3:].astype(np.uint32), int(numbers[0]), int(numbers[1]))

    def write(self, folder: Path) -> None:
        """For `read`."""
        draft = folder / f"{_LISTED}.new"
        head = np.array([self.last, self.check, len(self.packs)], np.uint64)
        np.concatenate([head, self.packs.astype(np.uint64)]).tofile(draft)
        draft.replace(folder / _LISTED)


def write_known_ids(
    catalog: CatalogLocation,
    folder: Path,
    now: datetime,
    max_age: timedelta,
    *,
    at_once: int = _AT_ONCE,
) -> int:
    """Bring the ids that others may rely on up to date.

    Whoever comes while another one does so leaves it to that one.

    Args:
        catalog: Which.
        folder: Where they are; made if there is none.
        now: The present.
        max_age: How old the proof of what is relied on may be.
        at_once: About how many ids are asked for while the catalog is held.

    Returns:
        How many there are.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    times = [to_utc(now - max_age), to_utc(now + CLOCK_SLACK)]
    with _alone(folder) as mine:
        if mine:
            _renew(catalog, folder, times, at_once)
    return sum(path.stat().st_size for path in files_of(folder)) // 16


def files_of(folder: Path) -> list[Path]:
    """The files of ids, oldest first."""
    return sorted(folder.glob(f"*{ENDING}"))


@contextmanager
def _alone(folder: Path) -> Generator[bool, None, None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield is_taken(handle, fcntl.LOCK_EX)
    finally:
        os.close(handle)


def _renew(catalog: CatalogLocation, folder: Path, times: Sequence[datetime], at_once: int) -> None:
    listed = _Listed.read(folder)
    files = files_of(folder)
    with reading(catalog) as connection:
        reliable, chunks = _reliable(connection, times)
        last, check = _check(connection, None)
        same = not listed.last or _check(connection, listed.last) == (listed.last, listed.check)
    left = np.setdiff1d(listed.packs, reliable, assume_unique=True)
    if not same or len(left) > max(_NOT_MANY, len(listed.packs) // 10):
        listed, merged, kept = _Listed(np.zeros(0, np.uint32)), [], []
    else:
        new_ids = int(chunks[~np.isin(reliable, listed.packs)].sum())
        start = first_to_merge([*(path.stat().st_size // 16 for path in files), new_ids])
        kept, merged = files[:start], files[start:]
    new = ~np.isin(reliable, listed.packs)
    if new.any() or not files or kept != files:
        more = (reliable[new], chunks[new], times, at_once)
        with private_folder(catalog) as scratch:
            draft = scratch / "ids"
            if merged or not _written_in_order(catalog, draft, scratch, *more):
                many = int(chunks[new].sum()) + sum(path.stat().st_size // 16 for path in merged)
                _write_sorted(draft, scratch, _ids_of(catalog, *more), merged, many // at_once)
            draft.replace(folder / f"{_next_number(files):08}{ENDING}")
        for path in files:
            if path not in kept:
                path.unlink(missing_ok=True)
    _Listed(np.union1d(listed.packs, reliable[new]).astype(np.uint32), last, check).write(folder)


def _next_number(files: Sequence[Path]) -> int:
    return int(files[-1].stem) + 1 if files else 1


def _reliable(
    connection: Connection, times: Sequence[datetime]
) -> tuple[Packs, npt.NDArray[np.int64]]:
    """The packs that may be relied on, and how many data blocks each has."""
    rows = connection.execute(
        f"SELECT pack_no, chunks FROM packs AS k WHERE {_RELIABLE} ORDER BY pack_no",  # noqa: S608
        list(times),
    ).fetchnumpy()
    return rows["pack_no"].astype(np.uint32), rows["chunks"].astype(np.int64)


def _check(connection: Connection, last: int | None) -> tuple[int, int]:
    """The last number of a pack, up to one or of all, and the check of the packs up to there."""
    row = connection.execute(
        f"SELECT max(pack_no), {check_of_packs()} FROM packs WHERE ? IS NULL OR pack_no <= ?",  # noqa: S608
        [last, last],
    ).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def _ids_of(
    catalog: CatalogLocation,
    packs: Packs,
    chunks: npt.NDArray[np.int64],
    times: Sequence[datetime],
    at_once: int,
) -> Iterator[Halves]:
    """Both halves of the ids that some packs serve, in no order, a few packs at a time."""
    start = 0
    while start < len(packs):
        many = int(np.searchsorted(np.cumsum(chunks[start : start + MANY_PACKS]), at_once)) + 1
        some = packs[start : start + min(many, MANY_PACKS)].tolist()
        with reading(catalog) as connection:
            places = f"""(SELECT p.chunk FROM places AS p JOIN packs AS k USING (pack_no)
                WHERE p.pack_no BETWEEN {some[0]} AND {some[-1]} AND {among("p.pack_no", some)}
                  AND p.serves AND {_RELIABLE} AND p.chunk NOT IN (
                    SELECT chunk FROM damaged_chunks WHERE healed_at IS NULL))"""  # noqa: S608
            found = connection.execute(halves(places), list(times)).fetchnumpy()
        yield np.stack([found["firsts"], found["seconds"]], axis=1).astype(np.uint64, copy=False)
        start += len(some)


def _written_in_order(
    catalog: CatalogLocation,
    draft: Path,
    scratch: Path,
    packs: Packs,
    chunks: npt.NDArray[np.int64],
    times: Sequence[datetime],
    at_once: int,
) -> bool:
    """Whether the ids that some packs serve could be had in order, and were written."""
    with reading(catalog) as connection:
        covered = covered_by_parts(connection, folder_of(catalog.path))
        found = of_parts(connection, covered, packs, int(chunks.sum()))
    if found is None:
        return False
    besides = (packs > covered.last_pack) | np.isin(packs, covered.besides)
    if int(chunks[besides].sum()) > _FEW_IDS:
        return False
    some = [*_ids_of(catalog, packs[besides], chunks[besides], times, at_once)]
    rest = np.concatenate([np.zeros((0, 2), np.uint64), *some])
    rest = rest[np.lexsort((rest[:, 1], rest[:, 0]))]
    try:
        _write_columns(draft, scratch, in_order(found, rest))
    except TornPart as torn:
        thrown_away(torn.path)
        return False
    return True


def _write_sorted(
    path: Path, scratch: Path, ids: Iterator[Halves], files: Sequence[Path], large: int
) -> None:
    """One file of some ids, and of those in other files, ascending, each once."""
    bits = min(max(large.bit_length(), 0), _MAX_BITS)
    parts = [scratch / f"{nth}.part" for nth in range(1 << bits)]
    for some in ids:
        _append(some, parts, bits)
    for file in files:
        for some in _read(file):
            _append(some, parts, bits)
    _write_columns(path, scratch, map(_sorted, parts))


def _write_columns(path: Path, scratch: Path, ids: Iterable[Halves]) -> None:
    """First all first halves, then all second ones; durable when it returns."""
    seconds = scratch / "second"
    with path.open("wb") as first_file, seconds.open("w+b") as second_file:
        for rows in ids:
            first_file.write(rows[:, 0].tobytes())
            second_file.write(rows[:, 1].tobytes())
        second_file.seek(0)
        while piece := second_file.read(1 << 24):
            first_file.write(piece)
        first_file.flush()
        os.fsync(first_file.fileno())


def one_file(files: Sequence[Path], path: Path, scratch: Path) -> None:
    """Make one file of several, as `likeness.agent.known_ids` reads it."""
    many = sum(each.stat().st_size // 16 for each in files)
    _write_sorted(path, scratch, iter(()), files, many // _AT_ONCE)


def _read(path: Path) -> Iterator[Halves]:
    """The ids of a file, some at a time."""
    count = path.stat().st_size // 16
    for start in range(0, count, _AT_ONCE):
        some = min(_AT_ONCE, count - start)
        columns = (start, count + start)
        yield np.stack(
            [np.fromfile(path, np.uint64, some, offset=8 * at) for at in columns], axis=1
        )


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
