"""A catalog with many VMs and many nights, made by SQL: only what pages read of it is true."""

from datetime import timedelta

from catalog.connection import CatalogLocation, to_utc, writing
from likeness.clock import system_clock
from likeness.model.ids import VmId
from tasks.pool_view import PoolView, PoolVm

JOBS = ("nightly", "databases", "desktops")


def vm_id(number: int) -> VmId:
    """The uuid of a VM by its number."""
    return VmId(f"{number:032x}")


def fill(catalog: CatalogLocation, vms: int, nights: int, vault: str) -> None:
    """Fill an empty catalog; the last ones of the VMs are late, damaged, unchecked, or failed."""
    now = to_utc(system_clock())
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)  # the pages go by its nights
    arguments = {"vms": vms, "nights": nights, "now": now, "today": today, "vault": vault}
    with writing(catalog) as connection:
        connection.execute(
            """INSERT INTO vms BY NAME SELECT n AS vm_no, printf('%032x', n)::UUID AS vm_id,
                printf('server-%03d', n) AS vm_name FROM range($vms) AS r(n)""",
            {"vms": vms},
        )
        connection.execute(
            """INSERT INTO disks BY NAME SELECT n AS disk_no, n AS vm_no,
                printf('%032x', n + 100000)::UUID AS disk_id, 262144 AS chunk_bytes
            FROM range($vms) AS r(n)""",
            {"vms": vms},
        )
        connection.execute(
            """INSERT INTO versions BY NAME SELECT
                (n * 1000 + d)::INTEGER AS version_no,
                printf('%016x%016x', n + 1, d)::UUID AS version_id, n::INTEGER AS vm_no,
                $nights - d AS turn, printf('server-%03d', n) AS vm_name, $nights - d AS sequence,
                '' AS record, '' AS digest,
                greatest($now - INTERVAL 3 HOUR, $today) - to_days(d::INTEGER) AS taken_at,
                greatest($now - INTERVAL 2 HOUR, $today) - to_days(d::INTEGER) AS committed_at,
                greatest($now - INTERVAL 2 HOUR, $today) - to_days(d::INTEGER) AS recorded_at,
                printf('%032x', d)::UUID AS run_id, 'nightly' AS job, 'standard' AS consistency,
                'standard' AS consistency_asked, '' AS note,
                printf('{"disk_bytes":107374182400,"read_bytes":%d,"sent_bytes":%d}',
                       (hash(n * 31 + d) % 9000000000)::BIGINT,
                       (hash(n * 37 + d) % 3000000000)::BIGINT) AS counts,
                'committed' AS state, 4 AS packs,
                CASE WHEN n = $vms - 4 AND d < 1 THEN 4 ELSE 0 END AS unproved_packs,
                0 AS unreachable_packs, n = $vms - 2 AND d BETWEEN 2 AND 3 AS damaged,
                $now - to_days(d::INTEGER) AS oldest_proof_at,
                $now - to_days(d::INTEGER) AS newest_proof_at,
                'whole' AS documents, $now AS documents_at, 'good' AS verdict,
                $now AS judged_at, false AS to_judge
            FROM range($vms) AS v(n), range($nights) AS e(d)
            WHERE NOT (n = $vms - 1 AND d < 4) AND hash(n * 41 + d) % 29 <> 0 OR d = 0
            AND n <> $vms - 1""",
            {key: arguments[key] for key in ("vms", "nights", "now", "today")},
        )
        connection.execute(
            """INSERT INTO version_disks BY NAME SELECT version_no, vm_no AS disk_no,
                107374182400 AS size_bytes, 'root' AS disk_name, '0' AS plugged_at
            FROM versions"""
        )
        connection.execute(
            """INSERT INTO vaulted_versions BY NAME SELECT version_no, $vault AS vault,
                $now AS vaulted_at FROM versions WHERE vm_no % 50 <> 7""",
            {key: arguments[key] for key in ("now", "vault")},
        )
        connection.execute(
            """INSERT INTO packs BY NAME SELECT version_no AS pack_no, version_id AS pack_id,
                (hash(version_no) % 2000000000)::UINTEGER AS size_bytes, ''::BLOB AS digest,
                64 AS chunks, run_id, version_no, recorded_at, 'live' AS state,
                recorded_at AS proved_at, false AS bad, false AS unreachable, '' AS cause
            FROM versions"""
        )
        connection.execute(
            """INSERT INTO run_vms BY NAME SELECT printf('%032x', d)::UUID AS run_id, 0 AS ordinal,
                printf('%032x', $vms - 1) AS vm_id, 'late' AS vm_name, 'failed' AS state,
                '' AS version_id, 0 AS disk_bytes, 0 AS read_bytes, 0 AS sent_bytes,
                0 AS new_bytes, 0 AS dropped_bytes, 0 AS freed_bytes, 0 AS snapshot_seconds,
                0 AS transfer_seconds, 0 AS commit_seconds, 'the pool is away' AS sentence,
                $now - to_days(d::INTEGER) AS recorded_at FROM range(2) AS e(d)""",
            {key: arguments[key] for key in ("vms", "now")},
        )


def pool_of(vms: int) -> PoolView:
    """What the pool has: all of them, and one VM that no job means."""
    seen = [
        PoolVm(vm_id(n), f"server-{n:03}", "Running", 100 << 30, (JOBS[n % 3],)) for n in range(vms)
    ]
    alone = PoolVm(
        vm_id(vms),
        "new | <b>one\u202e",
        "Running",
        10 << 30,
        (),
        starts_by_itself=False,
        reason="no job means it; add it to one by its name, a tag or its host",
    )
    return PoolView(system_clock() - timedelta(minutes=20), (*seen, alone))
