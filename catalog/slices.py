"""All of a large table, some at a time: whoever waits for the catalog gets it in between.

Rows of maps lie in the order of the versions that brought them, places in that of their packs, so
a range of these numbers is read without a look at the rest. What comes meanwhile is in the last
range; what moves meanwhile may be seen twice or not at all.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from catalog.connection import CatalogLocation, Connection, reading

AT_ONCE = 3 << 18
"""Rows that are read together: a fraction of a second."""
PACKS_AT_ONCE = 200_000
PACK_NAME = "lower(hex(pack_id::BLOB))"
"""Of a pack, as the store names it; a uuid costs ten times as much to make in Python."""
_MOST_BITS, _PROBES = 31, 2
_NO_END = (1 << 31) - 1
Keys = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.integer[Any]]
KEY = "hash(chunk)"
"""What stands for a chunk while many are compared: among a hundred million, two that are not the
same have the same once in four thousand stores, and one block is counted wrongly then."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Some rows of a table.

    Attributes:
        first: The first number of a version, or a pack, of which there are rows.
        last: The last one.
        rows: About how many.
        within: The condition that keeps them.
    """

    first: int
    last: int
    rows: int
    within: str

    def has_any(self, numbers: Numbers) -> bool:
        """Whether any of some numbers, ascending, is among them."""
        return bool(
            np.searchsorted(numbers, self.first) < np.searchsorted(numbers, self.last, "right")
        )


def ranges_of(column: str, numbers: Numbers, rows: Numbers, at_once: int) -> list[Slice]:
    """Ranges of about so many rows; the first one begins, the last one ends with any number.

    Args:
        column: What has the numbers.
        numbers: Those there are, ascending.
        rows: How many rows each has.
        at_once: Where more than these are left, the next one begins.
    """
    many = rows.astype(np.int64)
    nth = (np.cumsum(many) - many) // at_once
    begin = np.flatnonzero(np.diff(nth, prepend=-1))
    totals = np.add.reduceat(many, begin).tolist() if len(many) else [0]
    firsts = [0, *numbers[begin[1:]].tolist()]
    ends = [*(first - 1 for first in firsts[1:]), _NO_END]
    return [
        Slice(first, last, total, f"{column} BETWEEN {first} AND {last}")
        for first, last, total in zip(firsts, ends, totals, strict=True)
    ]


def slices_of_maps(connection: Connection) -> list[Slice]:
    """Of `maps`, every row; those of a large version are several slices."""
    rows = connection.execute(
        "SELECT version_no, count(*) AS many FROM maps GROUP BY version_no ORDER BY version_no"
    ).fetchnumpy()
    found = []
    for each in ranges_of("version_no", rows["version_no"], rows["many"], AT_ONCE):
        found += [each] if each.rows <= 2 * AT_ONCE else _by_position(connection, each)
    return found


def rows_of_packs(catalog: CatalogLocation, columns: str, where: str) -> Iterator[tuple[Any, ...]]:
    """Of `packs` those that a condition keeps, in the order of their numbers."""
    with reading(catalog) as connection:
        row = connection.execute("SELECT max(pack_no) FROM packs").fetchone()
    firsts = range(0, int(row[0] or 0) + 1 if row else 1, PACKS_AT_ONCE)
    for first in firsts:
        last = first + PACKS_AT_ONCE - 1 if first != firsts[-1] else _NO_END
        with reading(catalog) as connection:
            rows = connection.execute(
                f"""SELECT {columns} FROM packs
                WHERE pack_no BETWEEN {first} AND {last} AND {where}"""  # noqa: S608
            ).fetchall()
        yield from rows


def _by_position(connection: Connection, each: Slice) -> list[Slice]:
    row = connection.execute(f"SELECT max(position) FROM maps WHERE {each.within}").fetchone()  # noqa: S608
    starts = range(0, int(row[0]) + 1 if row else 1, AT_ONCE)
    return [
        replace(
            each,
            rows=each.rows // len(starts),
            within=f"{each.within} AND position BETWEEN {start} AND {start + AT_ONCE - 1}",
        )
        for start in starts
    ]


def slices_of_places(connection: Connection) -> list[Slice]:
    """Of `places`, every row."""
    rows = connection.execute("SELECT pack_no, chunks FROM packs ORDER BY pack_no").fetchnumpy()
    return ranges_of("pack_no", rows["pack_no"], rows["chunks"], AT_ONCE)


class Seen:
    """Which keys were seen, in two bytes each: one in a hundred others seems to have been, too."""

    def __init__(self, count: int) -> None:
        """Make room for so many."""
        self._bits = min(max((16 * count).bit_length(), 16), _MOST_BITS)
        self._seen = np.zeros(1 << (self._bits - 3), np.uint8)

    def add(self, keys: Keys) -> None:
        """Remember keys."""
        for nth in range(_PROBES):
            np.bitwise_or.at(self._seen, *self._place(keys, nth))

    def has(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Whether each was added, or seems so."""
        there = np.arange(len(keys))
        for nth in range(_PROBES):
            at, bit = self._place(keys[there] if nth else keys, nth)
            there = there[(self._seen[at] & bit) != 0]
        found = np.zeros(len(keys), bool)
        found[there] = True
        return found

    def _place(self, keys: Keys, nth: int) -> tuple[Keys, npt.NDArray[np.uint8]]:
        """Which byte, and which bit of it; of the nth look at each."""
        shift = nth * (64 - self._bits)
        place = (keys >> np.uint64(shift)) & np.uint64((1 << self._bits) - 1)
        return place >> np.uint64(3), np.uint8(1) << (place & np.uint64(7)).astype(np.uint8)
