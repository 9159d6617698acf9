"""The global pass: what several packs hold is kept once, where it was proved.

A copy nobody has read back is never relied on in place of another VM's own one: a source could
have sent anything under any chunk id. Nor is one that was read back long ago: nobody knows what has
become of it since. So the pass runs after the commit, for what was proved before, and again after
validation, which reads old copies once more for it. It only decides; the store gives the packs back
afterwards.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from catalog.connection import CatalogLocation, Connection, to_utc, writing
from catalog.finding import NONE, in_packs_of, packs_holding
from catalog.serving import (
    CLOCK_SLACK,
    choose_serving,
    few_rows,
    note_lost,
    of_disks_using,
    refresh_facts,
    refresh_facts_of_moved,
    refresh_uses,
    versions_using,
)
from catalog.staging import name_list, staged
from catalog.values import Duplicates
from likeness.model.ids import PackId, RunId

PROOF_COUNTS_FOR = timedelta(days=30)
"""How old the proof of a copy that is kept may be, where a site sets no limit of its own."""


def drop_duplicates(
    catalog: CatalogLocation,
    now: datetime,
    *,
    run: RunId | None = None,
    packs: Collection[PackId] | None = None,
    max_age: timedelta = PROOF_COUNTS_FOR,
) -> Duplicates:
    """Find chunks that several packs hold, and packs that are not needed any more.

    A pack is redundant when every chunk of it is served by another pack that was proved within
    `max_age`, is whole and could be read when last tried. It serves nothing from then on. Safe to
    repeat; packs that an interrupted pass found are told again until they are given back.

    Args:
        catalog: Which.
        now: The present.
        run: Look at the packs a run brought.
        packs: Look at these packs. All packs if neither is given.
        max_age: How old the proof of what is kept may be.
    """
    with staged(catalog) as stage, writing(catalog) as connection:
        name_list(connection, stage, "asked_ids", packs or ())
        connection.execute(
            """CREATE OR REPLACE TEMP TABLE asked AS
            SELECT pack_no FROM packs SEMI JOIN asked_ids ON id = pack_id
            WHERE state IN ('live', 'redundant')
            UNION
            SELECT pack_no FROM packs
            WHERE state IN ('live', 'redundant') AND (? OR run_id = ?::UUID)""",
            [run is None and packs is None, run],
        )
        _find_copies(connection)
        choose_serving(connection, "shared", now)
        refresh_facts_of_moved(connection)
        near = in_packs_of(connection, "shared", "p.pack_no")
        _mark_redundant(connection, now, max_age, near)
        to_renew = _to_renew(connection, now, max_age, near)
        return replace(_tell(connection, now, max_age, near), to_renew=to_renew)


def _find_copies(connection: Connection) -> None:
    """`shared (chunk)`: chunks of the packs asked for that several packs hold."""
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE held AS
        SELECT o.chunk FROM places AS o SEMI JOIN asked AS a ON a.pack_no = o.pack_no
        WHERE {few_rows("o.pack_no", connection, "asked", none=NONE)}"""  # noqa: S608
    )
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE shared AS
        SELECT p.chunk FROM places AS p SEMI JOIN held AS c ON c.chunk = p.chunk
        JOIN packs AS k ON k.pack_no = p.pack_no AND k.state IN ('live', 'redundant')
        WHERE {in_packs_of(connection, "held", "p.pack_no")}
        GROUP BY p.chunk HAVING count(DISTINCT p.pack_no) > 1"""  # noqa: S608
    )


def _mark_redundant(connection: Connection, now: datetime, max_age: timedelta, near: str) -> None:
    """Packs with a shared chunk of which every chunk is well served elsewhere."""
    _serve_proved(connection, now, max_age, near)
    connection.execute(
        f"""UPDATE packs SET state = 'redundant' WHERE state = 'live' AND NOT bad AND pack_no IN (
            SELECT p.pack_no
            FROM places AS p
            SEMI JOIN (
                SELECT p.pack_no FROM places AS p SEMI JOIN shared AS s ON s.chunk = p.chunk
                WHERE {near}
            ) AS c ON c.pack_no = p.pack_no
            LEFT JOIN proved_copies AS w ON w.chunk = p.chunk AND w.pack_no <> p.pack_no
            WHERE {near} GROUP BY p.pack_no HAVING count(*) = count(w.chunk))"""  # noqa: S608
    )


def _to_renew(
    connection: Connection, now: datetime, max_age: timedelta, near: str
) -> tuple[PackId, ...]:
    """Packs whose proof is too old, and which would make others redundant with a new one."""
    _serve_proved(connection, now, None, near)
    rows = connection.execute(
        f"""WITH held AS (
            SELECT p.pack_no
            FROM places AS p
            SEMI JOIN (
                SELECT p.pack_no FROM places AS p SEMI JOIN shared AS s ON s.chunk = p.chunk
                WHERE {near}
            ) AS c ON c.pack_no = p.pack_no
            JOIN packs AS k ON k.pack_no = p.pack_no
                AND (k.state = 'redundant' OR (k.state = 'live' AND NOT k.bad))
            LEFT JOIN proved_copies AS w ON w.chunk = p.chunk AND w.pack_no <> p.pack_no
            WHERE {near} GROUP BY p.pack_no HAVING count(*) = count(w.chunk)
        )
        SELECT DISTINCT k.pack_no, k.pack_id
        FROM places AS p SEMI JOIN held AS h ON h.pack_no = p.pack_no
        JOIN proved_copies AS w ON w.chunk = p.chunk AND w.pack_no <> p.pack_no
        JOIN packs AS k ON k.pack_no = w.pack_no AND k.proved_at < ?
        WHERE {near} ORDER BY k.pack_no""",  # noqa: S608
        [to_utc(now - max_age)],
    ).fetchall()
    return tuple(PackId(pack.hex) for _, pack in rows)


def _serve_proved(
    connection: Connection, now: datetime, max_age: timedelta | None, near: str
) -> None:
    """`proved_copies (chunk, pack_no)`: shared chunks whose serving copy others may rely on."""
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE proved_copies AS
        SELECT p.chunk, p.pack_no
        FROM places AS p
        SEMI JOIN shared AS s ON s.chunk = p.chunk
        JOIN packs AS k ON k.pack_no = p.pack_no
        WHERE p.serves AND k.state = 'live' AND NOT k.bad AND NOT k.unreachable
          AND k.proved_at <= $later AND ($since IS NULL OR k.proved_at >= $since)
          AND {near}""",  # noqa: S608
        {
            "later": to_utc(now + CLOCK_SLACK),
            "since": to_utc(now - max_age) if max_age is not None else None,
        },
    )


