"""What a commit, or a rebuild from the store, tells the catalog of packs.

The places of a pack are told in the transaction that gives it its number, and numbers only grow:
`catalog.finding` relies on that.
"""

from collections.abc import Iterable
from datetime import datetime

from catalog.connection import CatalogLocation, Connection, to_utc, writing
from catalog.finding import in_packs_of
from catalog.keeping_parts import keep_parts
from catalog.serving import choose_serving, refresh_facts_of_moved
from catalog.staging import Stage, staged
from likeness.model.ids import CHUNK_ID_BYTES, RunId
from likeness.store.format.pack import PackReceipt
from likeness.store.read.index import KnownPack

AnyPack = PackReceipt | KnownPack
_KEY = CHUNK_ID_BYTES  # hex digits of the first 16 bytes


def record_packs(catalog: CatalogLocation, packs: Iterable[AnyPack], now: datetime) -> int:
    """Tell the catalog of packs that lie in the store; packs it knows are left as they are.

    Args:
        catalog: Which.
        packs: In any order; consumed once, before the lock is taken.
        now: The present.

    Returns:
        How many were new.
    """
    with staged(catalog) as stage:
        stage_packs(stage, packs, run=None)
        with writing(catalog) as connection:
            new = add_packs(connection, stage, now)
            refresh_facts_of_moved(connection)
    if new:
        keep_parts(catalog)
    return new


def stage_packs(
    stage: Stage, packs: Iterable[AnyPack], *, run: RunId | None, version: int = 0
) -> None:
    """Write packs and their places down, for `load_packs`; `version` is one of several."""
    for nth, pack in enumerate(packs):
        brought_by = run or (pack.run if isinstance(pack, KnownPack) else None) or None
        digest = pack.digest.hex()
        head = (version, nth, pack.pack, pack.size_bytes, digest, len(pack.locations), brought_by)
        stage.rows("new_packs", [head])
        stage.lines(
            "new_places",
            [f"{p.chunk.hex()[:_KEY]},{pack.pack},{p.offset},{p.length}\n" for p in pack.locations],
        )


def load_packs(connection: Connection, stage: Stage) -> None:
    """Temporary tables `new_packs` and `new_places` of what `stage_packs` wrote down."""
    stage.load(
        connection,
        "new_packs",
        version="UBIGINT",
        nth="UBIGINT",
        pack="UUID",
        size_bytes="UINTEGER",
        digest="VARCHAR",
        chunks="UINTEGER",
        run="UUID",
    )
    stage.load(
        connection, "new_places", chunk="UUID", pack="UUID", start="UINTEGER", length="UINTEGER"
    )


def add_packs(connection: Connection, stage: Stage, now: datetime) -> int:
    """Packs and places that are not known yet; afterwards `moved` has what they changed."""
    load_packs(connection, stage)
    if not stage.has("new_packs"):
        choose_serving(connection, "new_places", now)  # of nothing: `moved` is empty
        return 0
    before = _one(connection, "SELECT max(pack_no) FROM packs")
    connection.execute(
        """INSERT INTO packs (pack_no, pack_id, size_bytes, digest, chunks, run_id, recorded_at,
            state, bad, unreachable, cause)
        SELECT ? + row_number() OVER (ORDER BY min(version * 1000000 + nth)), pack,
            any_value(size_bytes), unhex(any_value(digest)), any_value(chunks), any_value(run), ?,
            'live', false, false, ''
        FROM new_packs AS n ANTI JOIN packs AS k ON k.pack_id = n.pack GROUP BY pack""",
        [before, to_utc(now)],
    )
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE fresh AS
        SELECT n.chunk, k.pack_no, n.start, n.length,
            row_number() OVER (PARTITION BY n.chunk ORDER BY k.pack_no, n.start) = 1 AS first
        FROM (SELECT DISTINCT * FROM new_places) AS n
        JOIN packs AS k ON k.pack_id = n.pack WHERE k.pack_no > ?""",
        [before],
    )
    near = in_packs_of(connection, "fresh")
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE doubtful AS SELECT DISTINCT chunk FROM fresh
        WHERE chunk IN (SELECT chunk FROM places WHERE {near})"""  # noqa: S608
    )
    connection.execute(
        """INSERT INTO places (chunk, pack_no, start, length, serves)
        SELECT f.chunk, f.pack_no, f.start, f.length, f.first AND d.chunk IS NULL
        FROM fresh AS f LEFT JOIN doubtful AS d ON d.chunk = f.chunk
        ORDER BY f.pack_no, f.start"""
    )
    choose_serving(connection, "doubtful", now)
    return _one(connection, "SELECT count(*) FROM packs WHERE pack_no > ?", before)


def _one(connection: Connection, query: str, *arguments: object) -> int:
    row = connection.execute(query, list(arguments)).fetchone()
    return int(row[0] or 0) if row else 0
