"""Writing down what reading packs back has shown, and what it means for every version."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from catalog.chunks import affected_versions
from catalog.connection import CatalogLocation, Connection, from_utc, to_utc, writing
from catalog.finding import NONE
from catalog.serving import (
    CLOCK_SLACK,
    choose_serving,
    few_rows,
    refresh_facts,
    refresh_facts_of_moved,
    versions_using,
)
from catalog.staging import Stage, name_list, staged
from catalog.values import DocumentCheck, Proved, Verdict, VerdictChange
from catalog.verdicts import VerdictFacts, judge
from likeness.model.ids import VersionId, VmId
from likeness.store.check.proving import PackProof


def record_proofs(
    catalog: CatalogLocation,
    proofs: Iterable[PackProof],
    now: datetime,
    max_age: timedelta | None,
    *,
    versions: Iterable[VersionId] = (),
    documents: Iterable[DocumentCheck] = (),
) -> Proved:
    """Write down a batch of proofs and judge every version they concern, in one transaction.

    Only what a proof says is believed: "could not check" changes no age and clears no damage. A
    proof older than what is known of its pack changes nothing, so batches may come twice and in
    any order.

    Args:
        catalog: Which.
        proofs: Consumed before the lock is taken.
        now: The present; a proof from later is dated now.
        max_age: For how long a proof counts; none: for ever.
        versions: Judge these too. A version stays unchecked until it was judged once.
        documents: What is known of versions' own records and maps.
    """
    with staged(catalog) as stage:
        _stage_proofs(stage, proofs)
        _stage_documents(stage, documents)
        with writing(catalog) as connection:
            name_list(connection, stage, "asked_versions", versions)
            return _record(connection, stage, now, max_age)


def _stage_proofs(stage: Stage, proofs: Iterable[PackProof]) -> None:
    for proof in proofs:
        at = to_utc(proof.at).isoformat(sep=" ")
        extent = "some" if proof.damaged else "all"
        stage.rows(
            "proofs",
            [(proof.pack, proof.finding.value, at, extent, proof.chunks, proof.cause)],
        )
        stage.rows(
            "found_damage",
            ((proof.pack, d.chunk.hex()[:32], d.offset, d.cause) for d in proof.damaged),
        )


def _stage_documents(stage: Stage, documents: Iterable[DocumentCheck]) -> None:
    words = {True: "whole", False: "broken", None: "unknown"}
    stage.rows(
        "document_checks",
        (
            (d.version, words[d.readable], to_utc(d.at).isoformat(sep=" "), "; ".join(d.problems))
            for d in documents
        ),
    )


def _record(
    connection: Connection, stage: Stage, now: datetime, max_age: timedelta | None
) -> Proved:
    any_proofs, damaged, moved, counts = stage.has("proofs"), 0, 0, None
    if any_proofs:
        _load(connection, stage, now)
        damaged = _note_damage(connection)
        counts = connection.execute(
            """SELECT count(*) FILTER (p.finding <> 'could not check'),
                coalesce(sum(k.size_bytes) FILTER (p.finding IN ('proved', 'damaged')), 0),
                count(*) FILTER (p.finding = 'could not check')
            FROM checked AS p JOIN packs AS k USING (pack_no)"""
        ).fetchone()
        _note_packs(connection)
    else:
        for table in ("checked", "checked_packs"):
            connection.execute(f"CREATE OR REPLACE TEMP TABLE {table} (pack_no INTEGER)")
    if _distrust_the_future(connection, now) or any_proofs:
        moved = _choose_again(connection, now)
    _note_documents(connection, stage, now)
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE to_judge AS
        SELECT version_no FROM versions AS v WHERE to_judge AND (judged_at IS NOT NULL OR damaged)
        UNION SELECT version_no FROM versions
            WHERE version_id IN (SELECT id FROM asked_versions)
               OR version_id IN (SELECT version FROM document_checks)"""
    )
    changes = _judge_all(connection, stage, now, max_age)
    packs, proved_bytes, unreachable = counts or (0, 0, 0)
    return Proved(packs, int(proved_bytes), damaged, moved, unreachable, changes)


def _load(connection: Connection, stage: Stage, now: datetime) -> None:
    """`checked`: the newest proof of each known pack, unless more is known already.

    A pack of which fewer chunks were proved than it should hold was not proved.
    """
    stage.load(
        connection,
        "proofs",
        pack="UUID",
        finding="VARCHAR",
        at_time="TIMESTAMP",
        extent="VARCHAR",
        chunks="UINTEGER",
        cause="VARCHAR",
    )
    stage.load(
        connection, "found_damage", pack="UUID", chunk="UUID", start="UINTEGER", cause="VARCHAR"
    )
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE checked AS
        SELECT k.pack_no, p.pack, p.finding, least(p.at_time, ?) AS seen_at, p.extent, p.cause,
            (k.proved_at IS NULL OR k.bad OR p.finding <> 'proved') AS news
        FROM (
            SELECT o.pack, o.at_time, o.extent,
                row_number() OVER (PARTITION BY o.pack ORDER BY at_time DESC, finding) AS nth,
                CASE WHEN finding = 'proved' AND o.chunks < l.chunks THEN 'could not check'
                    ELSE finding END AS finding,
                CASE WHEN finding = 'proved' AND o.chunks < l.chunks
                    THEN 'fewer chunks were proved than it should hold' ELSE o.cause END AS cause
            FROM proofs AS o JOIN packs AS l ON l.pack_id = o.pack
        ) AS p
        JOIN packs AS k ON k.pack_id = p.pack
        WHERE p.nth = 1 AND k.state IN ('live', 'redundant')
          AND (k.checked_at IS NULL OR k.checked_at > ? OR least(p.at_time, ?) >= k.checked_at)""",
        [to_utc(now), to_utc(now + CLOCK_SLACK), to_utc(now)],
    )
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE checked_packs AS
        SELECT pack_no FROM checked WHERE news"""
    )


