"""Questions about every data block of a store, asked a slice at a time.

What a slice tells is put together outside, so the catalog is held for a fraction of a second at a
time, and each large table is read once for a question, or twice.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from catalog.connection import CatalogLocation, Connection, reading, to_utc
from catalog.serving import CLOCK_SLACK
from catalog.slices import KEY, Keys, Seen, Slice, slices_of_maps, slices_of_places
from catalog.staging import name_list, staged
from likeness.model.ids import PackId, VersionId

NO_KEYS: Keys = np.zeros(0, np.uint64)
_Column = npt.NDArray[np.int64]


def next_turns(connection: Connection) -> None:
    """`next_turns` and `row_needs`: the next turn that is kept, now and without `going_ids`.

    Those in `going_ids` count as kept now, also if they went already.
    """
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE next_turns AS
        SELECT vm_no, turn,
            min(CASE WHEN state = 'committed' OR goes THEN turn END) OVER later AS now,
            min(CASE WHEN state = 'committed' AND NOT goes THEN turn END) OVER later AS stays
        FROM (SELECT *, version_id IN (SELECT id FROM going_ids) AS goes FROM versions)
        WINDOW later AS (
            PARTITION BY vm_no ORDER BY turn ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)"""
    )
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE row_needs AS
        SELECT d.disk_no, t.turn AS since, t.now, t.stays
        FROM next_turns AS t JOIN disks AS d USING (vm_no)"""
    )


def exclusive_bytes(catalog: CatalogLocation, versions: Collection[VersionId]) -> int:
    """Sealed bytes of what versions need that are to be forgotten, and no version that stays."""
    with staged(catalog) as stage, reading(catalog) as connection:
        name_list(connection, stage, "going_ids", versions)
        next_turns(connection)
        changed = connection.execute(
            """SELECT DISTINCT v.version_no FROM versions AS v JOIN next_turns AS t
            USING (vm_no, turn) WHERE t.now IS DISTINCT FROM t.stays ORDER BY 1"""
        ).fetchnumpy()["version_no"]
        maps, places = slices_of_maps(connection), slices_of_places(connection)
    begun = [each for each in maps if each.has_any(changed)]
    gone = "r.now < m.until AND NOT coalesce(r.stays < m.until, false)"
    alone = np.unique(np.concatenate([NO_KEYS, *_keys_of_rows(catalog, versions, begun, gone)]))
    alone = alone[~_found_in(alone, _keys_of_rows(catalog, versions, maps, "r.stays < m.until"))]
    if not len(alone):
        return 0
    seen, total = Seen(len(alone)), 0
    seen.add(alone)
    for each in places:
        with reading(catalog) as connection:
            rows = connection.execute(
                f"SELECT {KEY} AS key, length FROM places WHERE serves AND {each.within}"  # noqa: S608
            ).fetchnumpy()
        maybe = seen.has(rows["key"])
        at = _where(alone, rows["key"][maybe])
        total += int(rows["length"][maybe][at >= 0].sum(dtype=np.int64))
    return total


def _found_in(keys: Keys, others: Iterator[Keys]) -> npt.NDArray[np.bool_]:
    """Which of some keys, ascending, are among others."""
    seen, found = Seen(len(keys)), np.zeros(len(keys), bool)
    seen.add(keys)
    for some in others if len(keys) else ():
        at = _where(keys, some[seen.has(some)])
        found[at[at >= 0]] = True
    return found


def _where(keys: Keys, some: Keys) -> _Column:
    """Where in `keys`, ascending, each of some is; -1: nowhere."""
    at = np.searchsorted(keys, some)
    there = keys[at.clip(max=len(keys) - 1)] == some
    return np.where(there, at, -1)


def _keys_of_rows(
    catalog: CatalogLocation, going: Collection[VersionId], slices: Sequence[Slice], needed: str
) -> Iterator[Keys]:
    """Of rows of maps which a condition on them and their `row_needs` keeps."""
    for each in slices:
        with staged(catalog) as stage, reading(catalog) as connection:
            name_list(connection, stage, "going_ids", going)
            next_turns(connection)
            keys = connection.execute(
                f"""SELECT {KEY} AS key FROM (SELECT * FROM maps WHERE {each.within}) AS m
                JOIN row_needs AS r USING (disk_no, since) WHERE {needed}"""  # noqa: S608
            ).fetchnumpy()["key"]
        yield keys.astype(np.uint64, copy=False)


@dataclass(frozen=True, slots=True)
class SparsePack:
    """A pack of which little is needed.

    Attributes:
        dead_bytes: What of it no version needs, or another pack serves.
    """

    pack: PackId
    dead_bytes: int


def sparse_packs(
    catalog: CatalogLocation, now: datetime, max_age: timedelta, *, live_share: float
) -> list[SparsePack]:
    """Packs of which less than a share is needed and served by them, the emptiest first.

    About one block in a hundred counts as needed that is not, in a store that is large.

    Args:
        catalog: Which.
        now: The present.
        max_age: How old the proof of a pack may be.
        live_share: The share, 0 to 1.
    """
    with reading(catalog) as connection:
        maps, places = slices_of_maps(connection), slices_of_places(connection)
    needed = Seen(sum(each.rows for each in maps))
    for keys in _keys_of_rows(catalog, (), maps, "r.now < m.until"):
        needed.add(keys)
    found: list[tuple[float, int, int]] = []
    for each in places:
        found += _shares_in(catalog, each, needed, live_share)
    with staged(catalog) as stage, reading(catalog) as connection:
        lines = (f"{at},{pack},{dead}\n" for at, (_, pack, dead) in enumerate(sorted(found)))
        stage.lines("sparse", lines)
        stage.load(connection, "sparse", nth="INTEGER", pack_no="INTEGER", dead="BIGINT")
        rows = connection.execute(
            """SELECT k.pack_id, s.dead FROM packs AS k JOIN sparse AS s USING (pack_no)
            WHERE k.state = 'live' AND NOT k.bad AND NOT k.unreachable AND k.proved_at <= ?
            ORDER BY s.nth""",
            [to_utc(now + CLOCK_SLACK)],
        ).fetchall()
    return [SparsePack(PackId(pack.hex), int(dead)) for pack, dead in rows]


def _shares_in(
    catalog: CatalogLocation, places: Slice, needed: Seen, below: float
) -> list[tuple[float, int, int]]:
    """Packs with a smaller share that is needed, but some: that share, which, the other bytes."""
    with reading(catalog) as connection:
        rows = connection.execute(
            f"""SELECT {KEY} AS key, pack_no, length, serves FROM places WHERE {places.within}"""  # noqa: S608
        ).fetchnumpy()
    packs, which = np.unique(rows["pack_no"], return_inverse=True)
    live = rows["serves"] & needed.has(rows["key"].astype(np.uint64, copy=False))
    total = np.bincount(which, rows["length"], len(packs))
    needed_bytes = np.bincount(which[live], rows["length"][live], len(packs))
    share = needed_bytes / np.maximum(total, 1)
    dead = (total - needed_bytes).astype(np.int64)
    sparse = (share > 0) & (share < below)
    columns = (share, packs, dead)
    return list(zip(*(column[sparse].tolist() for column in columns), strict=True))
