"""Which packs a VM uses, as a version that is recorded changes it.

Earlier turns stay as they were, so only packs are looked at that a changed chunk lies in, and only
the VM's last map.
"""

from datetime import datetime

from catalog.connection import Connection
from catalog.finding import packs_holding, rows_of
from catalog.serving import STILL, note_lost


def note_uses(connection: Connection, vm_no: int, gone: str, turn: int, now: datetime) -> int:
    """Bring `pack_uses` of the VM up to date; lost chunks get their place nowhere.

    Args:
        connection: In a transaction; `changes` has what changed, `still` the map before.
        vm_no: Which VM.
        gone: The condition that a row of `maps` is of a disk which the VM has no more.
        turn: The version's.
        now: The present.

    Returns:
        How many of the chunks that the version brought are in no pack.
    """
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE touched AS
        SELECT chunk, bool_or(new) AS new FROM (
            SELECT after AS chunk, true AS new FROM changes
            UNION ALL SELECT before, false FROM changes
            UNION ALL SELECT chunk, false FROM maps WHERE until = ? AND {gone})
        WHERE chunk IS NOT NULL GROUP BY chunk""",  # noqa: S608
        [turn],
    )
    places = "places"
    if (packs := packs_holding(connection, "touched")) is not None:
        connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE near_places AS
            SELECT chunk, pack_no, serves FROM ({rows_of(packs)})"""  # noqa: S608
        )
        places = "near_places"
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE its_places AS
        SELECT p.chunk, p.pack_no, p.serves, t.new
        FROM {places} AS p JOIN touched AS t ON t.chunk = p.chunk"""  # noqa: S608
    )
    lost = note_lost(connection, "(SELECT chunk FROM touched WHERE new)", now, "its_places")
    _begin_and_end_uses(connection, places, vm_no, turn)
    return lost


def _begin_and_end_uses(connection: Connection, places: str, vm_no: int, turn: int) -> None:
    """Of the packs that serve chunks in `its_places`; what was used in earlier turns stays so.

    A pack is used on if it serves what the version brought, or what did not change.
    """
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE hit AS
        WITH hit AS (
            SELECT pack_no, bool_or(new) AS used FROM its_places WHERE serves GROUP BY pack_no
        ), remaining AS (
            SELECT chunk FROM still ANTI JOIN changes USING (disk_no, position)
        )
        SELECT pack_no, used OR pack_no IN (
            SELECT p.pack_no FROM {places} AS p
            SEMI JOIN (SELECT pack_no FROM hit WHERE NOT used) AS h ON h.pack_no = p.pack_no
            SEMI JOIN remaining AS r ON r.chunk = p.chunk WHERE p.serves) AS used
        FROM hit"""  # noqa: S608
    )
    connection.execute(
        f"""UPDATE pack_uses SET until = $turn FROM hit AS h
        WHERE pack_uses.vm_no = $vm AND pack_uses.until = {STILL} AND NOT h.used
          AND h.pack_no = pack_uses.pack_no""",  # noqa: S608
        {"vm": vm_no, "turn": turn},
    )
    connection.execute(
        f"""INSERT INTO pack_uses (vm_no, pack_no, since, until)
        SELECT $vm, n.pack_no, $turn, {STILL}
        FROM (SELECT pack_no FROM hit WHERE used UNION SELECT 0 FROM lost) AS n
        ANTI JOIN (SELECT pack_no FROM pack_uses WHERE vm_no = $vm AND until = {STILL}) AS u
            ON u.pack_no = n.pack_no
        ORDER BY n.pack_no""",  # noqa: S608
        {"vm": vm_no, "turn": turn},
    )
