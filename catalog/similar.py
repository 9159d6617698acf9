"""Versions that a new VM's disks may resemble: of VMs with the same number and sizes of disks."""

from collections.abc import Sequence

from catalog.connection import CatalogFile, reading


def similar_versions(catalog: CatalogFile, sizes: Sequence[int], *, most: int) -> list[str]:
    """Names of such versions' records: the last of each VM, if proved whole, newest first.

    Args:
        catalog: Which.
        sizes: Of the disks, in the order in which they are plugged in.
        most: How many are wanted.
    """
    with reading(catalog) as connection:
        rows = connection.execute(
            """WITH shapes AS (
                SELECT version_no, list(
                    size_bytes ORDER BY try_cast(plugged_at AS INTEGER) NULLS LAST, plugged_at
                ) AS sizes
                FROM version_disks GROUP BY version_no
            )
            SELECT v.record FROM versions AS v JOIN shapes USING (version_no)
            WHERE v.state = 'committed' AND v.verdict = 'good' AND NOT v.damaged
                AND v.unproved_packs = 0 AND v.unreachable_packs = 0
                AND shapes.sizes = ?::UBIGINT[]
            QUALIFY row_number() OVER (PARTITION BY v.vm_no ORDER BY v.turn DESC) = 1
            ORDER BY v.taken_at DESC, v.version_no DESC LIMIT ?""",
            [list(sizes), most],
        ).fetchall()
    return [str(record) for (record,) in rows]
