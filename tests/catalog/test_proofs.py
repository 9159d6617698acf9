"""No path leads to green with a chunk that was not proved; damage turns exactly those red."""

import random
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.chunks import must_read
from catalog.connection import CatalogLocation, reading
from catalog.dedup import drop_duplicates, record_deleted_packs
from catalog.proofs import record_proofs
from catalog.recording_packs import record_packs
from catalog.session import catalog_session
from catalog.validation import packs_to_prove, proof_outlook
from catalog.values import DocumentCheck, Proved, Verdict, VersionRow, Why
from catalog.verdicts import VerdictFacts, judge
from catalog.versions import list_versions
from likeness.model.disk import Extent
from likeness.model.ids import PackId, VersionId
from likeness.store.check.proving import Finding, PackProof
from tests.catalog.history import CHUNKS, History, random_map
from tests.catalog.scenes import (
    CHUNK_BYTES,
    DAY,
    MONTH,
    NOW,
    damaged,
    disk,
    missing,
    pack,
    proved,
    unreachable,
    validated,
)
from tests.support.catalog_rows import copies_of, damage_rows, verdict_history

SECOND = timedelta(seconds=1)


def verdicts(catalog: CatalogLocation, now: datetime = NOW) -> dict[tuple[str, int], Verdict]:
    """What is shown of every version."""
    rows = list_versions(catalog, now, MONTH)
    return {(row.vm_name, row.sequence): row.verdict for row in rows}


def one_vm(catalog: CatalogLocation) -> History:
    """A VM with two chunks in two packs."""
    history = History(catalog)
    history.back_up("web", {0: {0: CHUNKS[0], 3: CHUNKS[1]}}, packs=2)
    return history


def the_row(catalog: CatalogLocation, now: datetime = NOW) -> VersionRow:
    (row,) = list_versions(catalog, now, MONTH)
    return row


def judged(history: History, proofs: Iterable[PackProof], now: datetime = NOW) -> Proved:
    """Write proofs down, and judge every version there is."""
    return validated(history.catalog, proofs, now, MONTH, versions=history.versions)


def test_v3_a_version_nobody_looked_at_is_not_green_for_the_proofs_of_others(
    catalog: CatalogLocation,
) -> None:
    history = one_vm(catalog)
    judged(history, proved(*history.packs.values()))
    history.back_up("web", {0: {0: CHUNKS[0], 3: CHUNKS[1]}})
    told = validated(catalog, proved(*history.packs.values(), at=NOW + DAY), NOW + DAY, MONTH)
    assert told.changes == (), "its own record and block maps were not read back"
    assert verdicts(catalog, NOW + DAY) == {
        ("web", 1): Verdict.GOOD,
        ("web", 2): Verdict.UNCHECKED,
    }
    assert len(judged(history, [], NOW + DAY).turned_good) == 1


def test_v3_green_needs_every_pack(catalog: CatalogLocation) -> None:
    history = one_vm(catalog)
    first, second = history.packs.values()
    assert the_row(catalog).verdict is Verdict.UNCHECKED
    told = judged(history, proved(first))
    assert told.changes == ()
    assert the_row(catalog).reason == "1 of its 2 packs never read back"
    told = validated(catalog, proved(second, at=NOW + DAY), NOW + DAY, MONTH)
    (change,) = told.turned_good
    assert (change.vm_name, change.sequence, change.before) == ("web", 1, Verdict.UNCHECKED)
    row = the_row(catalog, NOW + DAY)
    assert (row.verdict, row.oldest_proof_at) == (Verdict.GOOD, NOW)
    assert (told.packs, told.proved_bytes) == (1, second.size_bytes)


