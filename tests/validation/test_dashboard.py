"""V5: the page that an operator looks at, and numbers on it that only ever grow."""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import timedelta

import pytest

from catalog.at_work import COMMIT, VALIDATE, Work, list_work, note_work
from catalog.incidents import list_incidents, note_incidents
from catalog.progress import begin_validation, list_validations, note_validation
from catalog.validation import proof_outlook
from catalog.values import Verdict
from likeness.clock import system_clock
from likeness.model.ids import PackId, RunId, VmId, random_name
from likeness.model.job import BackupJob
from likeness.store.format import layout
from likeness.transport.metered import MeteredTransport
from likeness.xen.inventory import XenVm
from tasks.claims import run_claimed
from tasks.dashboard import Page, Reading, job_shown
from tasks.page import (
    PageFacts,
    arrived_line,
    bound,
    incident_lines,
    page_text,
    protection_texts,
    queue_lines,
)
from tasks.progress import Pace, transferring, vm_at_work
from tests.flows.waiting import wait_until
from tests.support.memory import MemoryTransport
from tests.unit.workshop import CHUNK, noise
from tests.validation.house import DAY, MONTH, House, settings_of

MIB = 1 << 20


def metered() -> MeteredTransport:
    return MeteredTransport(MemoryTransport(), folder=layout.PACKS)


def new_run() -> RunId:
    return RunId(random_name())


def vm_of_the_pool(name: str) -> XenVm:
    return XenVm(VmId(random_name()), "ref", "uuid", name, "Running", (), "host", "pool", ())


@contextmanager
def quick_page(monkeypatch: pytest.MonkeyPatch) -> Generator[None, None, None]:
    """The page is drawn every 50 ms."""
    with monkeypatch.context() as patch:
        patch.setattr("tasks.progress.EVERY_SECONDS", 0.05)
        yield


def queue(house: House, which: str) -> list[str]:
    """The rows of one queue on the page."""
    text = page_text(house.site, PageFacts())
    return [line for line in text.splitlines() if line.startswith(f"| {which} |")]


def test_v5_progress_moves_inside_a_pack_never_goes_back_and_ends_at_a_hundred() -> None:
    meter, packs = metered(), [PackId(random_name()) for _ in range(4)]
    reading = Reading(20 * MIB, 60 * MIB, 4, {packs[0]: "web"}, meter)
    pace = Pace(reading.todo_bytes, reading.done_bytes, reading.before_bytes)
    seen = [pace.percent()]
    for number, pack in enumerate(packs):
        for _ in range(10):
            meter.read_bytes += MIB
            seen.append(pace.percent())
        reading.note([pack], (30 + 10 * number) * MIB)
        seen.append(pace.percent())

    assert round(seen[0]) == 33  # what an attempt that died had done
    assert seen == sorted(seen)
    assert len(set(seen[:30])) > 25
    assert max(seen[:-1]) < 100
    assert seen[-1] == 100
    assert reading.label().endswith("of no version; 0 packs left")


def test_v5_a_long_read_is_made_in_pieces_that_grow_with_the_speed() -> None:
    place = MemoryTransport()
    content = noise("pack", 3 * MIB)
    place.create("packs/aa/a", [content])
    asked: list[int] = []
    read = place.read

    def noted(name: str, offset: int = 0, length: int | None = None) -> bytes:
        asked.append(length or 0)
        return read(name, offset, length)

    place.read = noted  # type: ignore[method-assign]
    meter = MeteredTransport(place, folder=layout.PACKS)

    assert meter.read("packs/aa/a", 0, 4 * MIB) == content
    assert meter.read("packs/aa/a", 5, 7) == content[5:12]
    assert meter.read("packs/aa/a", 5, 0) == b""
    assert asked[0] == 1 << 18
    assert asked[1] > asked[0]
    assert meter.read_bytes == len(content) + 7