def _tell(connection: Connection, now: datetime, max_age: timedelta, near: str) -> Duplicates:
    _serve_proved(connection, now, max_age, near)
    counts = connection.execute(
        f"""SELECT count(*), coalesce(sum(p.length), 0),
            count(w.chunk), coalesce(sum(p.length) FILTER (w.chunk IS NOT NULL), 0),
            count(*) FILTER (k.state = 'redundant'),
            coalesce(sum(p.length) FILTER (k.state = 'redundant'), 0)
        FROM places AS p
        SEMI JOIN asked AS a ON a.pack_no = p.pack_no
        JOIN packs AS k ON k.pack_no = p.pack_no
        LEFT JOIN proved_copies AS w ON w.chunk = p.chunk AND w.pack_no <> p.pack_no
        WHERE NOT p.serves AND {few_rows("p.pack_no", connection, "asked", none=NONE)}"""  # noqa: S608
    ).fetchone()
    waiting = connection.execute(
        "SELECT pack_id, size_bytes FROM packs WHERE state = 'redundant' ORDER BY pack_no"
    ).fetchall()
    known, known_bytes, served, served_bytes, dropped, dropped_bytes = counts or (0,) * 6
    return Duplicates(
        known_chunks=known,
        known_bytes=int(known_bytes),
        served_chunks=served,
        served_bytes=int(served_bytes),
        dropped_chunks=dropped,
        dropped_bytes=int(dropped_bytes),
        redundant=tuple(PackId(row[0].hex) for row in waiting),
        redundant_bytes=sum(row[1] for row in waiting),
    )