def test_v4_a_chunk_that_three_vms_share_turns_all_their_versions_red_at_once(
    catalog: CatalogLocation,
) -> None:
    history = History(catalog)
    for which, versions in {"web": 3, "db": 2, "app": 2}.items():
        for number in range(versions):
            history.back_up(which, {0: {2: CHUNKS[0], 3: CHUNKS[0], 5 + number: CHUNKS[1]}})
    history.back_up("other", {0: {0: CHUNKS[2]}})
    judged(history, proved(*history.packs.values()))
    record_deleted_packs(catalog, drop_duplicates(catalog, NOW).redundant, NOW)
    first = next(iter(history.packs.values()))

    told = validated(catalog, [damaged(first, CHUNKS[0], at=NOW + DAY)], NOW + DAY, MONTH)

    assert len(told.turned_bad) == 7
    assert {(c.vm_name, c.sequence) for c in told.turned_bad} == {
        key for key in verdicts(catalog, NOW + DAY) if key[0] != "other"
    }
    for change in told.turned_bad:
        (only,) = change.disks
        assert only.ranges == (Extent(2 * CHUNK_BYTES, 2 * CHUNK_BYTES),)
        assert (only.disk, only.affected_bytes) == (disk(change.vm_name), 2 * CHUNK_BYTES)
    assert verdicts(catalog, NOW + DAY)["other", 1] is Verdict.GOOD
    (incident,) = damage_rows(catalog)
    assert (incident.pack, incident.kind, incident.first_seen) == (
        *(first.pack, "damaged", NOW + DAY),
    )
    assert (
        validated(catalog, [damaged(first, CHUNKS[0], at=NOW + DAY)], NOW + DAY, MONTH).changes
        == ()
    ), "the same incident is told once"


def test_versions_that_do_not_need_the_damaged_chunk_stay_green(catalog: CatalogLocation) -> None:
    history = History(catalog)
    history.back_up("web", {0: {0: CHUNKS[0], 1: CHUNKS[1]}})
    history.back_up("web", {0: {0: CHUNKS[0]}})
    (only,) = history.packs.values()
    told = judged(history, [damaged(only, CHUNKS[1])])
    assert [c.sequence for c in told.turned_bad] == [1]
    assert verdicts(catalog) == {("web", 1): Verdict.BAD, ("web", 2): Verdict.GOOD}


def test_v10_what_could_not_be_checked_is_amber_and_never_red(catalog: CatalogLocation) -> None:
    history = one_vm(catalog)
    first, second = history.packs.values()
    told = judged(history, [unreachable(first), *proved(second)])
    assert (told.could_not_check, told.packs, told.damaged_chunks) == (1, 1, 0)
    row = the_row(catalog)
    assert (row.verdict, row.reason) == (
        Verdict.STALE,
        "1 of its 2 packs could not be checked",
    )
    assert damage_rows(catalog) == []
    validated(catalog, proved(first, at=NOW + DAY), NOW + DAY, MONTH)
    assert the_row(catalog, NOW + DAY).verdict is Verdict.GOOD


def test_not_being_able_to_check_proves_nothing_and_heals_nothing(catalog: CatalogLocation) -> None:
    history = one_vm(catalog)
    first, second = history.packs.values()
    validated(catalog, [damaged(first), *proved(second)], NOW, MONTH)
    again = pack([first.locations[0].chunk])
    record_packs(catalog, [again], NOW)
    later = NOW + DAY
    validated(catalog, [unreachable(again, later), unreachable(second, later)], later, MONTH)
    assert the_row(catalog, later).verdict is Verdict.BAD
    assert len(damage_rows(catalog)) == 1
    outlook = proof_outlook(catalog, later, MONTH)
    assert (outlook.unproved_packs, outlook.oldest_proof_at) == (1, NOW)


def test_not_being_able_to_check_does_not_make_damage_good(catalog: CatalogLocation) -> None:
    history = one_vm(catalog)
    first, second = history.packs.values()
    validated(catalog, [*proved(second), missing(first)], NOW, MONTH)
    validated(catalog, [unreachable(first, NOW + DAY)], NOW + DAY, MONTH)
    assert the_row(catalog, NOW + DAY).verdict is Verdict.BAD
    assert {i.kind for i in damage_rows(catalog)} == {"missing"}


