"""What each VM's versions need, for the lists that vault hosts without a key go by."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping

from catalog.connection import CatalogLocation, reading
from catalog.staging import staged
from likeness.model.ids import PackId, VersionId, VmId
from likeness.store.write.needs_listing import Uses

_WHOLE = """SELECT vm_no, turn, version_id, record FROM versions AS v
    WHERE state = 'committed' AND NOT EXISTS (
        SELECT 1 FROM pack_uses AS n WHERE n.vm_no = v.vm_no AND n.pack_no = 0
            AND n.since <= v.turn AND v.turn < n.until)"""
"""Versions of which nothing is lost."""


def stamps_of_needs(catalog: CatalogLocation) -> dict[VmId, str]:
    """For each VM with versions 16 hex digits, others whenever what they need changes."""
    with reading(catalog) as connection:
        rows = connection.execute(
            f"""WITH whole AS ({_WHOLE}), said AS (
                SELECT vm_no, bit_xor(hash(version_id, turn)) AS stamp FROM whole GROUP BY vm_no
            ), used AS (
                SELECT u.vm_no, bit_xor(hash(k.pack_id, u.since, u.until)) AS stamp
                FROM pack_uses AS u JOIN packs AS k USING (pack_no) GROUP BY u.vm_no
            )
            SELECT x.vm_id, printf('%016x', xor(said.stamp, coalesce(used.stamp, 0)))
            FROM said JOIN vms AS x USING (vm_no) LEFT JOIN used USING (vm_no)"""  # noqa: S608  # our own words
        ).fetchall()
    return {VmId(vm.hex): stamp for vm, stamp in rows}


def uses_of_vm(catalog: CatalogLocation, vm: VmId) -> Uses:
    """What a VM's versions need, oldest first."""
    with reading(catalog) as connection:
        versions = connection.execute(
            f"""SELECT v.turn, v.record FROM ({_WHOLE}) AS v JOIN vms AS x USING (vm_no)
            WHERE x.vm_id = ? ORDER BY v.turn""",  # noqa: S608  # our own words
            [vm],
        ).fetchall()
        packs = connection.execute(
            """SELECT k.pack_id, u.since, u.until FROM pack_uses AS u
            JOIN packs AS k USING (pack_no) JOIN vms AS x USING (vm_no)
            WHERE x.vm_id = ? AND k.pack_no <> 0 ORDER BY k.pack_id, u.since""",
            [vm],
        ).fetchall()
    turns = [turn for turn, _ in versions]

    spans = (
        (PackId(pack.hex), bisect_left(turns, since), bisect_left(turns, until))
        for pack, since, until in packs
    )
    return Uses([record for _, record in versions], [each for each in spans if each[1] < each[2]])


def listed_short(
    catalog: CatalogLocation, vm: VmId, listed: Mapping[VersionId, Iterable[PackId]]
) -> list[VersionId]:
    """Versions of a VM of which a needs list omits data.

    Args:
        catalog: Made of the store, so that it does not rest on what wrote the list.
        vm: Whose.
        listed: Packs that each version is said to need.
    """
    with staged(catalog) as stage:
        stage.rows("told_needs", ((v, p) for v, packs in listed.items() for p in packs))
        stage.rows("told_versions", ((version,) for version in listed))
        with reading(catalog) as connection:
            stage.load(connection, "told_needs", version="UUID", pack="UUID")
            stage.load(connection, "told_versions", version="UUID")
            rows = connection.execute(
                """WITH has AS (
                    SELECT n.version, k.pack_no FROM told_needs AS n
                    JOIN packs AS k ON k.pack_id = n.pack
                ), used AS (
                    SELECT v.version_id, v.vm_no, v.turn, u.pack_no
                    FROM versions AS v JOIN vms AS x USING (vm_no)
                    SEMI JOIN told_versions AS t ON t.version = v.version_id
                    JOIN pack_uses AS u
                        ON u.vm_no = v.vm_no AND u.since <= v.turn AND v.turn < u.until
                    WHERE x.vm_id = ? AND u.pack_no <> 0
                ), other AS (
                    SELECT * FROM used AS u ANTI JOIN has AS h
                        ON h.version = u.version_id AND h.pack_no = u.pack_no
                ), chunks AS (
                    SELECT DISTINCT o.version_id, p.chunk FROM other AS o
                    JOIN places AS p ON p.pack_no = o.pack_no AND p.serves
                    JOIN disks AS d ON d.vm_no = o.vm_no
                    JOIN maps AS m ON m.disk_no = d.disk_no AND m.chunk = p.chunk
                        AND m.since <= o.turn AND o.turn < m.until
                )
                SELECT DISTINCT c.version_id FROM chunks AS c
                ANTI JOIN (
                    SELECT h.version, p.chunk FROM has AS h JOIN places AS p USING (pack_no)
                ) AS e ON e.version = c.version_id AND e.chunk = c.chunk
                ORDER BY c.version_id""",
                [vm],
            ).fetchall()
    return [VersionId(row[0].hex) for row in rows]
