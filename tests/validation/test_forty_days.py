"""Forty days of daily jobs, and clocks that jump: what is read, when, and what is green."""

import random
from datetime import timedelta
from pathlib import Path

import pytest

from catalog.session import catalog_session
from catalog.validation import packs_to_prove, proof_outlook
from catalog.values import Verdict
from tests.support.memory import MemoryTransport
from tests.unit.workshop import CHUNK, changed, noise
from tests.validation.house import DAY, House

GOOD, STALE, UNCHECKED = Verdict.GOOD, Verdict.STALE, Verdict.UNCHECKED
CHUNKS = 300
AGE_DAYS = 30


def test_forty_days_read_what_is_new_and_what_is_due_and_nothing_is_late(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Daily jobs at 2 % change. Due by age: every live byte once in thirty days, evenly spread."""
    house = House(tmp_path, transport=MemoryTransport())
    with catalog_session(house.catalog):
        forty_days(house, capsys)


def forty_days(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    content = noise("web", CHUNKS * CHUNK)
    dice = random.Random(40)
    allowed_in_all = read_in_all = live = 0.0
    lines = []
    for day in range(41):
        if day:
            house.clock.now += DAY
            spots = dice.sample(range(CHUNKS), CHUNKS * 2 // 100)
            edits = ((at * CHUNK, noise(f"{day}-{at}", CHUNK)) for at in spots)
            content = changed(content, *edits)
        due = live / AGE_DAYS
        version = house.back_up("web", content)
        new = version.record.counts.sent_bytes
        before = house.reads.all_read_bytes
        house.validate()
        read = house.reads.all_read_bytes - before
        outlook = proof_outlook(house.catalog, house.clock(), house.limit.due_after)
        live = outlook.live_bytes
        oldest = (outlook.oldest_age or timedelta()) / DAY
        lines.append(
            f"day {day:2}: new {new:9} due {due:9.0f} read {read:9} oldest {oldest:5.1f} d"
        )
        allowed_in_all += 1.1 * (new + due)
        read_in_all += read
        a_pack = max(len(house.read(pack)) for pack in house.workshop.packs_of(version))
        assert read <= 1.1 * (new + due) + a_pack, lines[-1]
        assert outlook.unproved_packs == 0
        assert oldest <= AGE_DAYS, lines[-1]
    with capsys.disabled():
        print("\n" + "\n".join(lines))
        print(f"in all: read {read_in_all:.0f} of {allowed_in_all:.0f} allowed")
    assert read_in_all <= allowed_in_all
    assert set(house.verdicts()["web"]) == {GOOD}


def house_with_a_proved_version(folder: Path) -> House:
    house = House(folder, transport=MemoryTransport())
    house.back_up("web", noise("web", 12 * CHUNK))
    house.validate()
    assert house.verdicts() == {"web": [GOOD]}
    return house


def age_is_sane(house: House) -> bool:
    outlook = proof_outlook(house.catalog, house.clock(), house.limit.due_after)
    return outlook.oldest_age is None or outlook.oldest_age >= timedelta(0)


def test_a_clock_set_back_by_forty_days_makes_nothing_green_and_no_age_negative(
    tmp_path: Path,
) -> None:
    house = house_with_a_proved_version(tmp_path)
    house.back_up("db", noise("db", 4 * CHUNK))  # never validated

    house.clock.now -= 40 * DAY

    assert age_is_sane(house)
    assert house.verdicts() == {"web": [UNCHECKED], "db": [UNCHECKED]}
    again = {pack.pack for pack in packs_to_prove(house.catalog, house.clock(), 30 * DAY)}
    assert again == house.all_packs()
    house.validate()
    assert house.verdicts() == {"web": [GOOD], "db": [GOOD]}
    assert age_is_sane(house)

    house.clock.now += 40 * DAY  # and right again
    assert house.verdicts() == {"web": [STALE], "db": [STALE]}
    house.validate()
    assert house.verdicts() == {"web": [GOOD], "db": [GOOD]}


def test_a_clock_set_forward_by_four_hundred_days_makes_all_of_it_due(tmp_path: Path) -> None:
    house = house_with_a_proved_version(tmp_path)
    house.back_up("db", noise("db", 4 * CHUNK))

    house.clock.now += 400 * DAY
    assert house.verdicts() == {"web": [STALE], "db": [UNCHECKED]}
    house.validate()
    assert house.verdicts() == {"web": [GOOD], "db": [GOOD]}

    house.clock.now -= 400 * DAY  # those proofs are from the future now: they count as none
    assert house.verdicts() == {"web": [UNCHECKED], "db": [UNCHECKED]}
    assert age_is_sane(house)
    house.validate()
    assert house.verdicts() == {"web": [GOOD], "db": [GOOD]}


def test_damage_stays_red_whatever_the_clock_says(tmp_path: Path) -> None:
    house = house_with_a_proved_version(tmp_path)
    (pack, *_) = sorted(house.all_packs())
    house.spoil(pack)
    house.clock.now += DAY
    with house.prover() as prover:
        prover.prove([pack])
    for days in (-40, 400, -800, 800):
        house.clock.now += days * DAY
        house.validate()
        assert house.verdicts() == {"web": [Verdict.BAD]}


def test_documents_are_read_again_before_their_age_is_up(tmp_path: Path) -> None:
    house = House(tmp_path, transport=MemoryTransport())
    house.back_up("web", noise("web", 4 * CHUNK))
    house.validate()
    with catalog_session(house.catalog):
        for _ in range(AGE_DAYS + 3):
            house.clock.now += DAY - timedelta(minutes=1)
            assert house.verdicts() == {"web": [GOOD]}
            house.validate()