def test_a_glitch_is_over_when_the_pack_reads_well_again(catalog: CatalogLocation) -> None:
    history = one_vm(catalog)
    first, second = history.packs.values()
    proofs = [damaged(first, CHUNKS[0]), *proved(second)]
    validated(catalog, proofs, NOW, MONTH, versions=history.versions)
    told = validated(catalog, proved(first, at=NOW + DAY), NOW + DAY, MONTH)
    assert [c.sequence for c in told.healed] == [1]
    assert damage_rows(catalog) == []
    (past,) = damage_rows(catalog, open_only=False)
    assert (past.first_seen, past.cleared_at, past.healed_at) == (NOW, NOW + DAY, NOW + DAY)
    version = history.last["web"].record.version
    said = [verdict for _, verdict, _ in verdict_history(catalog, version)]
    assert said == [Verdict.UNCHECKED, Verdict.BAD, Verdict.GOOD]


def test_v9_a_new_copy_heals_only_when_it_was_proved(catalog: CatalogLocation) -> None:
    history = one_vm(catalog)
    first, second = history.packs.values()
    proofs = [damaged(first), *proved(second)]
    validated(catalog, proofs, NOW, MONTH, versions=history.versions)
    hurt = first.locations[0].chunk
    assert list(must_read(catalog, history.last["web"].record.vm)) == [disk("web")]
    again = pack([hurt])
    record_packs(catalog, [again], NOW)
    assert copies_of(catalog, [hurt])[hurt][0].pack == again.pack
    assert the_row(catalog).verdict is Verdict.BAD, "nobody has read the new copy yet"
    assert must_read(catalog, history.last["web"].record.vm)
    told = validated(catalog, proved(again, at=NOW + DAY), NOW + DAY, MONTH)
    assert [c.after for c in told.healed] == [Verdict.GOOD]
    assert must_read(catalog, history.last["web"].record.vm) == {}
    assert damage_rows(catalog) == []


def test_damage_that_another_proved_copy_makes_up_for_turns_nothing_red(
    catalog: CatalogLocation,
) -> None:
    history = History(catalog)
    history.back_up("web", {0: {0: CHUNKS[0], 1: CHUNKS[1]}})
    history.back_up("db", {0: {0: CHUNKS[0], 1: CHUNKS[2]}})
    first, second = history.packs.values()
    judged(history, proved(first, second))
    drop_duplicates(catalog, NOW)
    told = validated(catalog, [damaged(first, CHUNKS[0], at=NOW + DAY)], NOW + DAY, MONTH)
    assert (told.damaged_chunks, told.moved_chunks, told.turned_bad) == (1, 1, ())
    assert copies_of(catalog, CHUNKS[:1])[CHUNKS[0]][0].pack == second.pack
    assert set(verdicts(catalog, NOW + DAY).values()) == {Verdict.GOOD}


def test_a_proof_of_fewer_chunks_than_the_pack_should_hold_is_none(
    catalog: CatalogLocation,
) -> None:
    history = History(catalog)
    history.back_up("web", {0: {0: CHUNKS[0], 1: CHUNKS[1]}})
    (only,) = history.packs.values()
    part = PackProof(only.pack, Finding.PROVED, NOW, only.size_bytes, 1)
    assert validated(catalog, [part], NOW, MONTH).could_not_check == 1
    assert the_row(catalog).verdict is Verdict.STALE


def test_a_damaged_pack_without_a_list_is_wholly_damaged(catalog: CatalogLocation) -> None:
    history = History(catalog)
    history.back_up("web", {0: {0: CHUNKS[0], 1: CHUNKS[1]}})
    (only,) = history.packs.values()
    torn = PackProof(only.pack, Finding.DAMAGED, NOW, only.size_bytes, 0, cause="torn")
    told = validated(catalog, [torn], NOW, MONTH)
    assert told.damaged_chunks == 2
    assert told.turned_bad[0].disks[0].affected_bytes == 2 * CHUNK_BYTES


def test_proofs_may_come_twice_and_in_any_order(catalog: CatalogLocation) -> None:
    history = one_vm(catalog)
    first, second = history.packs.values()
    validated(catalog, [*proved(second), damaged(first, at=NOW + DAY)], NOW + DAY, MONTH)
    told = validated(catalog, proved(first), NOW + DAY, MONTH)
    assert (told.packs, told.changes) == (0, ())
    assert the_row(catalog, NOW + DAY).verdict is Verdict.BAD
    unknown = proved(pack([CHUNKS[5]]))
    assert validated(catalog, unknown, NOW + DAY, MONTH).packs == 0