def _note_damage(connection: Connection) -> int:
    """Damage rows for what is damaged or missing; clear those of copies that are well again."""
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE not_well AS
        SELECT * FROM checked WHERE finding IN ('missing', 'damaged')"""
    )
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE damaged_now AS
        SELECT s.chunk, s.pack_no, s.start, c.seen_at,
            CASE c.finding WHEN 'missing' THEN 'missing' ELSE 'damaged' END AS kind,
            coalesce(any_value(f.cause), any_value(c.cause)) AS cause
        FROM not_well AS c
        JOIN (SELECT * FROM places
            WHERE {few_rows("pack_no", connection, "not_well", none=NONE)}) AS s
            ON s.pack_no = c.pack_no
        LEFT JOIN found_damage AS f ON f.pack = c.pack AND f.chunk = s.chunk
        WHERE (c.finding = 'missing')
           OR (c.finding = 'damaged' AND (c.extent = 'all' OR f.chunk IS NOT NULL))
        GROUP BY ALL"""  # noqa: S608
    )
    connection.execute(
        """UPDATE damaged_chunks SET last_seen = h.seen_at, cause = h.cause, kind = h.kind
        FROM damaged_now AS h
        WHERE damaged_chunks.chunk = h.chunk AND damaged_chunks.pack_no = h.pack_no
          AND damaged_chunks.start = h.start AND damaged_chunks.cleared_at IS NULL"""
    )
    connection.execute(
        """UPDATE damaged_chunks SET cleared_at = c.seen_at
        FROM checked AS c
        WHERE damaged_chunks.pack_no = c.pack_no AND damaged_chunks.cleared_at IS NULL
          AND c.finding IN ('proved', 'damaged')
          AND NOT EXISTS (SELECT 1 FROM damaged_now AS h WHERE h.chunk = damaged_chunks.chunk
              AND h.pack_no = damaged_chunks.pack_no AND h.start = damaged_chunks.start)"""
    )
    added = connection.execute(
        """INSERT INTO damaged_chunks (chunk, pack_no, start, kind, cause, first_seen, last_seen)
        SELECT chunk, pack_no, start, kind, cause, seen_at, seen_at FROM damaged_now AS h
        WHERE NOT EXISTS (SELECT 1 FROM damaged_chunks AS d WHERE d.chunk = h.chunk
            AND d.pack_no = h.pack_no AND d.start = h.start AND d.cleared_at IS NULL)"""
    ).fetchone()
    return int(added[0]) if added else 0


def _note_packs(connection: Connection) -> None:
    connection.execute(
        """UPDATE packs SET
            checked_at = c.seen_at,
            proved_at = CASE c.finding
                WHEN 'could not check' THEN packs.proved_at WHEN 'missing' THEN NULL
                ELSE c.seen_at END,
            bad = CASE c.finding
                WHEN 'could not check' THEN packs.bad WHEN 'proved' THEN false ELSE true END,
            unreachable = (c.finding = 'could not check'),
            cause = c.cause
        FROM checked AS c WHERE packs.pack_no = c.pack_no"""
    )


def _distrust_the_future(connection: Connection, now: datetime) -> bool:
    """Proofs that are dated in the future were made by a wrong clock, and count as none.

    Returns:
        Whether there are any.
    """
    later = to_utc(now + CLOCK_SLACK)
    if not connection.execute(
        "SELECT 1 FROM packs WHERE proved_at > ? OR checked_at > ? LIMIT 1", [later, later]
    ).fetchone():
        return False
    connection.execute(
        """INSERT INTO checked_packs SELECT pack_no FROM packs
        WHERE proved_at > ? OR checked_at > ?""",
        [later, later],
    )
    connection.execute(
        """UPDATE packs SET proved_at = CASE WHEN proved_at > ? THEN NULL ELSE proved_at END,
            checked_at = NULL
        WHERE proved_at > ? OR checked_at > ?""",
        [later, later, later],
    )
    return True


