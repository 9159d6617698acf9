"""Which packs hold given chunks, found without a look at every place.

Places lie in the order of their packs, so those of a few packs are read quickly; by ids alone all
would be. Files beside the catalog (`catalog.id_parts`) say which packs hold an id. They are made
from the catalog when many packs came (`catalog.keeping_parts`), and may be deleted at any time.

They cannot make an answer wrong. The places of a pack are told in the transaction that gives the
pack its number, and numbers only grow; so what a part does not cover, by its range and by the names
of the packs in it, is looked for among the places. A pack that is named too often does no harm:
every answer is read from the places.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import numpy as np

from catalog.connection import Connection, shared_openings
from catalog.id_parts import ENDING, Halves, Part, TornPart, thrown_away

_MANY_IDS = 50_000
"""More ids than these cost less with a look at every place."""
MANY_PACKS = 4000
"""More packs than these are not named one by one."""
_SIDE_BY_SIDE = 32
"""Of packs whose numbers are so close the places are read together."""
_MANY_RANGES = 64
ALL = "true"
"""The condition that leaves nothing out."""
NONE = "false"


@dataclass(slots=True)
class _OpenParts:
    """Parts that this process has open, by path; a path never comes again with other content."""

    guard: threading.Lock = field(default_factory=threading.Lock)
    by_path: dict[Path, Part] = field(default_factory=dict)
    found_true: dict[Path, tuple[object, frozenset[Path]]] = field(default_factory=dict)
    """By folder: the opening of the catalog, and the parts that were compared with it."""


_open = _OpenParts()


def folder_of(catalog: Path) -> Path:
    """Where the parts of a catalog lie."""
    return catalog.with_name(f"{catalog.name}{ENDING}")


def catalog_of(folder: Path) -> Path:
    """The catalog whose parts lie in a folder."""
    return folder.with_name(folder.name.removesuffix(ENDING))


def in_packs_of(connection: Connection, chunks: str, column: str = "pack_no") -> str:
    """A condition on `places` that keeps every copy of some chunks, and few others.

    Args:
        connection: In a transaction.
        chunks: A temporary table with a column `chunk`.
        column: What the number of the pack is called where the condition is to stand.
    """
    packs = packs_holding(connection, chunks)
    return ALL if packs is None else among(column, packs)


def among(column: str, numbers: Sequence[int]) -> str:
    """A condition that a column is one of some numbers.

    Numbers that stand in the query are compared while a table is scanned, and leave whole row
    groups out; what comes from a join is compared afterwards.
    """
    return f"{column} IN ({', '.join(map(str, numbers))})" if numbers else NONE


def rows_of(packs: Sequence[int]) -> str:
    """The places of some packs, and perhaps of some between them, as a query.

    Packs that were written together have numbers side by side. A range leaves out what lies before
    and after it; a list leaves out only whole row groups.
    """
    ranges: list[tuple[int, int]] = []
    for number in packs:
        if ranges and number - ranges[-1][1] <= _SIDE_BY_SIDE:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    if not 0 < len(ranges) <= _MANY_RANGES:
        return f"SELECT * FROM places WHERE {among('pack_no', packs)}"  # noqa: S608
    return " UNION ALL ".join(
        f"SELECT * FROM places WHERE pack_no BETWEEN {first} AND {last}"  # noqa: S608
        for first, last in ranges
    )


def packs_holding(connection: Connection, chunks: str) -> list[int] | None:
    """Numbers of all packs that hold any of the chunks, pack 0 and some others among them.

    Returns:
        None, where it costs less to look at all places.
    """
    folder = _folder(connection)
    if folder is None or not any(folder.glob(f"*{ENDING}")):
        some = connection.execute(f"SELECT 1 FROM {chunks} LIMIT 1").fetchone()  # noqa: S608
        return [0] if some is None else None
    found = _ids(connection, chunks)
    if not 0 < len(found[0]) <= _MANY_IDS:
        return None if len(found[0]) else [0]
    covered = covered_by_parts(connection, folder)
    try:
        packs = {0, *covered.besides}.union(*(part.packs_of(*found) for part in covered.parts))
    except TornPart as torn:
        thrown_away(torn.path)
        return None
    packs |= _among_the_rest(connection, chunks, covered.last_pack)
    return sorted(packs) if len(packs) <= MANY_PACKS else None


def _ids(connection: Connection, chunks: str) -> tuple[Halves, Halves]:
    rows = connection.execute(halves(f"{chunks} LIMIT {_MANY_IDS + 1}")).fetchnumpy()
    return rows["firsts"].astype(np.uint64), rows["seconds"].astype(np.uint64)


def halves(source: str, also: str = "") -> str:
    """A query for both halves of the ids of chunks, as numbers, and perhaps another column."""
    more = f", {also}" if also else ""
    return f"""SELECT (id >> 64)::UBIGINT AS firsts,
            (id & 18446744073709551615::UHUGEINT)::UBIGINT AS seconds{more}
        FROM (SELECT chunk::BLOB::BIT::UHUGEINT AS id{more} FROM {source})"""  # noqa: S608  # ours


def _among_the_rest(connection: Connection, chunks: str, after: int) -> set[int]:
    rows = connection.execute(
        f"""SELECT DISTINCT p.pack_no FROM places AS p SEMI JOIN {chunks} AS c ON c.chunk = p.chunk
        WHERE p.pack_no > {after}"""  # noqa: S608
    ).fetchall()
    return {int(number) for (number,) in rows}


@dataclass(frozen=True, slots=True)
class Covered:
    """What parts cover.

    Attributes:
        parts: From the first pack on, without gaps.
        last_pack: The last number they cover.
        besides: Packs with smaller numbers that they do not know all the same.
    """

    parts: list[Part]
    last_pack: int
    besides: list[int]


def covered_by_parts(connection: Connection, folder: Path) -> Covered:
    """Those parts in a folder that fit the catalog as it is now."""
    chain: list[Part] = []
    for part in sorted(
        _parts_in(folder), key=lambda each: (each.said.first_pack, -each.said.last_pack)
    ):
        if part.said.first_pack == (chain[-1].said.last_pack + 1 if chain else 1):
            chain.append(part)
    chain = _true_ones(connection, folder, chain)
    if not chain:
        return Covered([], 0, [])
    without = {number for part in chain for number in part.said.without}
    besides = sorted(without - _gone(connection)) if without else []
    return Covered(chain, chain[-1].said.last_pack, besides)


def _true_ones(connection: Connection, folder: Path, chain: Sequence[Part]) -> list[Part]:
    """Parts up to the first one whose packs are not the catalog's; each compared once an opening.

    Within an opening packs get new numbers, and none that has a number is replaced.
    """
    opening = shared_openings.by_path.get(catalog_of(folder).resolve())
    opened_as = opening.opened_as if opening is not None else None
    before, compared = _open.found_true.get(folder, (None, frozenset()))
    if opened_as is None or before is not opened_as:
        compared = frozenset()
    good: list[Part] = []
    for part, check in zip(chain, _checks(connection, chain, compared), strict=True):
        if (part.said.check, part.said.made_by) != (check, duckdb.__version__):
            break
        good.append(part)
    if opened_as is not None:
        _open.found_true[folder] = (opened_as, compared.union(part.path for part in good))
    return good


def _checks(
    connection: Connection, chain: Sequence[Part], compared: frozenset[Path]
) -> list[int | None]:
    """For each part the check of the catalog's packs; what was compared already is believed."""
    found: dict[Path, int | None] = {p.path: p.said.check for p in chain if p.path in compared}
    rest = [part for part in chain if part.path not in compared]
    if rest:
        checks = ", ".join(
            f"{check_of_packs()} FILTER (pack_no BETWEEN {part.said.first_pack} AND"
            f" {part.said.last_pack})"
            for part in rest
        )
        row = connection.execute(
            f"SELECT {checks} FROM packs WHERE pack_no >= {rest[0].said.first_pack}"  # noqa: S608
        ).fetchone()
        found |= dict(zip((part.path for part in rest), row or (), strict=True))
    return [found[part.path] for part in chain]