def test_green_turns_amber_with_age_and_is_told_once(catalog: CatalogLocation) -> None:
    history = one_vm(catalog)
    judged(history, proved(*history.packs.values()))
    everything = list(history.versions)
    assert record_proofs(catalog, [], NOW + MONTH, MONTH, versions=everything).changes == ()
    late = NOW + MONTH + SECOND
    assert the_row(catalog, late).verdict is Verdict.STALE
    (change,) = record_proofs(catalog, [], late, MONTH, versions=everything).changes
    assert (change.before, change.after) == (Verdict.GOOD, Verdict.STALE)
    assert record_proofs(catalog, [], late, MONTH, versions=everything).changes == ()
    assert the_row(catalog, late).oldest_proof_at == NOW
    (shown,) = list_versions(catalog, late, None)
    assert shown.verdict is Verdict.GOOD, "never too old, where that is the setting"


def test_a_version_of_nothing_new_stays_grey_until_it_was_judged(catalog: CatalogLocation) -> None:
    history = one_vm(catalog)
    validated(catalog, proved(*history.packs.values()), NOW, MONTH)
    history.back_up("web", {0: {0: CHUNKS[0], 3: CHUNKS[1]}})
    history.back_up("empty", {0: {}})
    last = {key: value for key, value in verdicts(catalog).items() if key != ("web", 1)}
    assert set(last.values()) == {Verdict.UNCHECKED}
    asked = [history.last[which].record.version for which in ("web", "empty")]
    assert packs_to_prove(catalog, NOW, MONTH, versions=asked) == []
    told = validated(catalog, [], NOW, MONTH, versions=asked)
    assert {(c.vm_name, c.after) for c in told.changes} == {
        *(("web", Verdict.GOOD), ("empty", Verdict.GOOD)),
    }


def test_a_versions_own_documents_count_too(catalog: CatalogLocation) -> None:
    history = one_vm(catalog)
    validated(catalog, proved(*history.packs.values()), NOW, MONTH)
    version = history.last["web"].record.version

    def look(day: int, *, readable: bool | None) -> Verdict:
        at = NOW + day * DAY
        check = DocumentCheck(version, at, readable, ("map torn",))
        validated(catalog, [], NOW + 9 * DAY, MONTH, documents=[check])
        return the_row(catalog, NOW + 9 * DAY).verdict

    assert look(1, readable=None) is Verdict.STALE
    assert look(2, readable=False) is Verdict.BAD
    assert "map torn" in the_row(catalog, NOW + 9 * DAY).reason
    assert look(3, readable=None) is Verdict.BAD, "not being able to look makes nothing good"
    assert look(4, readable=True) is Verdict.GOOD
    assert look(3, readable=False) is Verdict.GOOD, "an older look says nothing new"


def test_clocks_that_jump_turn_nothing_green(catalog: CatalogLocation) -> None:
    history = one_vm(catalog)
    far = NOW + 400 * DAY
    judged(history, proved(*history.packs.values(), at=far), far)
    assert the_row(catalog, NOW).verdict is Verdict.UNCHECKED
    assert {p.why for p in packs_to_prove(catalog, NOW, MONTH)} == {Why.NEW}
    outlook = proof_outlook(catalog, NOW, MONTH)
    assert (outlook.unproved_packs, outlook.oldest_age) == (2, None)
    (change,) = record_proofs(catalog, [], NOW, MONTH, versions=list(history.versions)).changes
    assert change.after is Verdict.UNCHECKED
    assert the_row(catalog, far).verdict is Verdict.UNCHECKED, "it does not ripen either"
    validated(catalog, proved(*history.packs.values()), NOW, MONTH, versions=history.versions)
    assert the_row(catalog, NOW).verdict is Verdict.GOOD


def test_a_proof_dated_by_a_faster_clock_is_dated_now(catalog: CatalogLocation) -> None:
    history = one_vm(catalog)
    validated(catalog, proved(*history.packs.values(), at=NOW + 3 * DAY), NOW, MONTH)
    assert the_row(catalog).oldest_proof_at == NOW


