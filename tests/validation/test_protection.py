"""How well each VM is protected: the worst on top, night by night, readable at 3 and at 300."""

import time
from datetime import UTC, datetime

import pytest

from catalog.connection import writing
from likeness.clock import utc_and_local
from tasks.forget import plan_forget
from tasks.page import page_facts, page_text
from tasks.pool_view import keep_pool_view
from tests.validation.house import House
from tests.validation.many_nights import fill, pool_of, vm_id

NIGHTS = 30


def written(house: House, vms: int) -> str:
    fill(house.catalog, vms, NIGHTS, str(house.folder / "vault"))
    keep_pool_view(pool_of(vms), house.site)
    return page_text(house.site, page_facts(house.site, "Arrived: nothing."))


def rows(text: str, cells: int = 7) -> list[list[str]]:
    """Cells of each VM's row, in the table that has so many."""
    lines = [line for line in text.splitlines() if line.count("|") == cells + 1]
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return [cells for cells in found if cells[0] in ("❌", "🟠", "⏳", "✅")]


def test_what_needs_a_person_comes_first_with_the_reason(house: House) -> None:
    text = written(house, 6)

    first = rows(text)
    assert [(cells[0], cells[1]) for cells in first] == [
        ("❌", "server-004"),
        ("❌", r"new ¦ \<b>one"),
        ("🟠", "server-005"),
        ("⏳", "server-002"),
        ("✅", "server-000"),
        ("✅", "server-001"),
        ("✅", "server-003"),
    ]
    assert "❌ 1 damaged · ❌ 1 unprotected · 🟠 1 late · ⏳ 1 not validated yet · ✅ 3" in text
    assert "no job means it" in text
    assert "**server-004**: version 00000000 is damaged, and 1 more" in text
    strips = {cells[1]: cells[2] for cells in rows(text, 3)}
    assert {len(strip) for strip in strips.values()} == {NIGHTS}
    assert strips["server-004"][-4:-2] == "🟥🟥"
    assert strips["server-005"].endswith("⬛⬛")
    assert strips["server-002"][-1] == "🟨"
    assert strips[r"new ¦ \<b>one"] == "⬜" * NIGHTS
    assert text.index("## Protection") < text.index("## Queues")


def test_no_vm_is_green_while_the_store_is_away(house: House) -> None:
    (house.folder / "store").rename(house.folder / "elsewhere")

    text = written(house, 6)

    assert "🟩" not in text.split("Nights:")[0]
    assert {cells[0] for cells in rows(text)} == {"❌", "🟠"}


@pytest.mark.parametrize(
    ("zone", "said"),
    [
        ("UTC", "2031-07-01 22:30 UTC"),
        ("CET-1CEST,M3.5.0,M10.5.0/3", "2031-07-01 22:30 UTC (2031-07-02 00:30 CEST)"),
        ("EST5EDT,M3.2.0,M11.1.0", "2031-07-01 22:30 UTC (18:30 EDT)"),
    ],
)
def test_local_time_stands_beside_utc(
    zone: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        found = utc_and_local(datetime(2031, 7, 1, 22, 30, tzinfo=UTC))
    time.tzset()

    assert found == said


def test_a_pool_that_was_never_asked_is_said(house: House) -> None:
    text = page_text(house.site, page_facts(house.site, ""))
    assert "No VM is known yet" in text
    fill(house.catalog, 3, NIGHTS, "")

    text = page_text(house.site, page_facts(house.site, ""))

    assert "Which VMs the pool has is not known yet" in text


@pytest.mark.timeout(120)
def test_300_vms_and_30_nights_are_written_in_time_and_fit(house: House) -> None:
    fill(house.catalog, 300, NIGHTS, str(house.folder / "vault"))
    keep_pool_view(pool_of(300), house.site)
    begun = time.process_time()  # others may have the processor at this moment
    text = page_text(house.site, page_facts(house.site, "Arrived: nothing."))
    took = time.process_time() - begun

    assert len(rows(text)) == len(rows(text, 3)) == 301
    assert text.index("## Queues") < text.index("### Protected"), "what is well comes last"
    assert len(text.encode()) < 200_000
    assert text.count("```mermaid") == 3
    assert took < 2.0


def test_of_a_vm_unlike_itself_no_policy_forgets_anything(house: House) -> None:
    fill(house.catalog, 6, NIGHTS, "")
    before = {each.version.vm for each in plan_forget(house.site, keep="last 2").going}
    usual = '{"disk_bytes":107374182400,"new_bytes":1073741824,"sent_bytes":536870912}'
    encrypted = usual.replace("1073741824,", "64424509440,").replace("536870912", "64424509440")
    with writing(house.catalog) as connection:
        connection.execute("UPDATE versions SET counts = ? WHERE vm_no = 0", [usual])
        connection.execute("UPDATE versions SET counts = ? WHERE version_no = 0", [encrypted])

    plan = plan_forget(house.site, keep="last 2")
    text = page_text(house.site, page_facts(house.site, ""))

    assert {each.version.vm for each in plan.going} == before - {vm_id(0)}
    kept = [each.reasons for each in plan.versions if each.version.vm == vm_id(0)]
    assert "as encrypted data does not" in str(kept[-1])
    assert "❌ 1 unlike its other nights" in text
