"""V5: the page that an operator looks at, and numbers on it that only ever grow."""

from datetime import timedelta

from catalog.incidents import list_incidents, note_incidents
from catalog.progress import begin_validation, list_validations, note_validation
from catalog.validation import proof_outlook
from catalog.values import Verdict
from likeness.clock import system_clock
from likeness.model.ids import PackId, RunId, random_name
from tasks.dashboard import Reading, _Page, bound, commit_queue, incident_lines, validate_queue
from tests.unit.workshop import CHUNK, noise
from tests.validation.house import DAY, MONTH, House, settings_of

MIB = 1 << 20


class Meter:
    def __init__(self) -> None:
        self.read_bytes = 0

    def __call__(self) -> int:
        return self.read_bytes


def test_v5_progress_moves_inside_a_pack_never_goes_back_and_ends_at_a_hundred() -> None:
    meter, packs = Meter(), [PackId(random_name()) for _ in range(4)]
    reading = Reading(
        before_bytes=20 * MIB,
        todo_bytes=60 * MIB,
        packs=4,
        vms={packs[0]: "web"},
        read=meter,
    )
    seen = [reading.percent()]
    for number, pack in enumerate(packs):
        for _ in range(10):
            meter.read_bytes += MIB
            seen.append(reading.percent())
        reading.note([pack], (30 + 10 * number) * MIB)
        seen.append(reading.percent())

    assert round(seen[0]) == 33  # what an attempt that died had done
    assert seen == sorted(seen)
    assert len(set(seen[:30])) > 25
    assert max(seen[:-1]) < 100
    assert seen[-1] == 100
    assert "pack" in reading.item


def test_v5_both_queues_are_told_with_item_speed_percent_and_time_left(house: House) -> None:
    version = house.back_up("web", noise("web", 8 * CHUNK))
    house.place.create(f"in/{random_name()}/{random_name()}", [bytes(3 * MIB)])
    meter = Meter()
    pack = house.pack_of(version)
    reading = Reading(0, 4 * MIB, 2, {pack: "web"}, meter)
    meter.read_bytes = 2 * MIB
    reading.note([pack], 2 * MIB)

    text = _Page(house.site, reading)._text()

    assert "| commit | 1 pack, 3.0 MiB |" in commit_queue(house.site)
    row = validate_queue(house.site, reading)
    assert f"| validate | 1 pack, 2.0 MiB | pack {pack[:8]} of web |" in row
    assert " MB/s | 50 % |" in row
    for part in ("## Queues", "## How old the oldest check is", "## Incidents", "None."):
        assert part in text
    assert "Never read back yet" in text


def test_v5_what_is_done_survives_the_process_that_did_it(house: House) -> None:
    first, second = RunId(random_name()), RunId(random_name())
    now = system_clock()
    begin_validation(house.catalog, first, None, now)
    note_validation(house.catalog, first, now, todo_bytes=100, done_bytes=40)

    went_on = begin_validation(house.catalog, second, None, now + DAY, goes_on_after=first)

    assert (went_on.begun_at, went_on.done_bytes, went_on.percent) == (now, 40, 40.0)
    note_validation(house.catalog, second, now + DAY, todo_bytes=90, done_bytes=10)
    (kept,) = list_validations(house.catalog)
    assert kept.percent >= 40.0


def test_the_provable_bound_and_what_a_budget_can_keep_are_said(house: House) -> None:
    house.back_up("web", noise("web", 8 * CHUNK))
    house.validate()
    live = proof_outlook(house.catalog, house.clock(), MONTH).live_bytes
    later = house.clock() + timedelta(days=27.4)

    def said(bytes_a_day: int) -> str:
        outlook = proof_outlook(house.catalog, later, MONTH, bytes_per_day=bytes_a_day)
        return bound(outlook, bytes_a_day, MONTH)

    assert "No data block that was read back is older than 27.4 days unchecked." in said(live)
    assert "30 days can be kept" in said(live // 20)
    assert "⚠" in said(live // 60)
    assert "60." in said(live // 60)
    outlook = proof_outlook(house.catalog, later, None)
    assert "switched off" in bound(outlook, 0, None)


def test_incidents_name_what_is_still_red(house: House) -> None:
    version = house.back_up("web", noise("web", 4 * CHUNK))
    house.validate()
    house.spoil(house.pack_of(version))
    with house.prover() as prover:
        prover.prove([house.pack_of(version)])
    note_incidents(house.catalog, house.clock())

    lines = incident_lines(list_incidents(house.catalog))

    assert "❌ **incident 1**" in lines[0]
    assert "web, version" in lines[1]
    assert house.verdicts() == {"web": [Verdict.BAD]}
    page = _Page(settings_of(house.site, revalidate_after="never"), None)._text()
    assert "❌ **incident 1**" in page
    assert "switched off" in page
