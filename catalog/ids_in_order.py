"""Ids of most of a store's packs, in order, from the files that say which packs hold an id.

They are in order there already, so nothing is asked of the catalog for each of them, and nothing is
sorted. What differs is asked for: copies that do not serve, chunks that are damaged, and packs that
are in no part, which the caller knows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from catalog.connection import Connection
from catalog.finding import Covered, halves
from catalog.id_parts import Halves, Packs

Pairs = npt.NDArray[np.uint64]
"""Both halves of ids, a row each."""
_SLICE_ROWS = 1 << 20
_MANY = 1 << 22
_SHARE = 8
"""Fewer than one in so many ids cost less when their packs are asked for."""
Copy = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class OfParts:
    """What is to be had from parts.

    Attributes:
        covered: The parts.
        wanted: By its number, whether a pack is.
        but: Copies that are left out, by the halves of the id and the pack.
        damaged: Ids that are left out, whatever the pack.
    """

    covered: Covered
    wanted: npt.NDArray[np.bool_]
    but: frozenset[Copy]
    damaged: frozenset[tuple[int, int]]


def of_parts(connection: Connection, covered: Covered, packs: Packs, count: int) -> OfParts | None:
    """What parts have of some packs; none where it costs less to ask for them.

    Args:
        connection: In a transaction.
        covered: The parts.
        packs: The numbers of the packs, ascending.
        count: How many ids they have.
    """
    if count * _SHARE < sum(part.said.count for part in covered.parts) or not covered.parts:
        return None
    spare = _rows(connection, f"places WHERE NOT serves LIMIT {_MANY + 1}", "pack_no")
    if len(spare) > _MANY:
        return None
    damaged = _rows(connection, "damaged_chunks WHERE healed_at IS NULL", "pack_no")
    wanted = np.zeros(covered.last_pack + 1, bool)
    wanted[packs[packs <= covered.last_pack]] = True
    wanted[covered.besides] = False
    return OfParts(covered, wanted, frozenset(spare), frozenset(row[:2] for row in damaged))


def _rows(connection: Connection, source: str, pack: str) -> list[Copy]:
    rows = connection.execute(halves(source, pack)).fetchall()
    return [(int(first), int(second), int(number)) for first, second, number in rows]


def in_order(found: OfParts, rest: Pairs) -> Iterator[Pairs]:
    """All ids in order, each once, some at a time.

    Args:
        found: What parts have.
        rest: Other ids, ascending.

    Raises:
        TornPart: A part is not what was written.
    """
    parts = found.covered.parts
    slices = max(sum(part.said.count for part in parts) // _SLICE_ROWS, 1)
    out = sorted({first for first, *_ in found.but} | {first for first, _ in found.damaged})
    for low, high in pairwise([(at << 64) // slices for at in range(slices + 1)]):
        rows = [_of_part(found, part.rows(low, high), np.array(out, np.uint64)) for part in parts]
        start, end = (_place(rest[:, 0], edge) for edge in (low, high))
        yield _each_once(np.concatenate([*rows, rest[start:end]]))


def _place(firsts: Halves, edge: int) -> int:
    return len(firsts) if edge >= 1 << 64 else int(np.searchsorted(firsts, np.uint64(edge)))


def _of_part(found: OfParts, rows: tuple[Halves, Halves, Packs], out: Halves) -> Pairs:
    firsts, seconds, packs = rows
    stays = found.wanted[packs]
    if len(out):
        at = np.searchsorted(out, firsts).clip(max=len(out) - 1)
        for row in np.flatnonzero(stays & (out[at] == firsts)).tolist():
            each = (int(firsts[row]), int(seconds[row]))
            stays[row] = each not in found.damaged and (*each, int(packs[row])) not in found.but
    return np.stack([firsts[stays], seconds[stays]], axis=1)


def _each_once(ids: Pairs) -> Pairs:
    """Sorted only where it is not so already."""
    first, second = ids[:, 0], ids[:, 1]
    same = first[1:] == first[:-1]
    if (first[1:] < first[:-1]).any() or (same & (second[1:] < second[:-1])).any():
        ids = ids[np.lexsort((second, first))]
    fresh = np.ones(len(ids), bool)
    fresh[1:] = (ids[1:] != ids[:-1]).any(axis=1)
    return ids[fresh]
