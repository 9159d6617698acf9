"""The rows V2 to V10, on a real store and a real catalog, without a Prefect server."""

from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from catalog.dedup import drop_duplicates, record_deleted_packs
from catalog.incidents import note_incidents, untold_incidents
from catalog.reconciling import expire_versions
from catalog.validation import proof_outlook
from catalog.values import Verdict, Why
from likeness.errors import ShareRefused, ShareUnreachable, StoreMissing
from likeness.model.ids import PackId
from likeness.store.check.proving import Finding
from tasks.ages import AgeLimit, age_limit
from tasks.letters import damage_letter
from tests.support.catalog_rows import verdict_history
from tests.support.faulty import Fault, FaultyTransport
from tests.support.memory import MemoryTransport
from tests.unit.workshop import CHUNK, SecondLook, changed, flipped, noise
from tests.validation.house import DAY, House

GOOD, BAD, STALE, UNCHECKED = Verdict.GOOD, Verdict.BAD, Verdict.STALE, Verdict.UNCHECKED
SHARED = noise("shared", CHUNK)
HOUR = timedelta(hours=1)


def disk(name: str, chunks: int = 12) -> bytes:
    """A disk of its own content."""
    return noise(name, chunks * CHUNK)


# -- V2 ------------------------------------------------------------------------------------------