def test_v5_both_queues_are_told_with_item_speed_percent_and_time_left(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.place.create(f"in/{random_name()}/{random_name()}", [bytes(3 * MIB)])
    run, vms = new_run(), [vm_of_the_pool(name) for name in ("web", "d|b", "app")]
    passed = 0
    job = BackupJob(name="nightly", vms=["web"])
    assert queue(house, "commit") == ["| commit | nothing | – | – | – | – |"]
    with run_claimed(house.site, run), quick_page(monkeypatch):
        with job_shown(vms, job, run, site=house.site):
            assert queue(house, "commit") == [
                "| commit | 3 VMs: web (job nightly), d¦b (job nightly), app (job nightly) |"
                " waiting ||||"
            ]
            with vm_at_work(run, vms[0].vm):
                wait_until(lambda: "| snapshot |" in queue(house, "commit")[0], "it is frozen")
                with transferring(run, vms[0].vm, "web", 40 * MIB, lambda: passed):
                    seen = []
                    for passed in range(0, 40 * MIB, 10 * MIB):
                        share = f"{100 * passed / (40 * MIB):.1f} % of 40.0 MiB"
                        wait_until(lambda: share in queue(house, "commit")[0], share)  # noqa: B023
                        seen.append(queue(house, "commit")[0])
                wait_until(lambda: "| commit |" in queue(house, "commit")[0][8:], "it is committed")
            wait_until(lambda: len(queue(house, "commit")) == 1, "it is through")
            assert "2 VMs: d¦b" in queue(house, "commit")[0]
        assert queue(house, "commit") == ["| commit | nothing | – | – | – | – |"]
    assert all(row.startswith("| commit | web (job nightly) | transfer |") for row in seen)
    assert all("MB/s" in row for row in seen[1:])
    assert all(row.endswith("less than a minute |") for row in seen[1:])
    text = Page(house.site).text()
    for part in ("## Queues", "## How old the oldest check is", "## Incidents", "## Protection"):
        assert part in text
    assert "Committed and never read back: 0 packs" in text
    assert arrived_line(house.site) == "Arrived and not committed: 1 pack, 3.0 MiB."
    away = settings_of(house.site)
    away.data_store.place = str(house.folder / "nowhere")
    assert arrived_line(away).startswith("⚠ The data store does not answer: ")


def test_v5_a_validation_stands_in_the_other_queue(house: House) -> None:
    run, meter = new_run(), metered()
    pack = PackId(random_name())
    reading = Reading(0, 4 * MIB, 2, {pack: "web"}, meter)
    pace = Pace(reading.todo_bytes, reading.done_bytes)
    meter.read_bytes = 2 * MIB
    reading.note([pack], 2 * MIB)
    left = pace.time_left()
    work = Work(
        *(run, VALIDATE, "", reading.label(), "reading", 4 * MIB, 2 * MIB, pace.percent()),
        *(7.25e6, left.total_seconds() if left else None),
    )

    (row,) = [line for line in queue_lines([work], []) if line.startswith("| validate")]

    assert row == (
        f"| validate | pack {pack[:8]} of web; 1 pack left | reading | 7.2 MB/s |"
        " 50.0 % of 4.0 MiB | less than a minute |"
    )


def test_v5_what_is_done_survives_the_process_that_did_it(house: House) -> None:
    first, second = new_run(), new_run()
    now = system_clock()
    begin_validation(house.catalog, first, None, now)
    note_validation(house.catalog, first, now, todo_bytes=100, done_bytes=40)
    note_work(house.catalog, first, [_read_so_far(first, 43.0)], now)
    assert (
        "interrupted; the next validation goes on there | – | – | 43.0 % |"
        in (queue(house, "validate")[0])
    )

    went_on = begin_validation(house.catalog, second, None, now + DAY, goes_on_after=first)

    assert (went_on.begun_at, went_on.done_bytes, went_on.percent) == (now, 40, 40.0)
    note_validation(house.catalog, second, now + DAY, todo_bytes=90, done_bytes=10)
    (kept,) = list_validations(house.catalog)
    assert kept.percent >= 40.0
    note_work(house.catalog, second, [_read_so_far(second, 5.0)], now)
    assert [(work.run, work.percent) for work in list_work(house.catalog)] == [(second, 43.0)]


def _read_so_far(run: RunId, percent: float) -> Work:
    return Work(run, VALIDATE, "", "a pack", "reading", 100, 40, percent)


def test_vms_of_a_job_that_died_are_under_way_no_more(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, run = new_run(), new_run()
    died = Work(dead, COMMIT, random_name(), "web (job nightly)", "transfer", 100, 40, 40.0)
    note_work(house.catalog, dead, [died], system_clock())
    assert queue(house, "commit") == ["| commit | nothing | – | – | – | – |"]

    job = BackupJob(name="nightly", vms=["web"])
    with (
        suppress(ZeroDivisionError),
        run_claimed(house.site, run),
        quick_page(monkeypatch),
        job_shown([], job, run, site=house.site),
    ):
        raise ZeroDivisionError
    assert list_work(house.catalog) == []


def test_the_provable_bound_and_what_a_budget_can_keep_are_said(house: House) -> None:
    house.back_up("web", noise("web", 8 * CHUNK))
    house.validate()
    live = proof_outlook(house.catalog, house.clock(), MONTH).live_bytes
    later = house.clock() + timedelta(days=27.4)

    def said(bytes_a_day: int) -> str:
        outlook = proof_outlook(house.catalog, later, MONTH, bytes_per_day=bytes_a_day)
        return bound(outlook, bytes_a_day, MONTH)

    assert "No data block is older than 27.4 days unchecked." in said(live)
    assert "30 days is reachable" in said(live // 20)
    assert "⚠" in said(live // 60)
    assert "60." in said(live // 60)
    outlook = proof_outlook(house.catalog, later, None)
    assert "switched off" in bound(outlook, 0, None)
    house.back_up("db", noise("db", CHUNK))
    outlook = proof_outlook(house.catalog, later, MONTH, bytes_per_day=live)
    assert "No data block that was read back is older than 27.4 days" in bound(outlook, live, MONTH)


def test_incidents_name_what_is_still_red(house: House) -> None:
    version = house.back_up("web", noise("web", 4 * CHUNK))
    house.back_up("db", noise("db", 4 * CHUNK))
    house.validate()
    house.spoil(house.pack_of(version))
    with house.prover() as prover:
        prover.prove([house.pack_of(version)])
    note_incidents(house.catalog, house.clock())

    lines = incident_lines(list_incidents(house.catalog))

    assert "❌ **incident 1**" in lines[0]
    assert "web, version" in lines[1]
    assert house.verdicts() == {"web": [Verdict.BAD], "db": [Verdict.GOOD]}
    page = Page(settings_of(house.site, revalidate_after="never")).text()
    assert "❌ **incident 1**" in page
    assert "switched off" in page
    shown, _ = protection_texts(house.site, house.rows(), house.clock())
    nights = [line.split("|")[1:3] for line in shown.splitlines() if line.count("⬜") > 20]
    assert [(mark.strip(), name.strip()) for mark, name in nights] == [("❌", "web"), ("✅", "db")]