def check_of_packs() -> str:
    """What tells packs from others with the same numbers; another release may work it out anew."""
    return "bit_xor(hash(pack_no, pack_id))"


def _gone(connection: Connection) -> set[int]:
    rows = connection.execute(
        "SELECT pack_no FROM packs WHERE state IN ('gone', 'condemned')"
    ).fetchnumpy()
    return set(rows["pack_no"].tolist())


def _folder(connection: Connection) -> Path | None:
    row = connection.execute(
        "SELECT path FROM duckdb_databases() WHERE database_name = current_database()"
    ).fetchone()
    return folder_of(Path(row[0])) if row and row[0] else None


def _parts_in(folder: Path) -> list[Part]:
    """All parts in a folder, opened once; those that are torn are removed."""
    there = set(folder.glob(f"*{ENDING}"))
    with _open.guard:
        for path in [each for each in _open.by_path if each.parent == folder]:
            if path not in there:
                _open.by_path.pop(path)  # closed when nobody has it any more
        for path in sorted(there - _open.by_path.keys()):
            try:
                _open.by_path[path] = Part.opened(path)
            except OSError:
                continue  # merged meanwhile, or the disk fails: all is found without it, too
            except TornPart:
                thrown_away(path)
        return [part for path, part in _open.by_path.items() if path.parent == folder]