def holders(
    catalog: CatalogLocation,
    packs: Collection[PackId],
    now: datetime,
    *,
    max_age: timedelta = PROOF_COUNTS_FOR,
) -> dict[PackId, dict[PackId, int]]:
    """Those of some packs that still may be given back, and what holds their chunks instead.

    Asked again right before anything is deleted: a proof may have found out meanwhile that a pack
    which others rely on is damaged.

    Returns:
        For each pack that still waits to be given back: the packs to rely on, with their sizes in
        bytes. Whoever deletes it makes sure that these are there.
    """
    with staged(catalog) as stage, writing(catalog) as connection:
        name_list(connection, stage, "asked_ids", packs)
        connection.execute(
            """CREATE OR REPLACE TEMP TABLE waiting AS SELECT pack_no, pack_id FROM packs
            WHERE state = 'redundant' AND pack_id IN (SELECT id FROM asked_ids)"""
        )
        of_waiting = few_rows("p.pack_no", connection, "waiting", none=NONE)
        connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE shared AS SELECT DISTINCT p.chunk FROM places AS p
            SEMI JOIN waiting AS t ON t.pack_no = p.pack_no WHERE {of_waiting}"""  # noqa: S608
        )
        _serve_proved(connection, now, max_age, in_packs_of(connection, "shared", "p.pack_no"))
        rows = connection.execute(
            f"""SELECT DISTINCT t.pack_id, k.pack_id, k.size_bytes
            FROM waiting AS t
            JOIN places AS p ON p.pack_no = t.pack_no
            LEFT JOIN proved_copies AS w ON w.chunk = p.chunk AND w.pack_no <> p.pack_no
            LEFT JOIN packs AS k ON k.pack_no = w.pack_no WHERE {of_waiting}"""  # noqa: S608
        ).fetchall()
    bare = {waiting for waiting, holder, _ in rows if holder is None}
    found: dict[PackId, dict[PackId, int]] = {}
    for waiting, holder, size_bytes in rows:
        if waiting not in bare:
            found.setdefault(PackId(waiting.hex), {})[PackId(holder.hex)] = int(size_bytes)
    return found


def record_deleted_packs(catalog: CatalogLocation, packs: Iterable[PackId], now: datetime) -> None:
    """Note that packs are not in the store any more, because they were not needed; safe to repeat.

    A version that relies on one of them after all, as may be seen in a rebuild, is served from
    another copy if there is one, and turns red if there is none.
    """
    with staged(catalog) as stage, writing(catalog) as connection:
        name_list(connection, stage, "asked_ids", packs)
        connection.execute(
            """CREATE OR REPLACE TEMP TABLE going AS SELECT pack_no FROM packs
            WHERE pack_id IN (SELECT id FROM asked_ids) AND state IN ('live', 'redundant')"""
        )
        _note_orphans(connection)
        connection.execute(
            """UPDATE packs SET state = 'gone', gone_at = ?
            WHERE pack_no IN (SELECT pack_no FROM going)""",
            [to_utc(now)],
        )
        _forget_places(connection, now)
        connection.execute(
            """UPDATE packs SET state = 'gone', gone_at = ?
            WHERE state = 'condemned' AND pack_id IN (SELECT id FROM asked_ids)""",
            [to_utc(now)],
        )


def packs_condemned(catalog: CatalogLocation, packs: Iterable[PackId], now: datetime) -> int:
    """Note that packs wait to be deleted: nothing may rely on them; safe to repeat.

    Returns:
        How many were not condemned before.
    """
    with staged(catalog) as stage, writing(catalog) as connection:
        name_list(connection, stage, "asked_ids", packs)
        connection.execute(
            """CREATE OR REPLACE TEMP TABLE going AS SELECT pack_no FROM packs
            WHERE pack_id IN (SELECT id FROM asked_ids) AND state IN ('live', 'redundant')"""
        )
        _note_orphans(connection)
        changed = connection.execute(
            """UPDATE packs SET state = 'condemned'
            WHERE pack_no IN (SELECT pack_no FROM going)"""
        ).fetchone()
        _forget_places(connection, now)
    return int(changed[0]) if changed else 0


def _note_orphans(connection: Connection) -> None:
    """`orphans (chunk)`: what the packs in `going` serve."""
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE orphans AS SELECT DISTINCT p.chunk FROM places AS p
        SEMI JOIN going AS g ON g.pack_no = p.pack_no
        WHERE p.serves AND {few_rows("p.pack_no", connection, "going", none=NONE)}"""  # noqa: S608
    )


def _forget_places(connection: Connection, now: datetime) -> None:
    """Take the places of the packs in `going` away; what they served is served from elsewhere."""
    versions_using(connection, "going", "hit_versions")
    of_disks = of_disks_using(connection, packs_holding(connection, "orphans"))
    choose_serving(connection, "orphans", now)
    connection.execute(
        f"""DELETE FROM places WHERE pack_no IN (SELECT pack_no FROM going)
        AND {few_rows("pack_no", connection, "going", none=NONE)}"""  # noqa: S608
    )
    connection.execute(
        """UPDATE damaged_chunks SET cleared_at = ?
        WHERE cleared_at IS NULL AND pack_no IN (SELECT pack_no FROM going)""",
        [to_utc(now)],
    )
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE missed AS
        SELECT DISTINCT m.chunk FROM (SELECT * FROM maps WHERE {of_disks}) AS m
        SEMI JOIN orphans AS o ON o.chunk = m.chunk
        JOIN disks AS d USING (disk_no)
        JOIN versions AS v ON v.vm_no = d.vm_no AND m.since <= v.turn AND v.turn < m.until
        WHERE v.state = 'committed'"""  # noqa: S608
    )
    note_lost(connection, "missed", now)
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE use_pairs AS
        SELECT DISTINCT u.vm_no, p.pack_no
        FROM pack_uses AS u SEMI JOIN going AS g ON g.pack_no = u.pack_no
        CROSS JOIN (SELECT pack_no FROM going UNION SELECT 0) AS p"""
    )
    refresh_uses(connection)
    refresh_facts(connection, "hit_versions")