def test_v2_every_kind_of_forgery_is_found_and_named_differently(house: House) -> None:
    version = house.back_up("web", disk("web"))
    one, other = sorted(house.workshop.packs_of(version))[:2]
    whole = {pack: house.read(pack) for pack in (one, other)}
    said: dict[str, str] = {}

    def found(kind: str, pack: PackId = one) -> None:
        with house.prover() as prover:
            (proof,) = house.workshop.prove({pack}, prover.store)
        assert proof.finding in (Finding.DAMAGED, Finding.MISSING, Finding.PROVED)
        said[kind] = f"{proof.finding}: {proof.damaged[0].cause if proof.damaged else proof.cause}"
        for each, data in whole.items():
            house.write(each, data)

    house.write(one, flipped(whole[one], len(whole[one]) // 2))
    found("payload")
    house.write(one, flipped(whole[one], 3))
    found("header")
    house.write(one, whole[one][: len(whole[one]) // 3])
    found("truncated")
    house.write(one, whole[other])
    found("swapped")
    house.lose(one)
    found("gone")

    assert len(set(said.values())) == len(said), said
    assert said["gone"].startswith("missing")
    assert said["header"].startswith("proved")  # a second copy of the header opens every record
    assert "signed for" in said["header"]


def test_v2_a_record_that_was_altered_or_replaced_by_an_older_one_is_found(house: House) -> None:
    first = house.back_up("web", disk("web"))
    second = house.back_up("web", changed(disk("web"), (0, b"new")))
    house.validate()
    record, older = (house.folder / "store" / version.name for version in (second, first))
    whole = record.read_bytes()
    said = []
    for forged in (flipped(whole, len(whole) // 2), older.read_bytes(), whole[:-20]):
        record.write_bytes(forged)
        said.append(house.workshop.prove_documents(second).problems)
        assert not house.workshop.prove_documents(second).readable
    assert len(set(said)) == len(said), said

    record.write_bytes(older.read_bytes())
    house.clock.now += 31 * DAY
    house.validate()

    assert house.verdicts() == {"web": [GOOD, BAD]}


# -- V3 ------------------------------------------------------------------------------------------


def test_v3_a_version_is_green_only_when_all_of_it_was_read_back(house: House) -> None:
    version = house.back_up("web", disk("web"), disk("logs"))
    packs = sorted(house.workshop.packs_of(version))
    assert len(packs) > 2

    with house.prover() as prover:
        for pack in packs[:-1]:
            prover.prove([pack])
            prover.judge([version.version], prover.documents(None, house.folder / "work"))
            assert house.verdicts() == {"web": [UNCHECKED]}
        prover.prove(packs[-1:])
        prover.judge([version.version])

    assert house.verdicts() == {"web": [GOOD]}
    house.clock.now += 31 * DAY
    assert house.verdicts() == {"web": [STALE]}


# -- V4 ------------------------------------------------------------------------------------------


def three_vms_and_seven_versions(house: House) -> PackId:
    """Seven versions of three VMs share one chunk; others of the same VMs and of a fourth do not.

    Returns:
        The pack the shared chunk lies in, alone.
    """
    template = house.back_up("template", SHARED)
    (pack,) = house.workshop.packs_of(template)
    house.validate()
    empty = SHARED + bytes(3 * CHUNK)
    for vm in ("web", "db", "app"):
        house.back_up(vm, empty)
    house.validate()
    deleted_packs = drop_duplicates(house.catalog, house.clock()).redundant
    assert len(deleted_packs) == 3  # one copy is left, the template's
    record_deleted_packs(house.catalog, deleted_packs, house.clock())
    for gone in deleted_packs:
        house.lose(gone)
    expire_versions(house.catalog, [template.version], house.clock())
    for number, vm in enumerate(("web", "web", "db", "app")):
        house.back_up(vm, changed(empty, (2 * CHUNK, noise(number, CHUNK))))
    for vm in ("web", "db", "app"):
        house.back_up(vm, changed(empty, (0, noise(vm, CHUNK))))
    house.back_up("alone", disk("alone", 4))
    house.validate()
    return pack


def test_v4_a_block_shared_by_3_vms_turns_exactly_their_7_versions_red_in_one_transaction(
    house: House,
) -> None:
    pack = three_vms_and_seven_versions(house)
    assert {v for each in house.verdicts().values() for v in each} == {GOOD}
    assert note_incidents(house.catalog, house.clock()) == 1  # of the template, which expired
    house.clock.now += DAY
    house.spoil(pack)
    with house.prover() as prover:
        found = prover.prove([pack])

    assert len(found.turned_bad) == 7
    assert house.verdicts() == {
        "web": [BAD, BAD, BAD, GOOD],
        "db": [BAD, BAD, GOOD],
        "app": [BAD, BAD, GOOD],
        "alone": [GOOD],
    }
    turned = {
        verdict_history(house.catalog, row.version)[-1][:2]
        for row in house.rows()
        if row.verdict is BAD
    }
    assert turned == {(house.clock.now, BAD)}

    assert note_incidents(house.catalog, house.clock()) == 2
    assert note_incidents(house.catalog, house.clock()) == 0
    _, (incident, about) = untold_incidents(house.catalog)
    good = {row.vm: row for row in house.rows() if row.verdict is GOOD}
    letter = damage_letter(incident, newest_good=good, vault=True)
    assert about == "damage"
    assert "7 versions of 3 VMs (app, db, web)" in letter.subject
    for row in house.rows():
        is_told = row.verdict is BAD or row.vm_name != "alone"  # the good ones are offered
        assert (row.version[:8] in letter.body) is is_told
    assert f"{CHUNK // 1024}.0 KiB at bytes 0–{CHUNK - 1}" in letter.body
    assert f"first seen on {house.clock.now:%Y-%m-%d %H:%M} UTC" in letter.body
    assert incident.damage[0].chunk_key.hex() in letter.body
    assert "disk 0" in letter.body
    assert "the next backup of app, db, web reads these bytes again" in letter.body


# -- V6 ------------------------------------------------------------------------------------------


def test_v6_only_what_is_new_is_read_and_what_was_never_read_back(house: House) -> None:
    content = disk("web", 200)
    first = house.back_up("web", content)
    before = house.reads.read_bytes
    house.validate(first)
    assert house.reads.read_bytes - before == first.record.counts.sent_bytes

    second = house.back_up("web", changed(content, *((n * 50 * CHUNK, b"2 %") for n in range(4))))
    before = house.reads.read_bytes
    house.validate(second)
    assert house.reads.read_bytes - before == second.record.counts.sent_bytes
    assert second.record.counts.sent_bytes <= 0.03 * first.record.counts.sent_bytes

    before = house.reads.read_bytes
    house.validate(second)
    assert house.reads.read_bytes == before
    assert house.verdicts() == {"web": [GOOD, GOOD]}


def test_v6_a_chunk_that_is_relied_on_and_was_never_read_back_is_read_now(house: House) -> None:
    content = disk("web", 40)
    first = house.back_up("web", content)  # and nobody validated it
    second = house.back_up("web", changed(content, (0, b"new")))
    house.validate(second)

    assert house.reads.read_bytes >= (
        first.record.counts.sent_bytes + second.record.counts.sent_bytes
    ) - 2 * max(len(house.read(p)) for p in house.workshop.packs_of(first))
    assert house.verdicts()["web"][1] is GOOD


# -- V7 ------------------------------------------------------------------------------------------


def test_v7_without_any_job_every_block_is_read_again_within_the_age(tmp_path: Path) -> None:
    house = House(tmp_path, transport=MemoryTransport(), age=6 * DAY)
    version = house.back_up("web", disk("web", 120))
    house.validate()
    live = version.record.counts.sent_bytes
    largest = max(len(house.read(pack)) for pack in house.workshop.packs_of(version))
    read = []
    for _ in range(14):
        house.clock.now += DAY
        before = house.reads.read_bytes
        house.validate()
        read.append(house.reads.read_bytes - before)
        outlook = proof_outlook(house.catalog, house.clock(), house.limit.due_after)
        assert outlook.oldest_age is not None
        assert outlook.oldest_age <= 6 * DAY
        assert house.verdicts() == {"web": [GOOD]}

    assert sum(read[:6]) >= live
    assert max(read) <= live / 6 + 2 * largest, read


# -- V8 ------------------------------------------------------------------------------------------


def read_in_eight_days(folder: Path, limit: AgeLimit) -> int:
    house = House(folder, transport=MemoryTransport())
    house.limit = limit
    house.back_up("web", disk("web", 40))
    house.validate()
    before = house.reads.read_bytes
    for _ in range(8):
        house.clock.now += DAY
        house.validate()
    return house.reads.read_bytes - before


def test_v8_a_lower_age_reads_more_and_a_higher_one_less(tmp_path: Path) -> None:
    settings = {name: age_limit(name) for name in ("always", "72 hours", "1 week", "never")}
    settings["1 second"] = AgeLimit(timedelta(seconds=1), DAY)
    read = {
        name: read_in_eight_days(tmp_path / name.replace(" ", "-"), limit)
        for name, limit in settings.items()
    }

    assert read["never"] == 0
    assert 0 < read["1 week"] < read["72 hours"] < read["always"]
    assert read["1 second"] == read["always"]


# -- V9 ------------------------------------------------------------------------------------------


def test_v9_a_bad_block_serves_nobody_and_is_sent_again_and_green_comes_back_with_its_history(
    house: House,
) -> None:
    content = disk("web", 20)
    first = house.back_up("web", content)
    house.validate()
    house.clock.now += DAY
    pack = house.pack_of(first, 5)
    house.spoil(pack)
    with house.prover() as prover:
        prover.prove([pack])
    assert house.verdicts() == {"web": [BAD]}

    again = house.back_up("web", content)  # nothing changed on the disk

    assert 0 < again.record.counts.sent_bytes < first.record.counts.sent_bytes
    assert house.verdicts() == {"web": [BAD, BAD]}  # not before it is proved
    house.clock.now += HOUR
    house.validate()

    assert house.verdicts() == {"web": [GOOD, GOOD]}
    told = [verdict for _, verdict, _ in verdict_history(house.catalog, first.version)]
    assert told == [UNCHECKED, GOOD, BAD, GOOD]
    assert house.whole(first)
    assert house.whole(again)


def test_v9_without_sending_it_again_it_stays_red(house: House) -> None:
    content = disk("web", 20)
    first = house.back_up("web", content)
    house.validate()
    house.spoil(house.pack_of(first, 5))
    with house.prover() as prover:
        prover.prove([house.pack_of(first, 5)])
    for _ in range(5):
        house.clock.now += DAY
        house.back_up("web", content, heal=False)
        house.validate()
        assert set(house.verdicts()["web"]) == {BAD}


# -- V10 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ShareUnreachable, ShareRefused])
def test_v10_a_share_that_goes_away_in_the_middle_turns_nothing_red(
    tmp_path: Path, error: type[Exception]
) -> None:
    house = House(tmp_path, transport=MemoryTransport())
    house.back_up("web", disk("web", 20))
    house.validate()
    house.limit = age_limit("always")
    counted = FaultyTransport(house.place, counting={"read"})
    house.reads._inner = counted
    house.validate()
    for at in range(1, len(counted.operations), 3):
        house.clock.now += HOUR
        house.reads._inner = FaultyTransport(
            house.place,
            at=at,
            for_good=True,
            fault=Fault.RAISE_BEFORE,
            counting={"read"},
            error=error,  # type: ignore[arg-type]  # both are errors of ours
        )
        with suppress(ShareUnreachable, ShareRefused):
            house.validate()
        assert BAD not in house.verdicts()["web"]
    house.reads._inner = house.place
    house.clock.now += HOUR
    house.validate()
    assert house.verdicts() == {"web": [GOOD]}


def test_v10_a_folder_that_is_not_mounted_any_more_is_not_an_empty_store(house: House) -> None:
    house.back_up("web", disk("web", 20))
    house.validate()
    house.limit = age_limit("always")
    store, away = house.folder / "store", house.folder / "away"
    with house.prover() as prover:  # opened while it was there
        store.rename(away)
        store.mkdir()  # the empty mount point
        report = house.look(prover)
        prover.judge([row.version for row in house.rows()])
    store.rmdir()
    away.rename(store)

    assert report.could_not_check > 0
    assert report.damaged_chunks == 0
    assert house.verdicts() == {"web": [STALE]}
    house.validate()
    assert house.verdicts() == {"web": [GOOD]}


def test_damage_needs_the_same_answer_over_a_second_connection(house: House) -> None:
    version = house.back_up("web", disk("web", 4))
    pack = house.pack_of(version)
    whole = house.read(pack)
    asked: list[str] = []

    def mend() -> None:
        asked.append("again")
        house.write(pack, whole)  # what the first connection gave was not what lies there

    house.spoil(pack)
    with house.prover() as prover:
        prover.store.transport = SecondLook(prover.store.transport, mend)
        found = prover.prove([pack])

    assert asked == ["again"]
    assert found.damaged_chunks == 0
    assert found.packs == 1


def test_a_second_connection_that_cannot_be_had_proves_no_damage(house: House) -> None:
    version = house.back_up("web", disk("web", 4))
    pack = house.pack_of(version)
    house.spoil(pack)

    def nowhere() -> object:
        raise StoreMissing("the share is away")

    with house.prover() as prover:
        prover.store.transport = SecondLook(prover.store.transport, nowhere)
        found = prover.prove([pack])

    assert (found.damaged_chunks, found.could_not_check) == (0, 1)
    assert house.rows()[0].verdict is not BAD


def test_a_pack_that_is_gone_is_red_with_the_next_look_at_what_is_there(house: House) -> None:
    version = house.back_up("web", disk("web", 4))
    house.validate()
    house.lose(house.pack_of(version))

    with house.prover() as prover:
        report = house.look(prover)

    assert [change.after for change in report.turned_bad] == [BAD]
    assert [pack for pack in house.plan().packs if pack.why is Why.DUE] == []