def test_block_ages_are_those_of_the_packs(catalog: CatalogLocation) -> None:
    history = one_vm(catalog)
    first, _ = history.packs.values()
    validated(catalog, proved(first), NOW, MONTH)
    with reading(catalog) as connection:
        rows = connection.execute("SELECT chunk_key, proved_at FROM block_ages").fetchall()
    known = {key.bytes: at for key, at in rows}
    assert known == {
        first.locations[0].chunk[:16]: NOW.replace(tzinfo=None),
        next(c for c in CHUNKS[:2] if c != first.locations[0].chunk)[:16]: None,
    }


def test_packs_alone_never_make_a_version_green(catalog: CatalogLocation) -> None:
    history = one_vm(catalog)
    (only,) = history.versions
    record_proofs(catalog, proved(*history.packs.values()), NOW, MONTH, versions=[only])
    assert the_row(catalog).verdict is Verdict.UNCHECKED
    assert "block maps were never read back" in the_row(catalog).reason
    read = DocumentCheck(only, NOW, readable=True)
    record_proofs(catalog, [], NOW, MONTH, documents=[read])
    assert the_row(catalog).verdict is Verdict.GOOD


def test_old_documents_turn_a_version_amber_however_young_its_packs_are(
    catalog: CatalogLocation,
) -> None:
    history = one_vm(catalog)
    validated(catalog, proved(*history.packs.values()), NOW, MONTH, versions=history.versions)
    later = NOW + MONTH + DAY
    record_proofs(catalog, proved(*history.packs.values(), at=later), later, MONTH)
    assert the_row(catalog, later).verdict is Verdict.STALE
    assert "its own documents were last read back on 2030-01-01" in the_row(catalog, later).reason


@given(
    judged=st.booleans(),
    unproved=st.integers(0, 3),
    unreachable=st.integers(0, 3),
    damaged=st.booleans(),
    ages=st.lists(st.integers(-400, 400), max_size=3),
    documents=st.sampled_from([None, "whole", "broken", "unknown"]),
    documents_age=st.integers(-400, 400),
    max_age=st.sampled_from([None, timedelta(), MONTH]),
)
def test_green_is_said_of_nothing_else(
    *,
    judged: bool,
    unproved: int,
    unreachable: int,
    damaged: bool,
    ages: list[int],
    documents: str | None,
    documents_age: int,
    max_age: timedelta | None,
) -> None:
    proofs = sorted(NOW - days * DAY for days in ages)
    seen_at = NOW - documents_age * DAY if documents is not None else None
    facts = VerdictFacts(
        judged=judged,
        packs=unproved + len(ages),
        unproved=unproved,
        unreachable=unreachable,
        damaged=damaged,
        oldest=proofs[0] if proofs else None,
        newest=proofs[-1] if proofs else None,
        documents=documents,
        documents_at=seen_at,
    )
    verdict, reason = judge(facts, NOW, max_age)
    assert reason
    looks = [*proofs, *([seen_at] if seen_at else [])]
    young = all(max_age is None or NOW - at <= max_age for at in looks)
    earned = young and not any(at > NOW for at in looks)
    whole = documents == "whole"
    assert (verdict is Verdict.GOOD) == (
        judged and not (unproved or unreachable or damaged) and earned and whole
    )
    assert (verdict is Verdict.BAD) == (damaged or documents == "broken")


Seen = dict[PackId, tuple[str, datetime, frozenset[bytes]]]