def _choose_again(connection: Connection, now: datetime) -> int:
    """Serve every chunk of the packs whose standing changed from its best copy."""
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE doubtful AS
        SELECT DISTINCT s.chunk FROM places AS s
        SEMI JOIN checked_packs AS c ON c.pack_no = s.pack_no
        WHERE {few_rows("s.pack_no", connection, "checked_packs", none=NONE)}"""  # noqa: S608
    )
    moved = choose_serving(connection, "doubtful", now)
    refresh_facts_of_moved(connection)
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE looked_at AS
        SELECT pack_no FROM checked_packs UNION SELECT pack_no FROM checked"""
    )
    versions_using(connection, "looked_at", "checked_versions")
    refresh_facts(connection, "checked_versions")
    return moved


def _note_documents(connection: Connection, stage: Stage, now: datetime) -> None:
    stage.load(
        connection,
        "document_checks",
        version="UUID",
        finding="VARCHAR",
        at_time="TIMESTAMP",
        problem="VARCHAR",
    )
    if not stage.has("document_checks"):
        return
    connection.execute(
        """UPDATE versions SET documents = d.finding, documents_at = least(d.at_time, ?),
            documents_problem = d.problem
        FROM document_checks AS d
        WHERE versions.version_id = d.version AND (versions.documents_at IS NULL
            OR versions.documents_at > ? OR least(d.at_time, ?) >= versions.documents_at)
          AND NOT (d.finding = 'unknown' AND versions.documents IS NOT DISTINCT FROM 'broken')""",
        [to_utc(now), to_utc(now + CLOCK_SLACK), to_utc(now)],
    )


def _judge_all(
    connection: Connection, stage: Stage, now: datetime, max_age: timedelta | None
) -> tuple[VerdictChange, ...]:
    """Judge the versions in `to_judge`; what changed goes into the history."""
    rows = connection.execute(
        """SELECT v.version_no, v.version_id, x.vm_id, v.vm_name, v.sequence, v.taken_at, v.verdict,
            v.packs, v.unproved_packs, v.unreachable_packs, v.damaged,
            v.oldest_proof_at, v.newest_proof_at, v.documents, v.documents_at,
            coalesce(v.documents_problem, '')
        FROM versions AS v SEMI JOIN to_judge AS j ON j.version_no = v.version_no
        JOIN vms AS x USING (vm_no)
        WHERE v.state = 'committed' ORDER BY v.vm_name, x.vm_id, v.turn"""
    ).fetchall()
    changed: dict[int, VerdictChange] = {}
    for number, version, vm, name, sequence, taken_at, before, *rest in rows:
        after, reason = judge(_facts(rest), now, max_age)
        if after != before:
            taken = from_utc(taken_at) or now
            changed[number] = VerdictChange(
                *(VersionId(version.hex), VmId(vm.hex), name, sequence, taken),
                *(Verdict(before), after, reason),
            )
    connection.execute(
        """UPDATE versions SET judged_at = ?, to_judge = false
        FROM to_judge AS j WHERE versions.version_no = j.version_no""",
        [to_utc(now)],
    )
    _write_changes(connection, stage, changed, now)
    return _with_ranges(connection, changed)


def _facts(row: list[object]) -> VerdictFacts:
    packs, unproved, unreachable, damaged, oldest, newest, documents, seen_at, problem = row
    return VerdictFacts(
        judged=True,
        packs=int(str(packs)),
        unproved=int(str(unproved)),
        unreachable=int(str(unreachable)),
        damaged=bool(damaged),
        oldest=from_utc(oldest) if isinstance(oldest, datetime) else None,
        newest=from_utc(newest) if isinstance(newest, datetime) else None,
        documents=str(documents) if documents is not None else None,
        documents_at=from_utc(seen_at) if isinstance(seen_at, datetime) else None,
        problem=str(problem),
    )


def _write_changes(
    connection: Connection, stage: Stage, changed: dict[int, VerdictChange], now: datetime
) -> None:
    rows = ((number, change.after.value, change.reason) for number, change in changed.items())
    stage.rows("judged", rows)
    stage.load(connection, "judged", version_no="INTEGER", verdict="VARCHAR", reason="VARCHAR")
    connection.execute(
        """UPDATE versions SET verdict = j.verdict FROM judged AS j
        WHERE versions.version_no = j.version_no"""
    )
    connection.execute(
        """INSERT INTO verdicts (version_no, verdict, reason, decided_at)
        SELECT version_no, verdict, reason, ? FROM judged""",
        [to_utc(now)],
    )


def _with_ranges(
    connection: Connection, changed: dict[int, VerdictChange]
) -> tuple[VerdictChange, ...]:
    """The same changes, and where those that turned bad are damaged."""
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE turned_bad AS
        SELECT version_no FROM judged WHERE verdict = 'bad'"""
    )
    if all(change.after is not Verdict.BAD for change in changed.values()):
        return tuple(changed.values())
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE bad_chunks AS
        SELECT DISTINCT chunk FROM damaged_chunks WHERE healed_at IS NULL"""
    )
    damaged_now = {
        a.version: a.disks for a in affected_versions(connection, "bad_chunks", "turned_bad")
    }
    return tuple(
        VerdictChange(
            *(c.version, c.vm, c.vm_name, c.sequence, c.taken_at, c.before, c.after, c.reason),
            disks=damaged_now.get(c.version, ()) if c.after is Verdict.BAD else (),
        )
        for c in changed.values()
    )
