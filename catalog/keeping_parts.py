"""Keeping the files that say which packs hold an id: made where packs came, merged, thrown away.

A part is made of the packs of a range of numbers, about a million places at a time, so that the
catalog is never held for long; sorting and merging is done while nobody waits. Parts that lie side
by side are merged where the later ones together have grown half as long as the one before, so
there are few, and each row is written again about as often as the store doubles.
"""

import fcntl
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb
import msgspec
import numpy as np

from catalog.connection import CatalogLocation, Connection, is_taken, reading
from catalog.finding import Covered, check_of_packs, covered_by_parts, folder_of, halves
from catalog.id_parts import (
    ENDING,
    Rows,
    Said,
    TornPart,
    first_to_merge,
    in_order,
    merged,
    thrown_away,
    write_part,
)
from catalog.staging import private_folder
from likeness.errors import LikenessError
from likeness.model.ids import random_name

AT_ONCE = 1 << 20
"""Places that are not in a part: fewer are looked through in no time, and are left so."""


def keep_parts(catalog: CatalogLocation, *, merge: bool = False, at_once: int = AT_ONCE) -> None:
    """Make the parts that are missing, where many places are in none.

    Whoever comes while another one does so leaves it to that one. What is cut short is done again,
    and what fails is no error: without them all is found as well, only later.

    Args:
        catalog: Which.
        merge: Merge parts too, which takes its time.
        at_once: About how many places are asked for while the catalog is held.
    """
    with suppress(OSError, LikenessError):
        folder = folder_of(catalog.path)
        with reading(catalog) as connection:
            covered = covered_by_parts(connection, folder)
            due = _end_of_next(connection, covered, at_once) is not None
        if due or (merge and len(covered.parts) > 1):
            with _alone(folder) as mine:
                if mine:
                    _keep(catalog, folder, at_once, merge=merge)


def _keep(catalog: CatalogLocation, folder: Path, at_once: int, *, merge: bool) -> None:
    while (fresh := _next(catalog, folder, at_once)) is not None:
        _write(catalog, folder, fresh.said, [in_order(fresh.rows)])
    if merge:
        _merge(catalog, folder)


@contextmanager
def _alone(folder: Path) -> Generator[bool, None, None]:
    """Whether nobody else is at the parts; while it lasts nobody else will be."""
    folder.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield is_taken(handle, fcntl.LOCK_EX)
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class _Fresh:
    said: Said
    rows: Rows


def _next(catalog: CatalogLocation, folder: Path, at_once: int) -> _Fresh | None:
    """What the next part is made of; none where too little is in none."""
    with reading(catalog) as connection:
        covered = covered_by_parts(connection, folder)
        for path in set(folder.glob(f"*{ENDING}")) - {part.path for part in covered.parts}:
            thrown_away(path)
        last = _end_of_next(connection, covered, at_once)
        return _made_of(connection, covered.last_pack + 1, last) if last is not None else None


def _end_of_next(connection: Connection, covered: Covered, at_once: int) -> int | None:
    """The last pack of the next part; none where too little is in none."""
    row = connection.execute(
        """SELECT min(pack_no) FROM (
            SELECT pack_no, sum(chunks) OVER (ORDER BY pack_no) AS total
            FROM packs WHERE pack_no > ?) WHERE total >= ?""",
        [covered.last_pack, at_once],
    ).fetchone()
    return int(row[0]) if row and row[0] is not None else None


def _made_of(connection: Connection, first: int, last: int) -> _Fresh:
    found = connection.execute(
        halves("places WHERE pack_no BETWEEN ? AND ?", "pack_no"), [first, last]
    ).fetchnumpy()
    check = connection.execute(
        f"SELECT {check_of_packs()} FROM packs WHERE pack_no BETWEEN ? AND ?",  # noqa: S608
        [first, last],
    ).fetchone()
    rows = (
        found["firsts"].astype(np.uint64, copy=False),
        found["seconds"].astype(np.uint64, copy=False),
        found["pack_no"].astype(np.uint32),
    )
    said = Said(
        made_by=duckdb.__version__,
        first_pack=first,
        last_pack=last,
        check=int(check[0]) if check else 0,
        without=_gone(connection, first, last),
        count=0,
    )
    return _Fresh(said, rows)


def _gone(connection: Connection, first: int, last: int) -> list[int]:
    rows = connection.execute(
        """SELECT pack_no FROM packs WHERE state IN ('gone', 'condemned')
        AND pack_no BETWEEN ? AND ? ORDER BY pack_no""",
        [first, last],
    ).fetchall()
    return [int(number) for (number,) in rows]


def _merge(catalog: CatalogLocation, folder: Path) -> None:
    """Merge the last parts, where they have grown as long as the ones before."""
    with reading(catalog) as connection:
        parts = covered_by_parts(connection, folder).parts
        start = first_to_merge([part.said.count for part in parts])
        joined = parts[start:]
        if len(joined) < 2:
            return
        first, last = joined[0].said.first_pack, joined[-1].said.last_pack
        gone = _gone(connection, first, last)
    said = joined[0].said
    for part in joined[1:]:
        said = msgspec.structs.replace(said, check=said.check ^ part.said.check)
    said = msgspec.structs.replace(said, last_pack=last, without=gone)
    try:
        _write(catalog, folder, said, merged(joined, np.array(gone, np.uint32)))
    except TornPart as torn:
        thrown_away(torn.path)
        return
    for part in joined:
        thrown_away(part.path)


def _write(catalog: CatalogLocation, folder: Path, said: Said, rows: Iterable[Rows]) -> None:
    """Write a part beside, and give it its name when it is whole."""
    with private_folder(catalog) as scratch:
        draft = scratch / f"{said.first_pack:010}-{said.last_pack:010}-{random_name()}{ENDING}"
        draft.touch(mode=0o600)
        write_part(draft, said, rows)
        draft.replace(folder / draft.name)