class Walk:
    """A random life of a catalog beside the plain record of what was seen of every pack."""

    def __init__(self, empty: CatalogLocation, folder: Path, seed: int) -> None:
        self.dice = random.Random(seed)
        self.history = History.beside(empty, folder, at_once=seed % 4)
        self.catalog = self.history.catalog
        self.now = NOW
        self.proved_at: dict[tuple[PackId, bytes], datetime] = {}
        self.documents_at: dict[VersionId, datetime] = {}
        self.out_of_reach: set[PackId] = set()
        self.gone: set[PackId] = set()

    def step(self) -> None:
        """Do one thing, and look at every version."""
        self.now += timedelta(days=self.dice.choice([0, 1, 1, 12]), seconds=1)
        action = self.dice.choices(
            [self.back_up, self.prove, self.drop, self.refresh], [3, 5, 2, 1]
        )[0]
        action()
        self.look()

    def back_up(self) -> None:
        which = self.dice.choice(["web", "db", "app"])
        self.history.back_up(
            which, {0: random_map(self.dice, 6)}, packs=self.dice.randint(1, 3), now=self.now
        )

    def prove(self) -> None:
        proofs = []
        for each in self.history.packs.values():
            if each.pack in self.gone or self.dice.random() < 0.3:
                continue
            keys = [(each.pack, bytes(p.chunk)) for p in each.locations]
            finding = self.dice.choices("pdmu", [7, 1, 1, 1])[0]
            if finding == "u":
                proofs.append(unreachable(each, self.now))
                self.out_of_reach.add(each.pack)
                continue
            self.out_of_reach.discard(each.pack)
            hurt = set(self.dice.sample(keys, 1)) if finding == "d" else set()
            hurt = set(keys) if finding == "m" else hurt
            for key in keys:
                self.proved_at.pop(key, None)
                if key not in hurt:
                    self.proved_at[key] = self.now
            proofs += {
                "p": proved(each, at=self.now),
                "d": [
                    damaged(
                        each,
                        *(p.chunk for p in each.locations if (each.pack, bytes(p.chunk)) in hurt),
                        at=self.now,
                    )
                ],
                "m": [missing(each, self.now)],
            }[finding]
        looked_at = [each for each in self.history.versions if self.dice.random() < 0.5]
        self.documents_at.update(dict.fromkeys(looked_at, self.now))
        validated(self.catalog, proofs, self.now, MONTH, versions=looked_at)

    def drop(self) -> None:
        found = drop_duplicates(self.catalog, self.now).redundant
        if self.dice.random() < 0.6:
            record_deleted_packs(self.catalog, found, self.now)
            self.gone |= set(found)

    def refresh(self) -> None:
        record_proofs(self.catalog, [], self.now, MONTH)

    def copies(self, chunk: bytes) -> list[tuple[PackId, datetime | None]]:
        """Every copy that is still there, and when it was last seen to be well."""
        return [
            (p.pack, self.proved_at.get((p.pack, chunk)))
            for p in self.history.packs.values()
            if p.pack not in self.gone and any(x.chunk == chunk for x in p.locations)
        ]

    def look(self) -> None:
        for row in list_versions(self.catalog, self.now, MONTH):
            chunks = set(self.history.versions[row.version].maps[0].values())
            if row.verdict is Verdict.GOOD:
                assert self.now - self.documents_at[row.version] <= MONTH, "green on old documents"
            for chunk in chunks:
                copies = self.copies(chunk)
                if row.verdict is Verdict.GOOD:
                    assert any(
                        at is not None and self.now - at <= MONTH and p not in self.out_of_reach
                        for p, at in copies
                    ), "green with a chunk that nobody has proved"
            if row.verdict is Verdict.BAD:
                assert any(all(at is None for _, at in self.copies(chunk)) for chunk in chunks), (
                    "red although every chunk has a proved copy"
                )

    def finish(self) -> None:
        """Everything is read back and well: everything is green."""
        self.now += DAY
        left = [p for p in self.history.packs.values() if p.pack not in self.gone]
        validated(
            self.catalog,
            proved(*left, at=self.now),
            self.now,
            MONTH,
            versions=list(self.history.versions),
        )
        assert {row.verdict for row in list_versions(self.catalog, self.now, MONTH)} <= {
            Verdict.GOOD
        }


@settings(max_examples=12)
@given(seed=st.integers(0, 2**32))
def test_v3_no_path_leads_to_green_with_a_chunk_that_was_not_proved(
    empty: CatalogLocation, seed: int
) -> None:
    with TemporaryDirectory() as folder:
        walk = Walk(empty, Path(folder) / "c", seed)
        with catalog_session(walk.catalog):
            for _ in range(9):
                walk.step()
            walk.finish()
