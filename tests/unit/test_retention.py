"""Retention: what stays has a reason, and the last one that restores always stays."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.model.retention import Kept, Point, Retention, judged

NOW = datetime(2031, 5, 20, 12, 0, tzinfo=UTC)
NONE = Retention(last=0)


def nightly(nights: int, **facts: object) -> list[Point]:
    return [
        Point(f"{night:032x}", NOW - timedelta(days=night, hours=2), **facts)  # type: ignore[arg-type]
        for night in range(nights)
    ]


def kept(points: list[Point], policy: Retention, zone: str = "UTC") -> list[int]:
    found = judged(points, policy, now=NOW, zone=ZoneInfo(zone))
    return [int(each.point.version, 16) for each in found if not each.goes]


def of(found: list[Kept], version: str) -> Kept:
    return next(each for each in found if each.point.version == version)


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (Retention(last=3), [0, 1, 2]),
        (Retention(last=0, daily=4), [0, 1, 2, 3]),
        (Retention(last=0, weekly=3), [0, 2, 9]),
        (Retention(last=0, monthly=2), [0, 20]),
        (Retention(last=0, yearly=5), [0, 140]),
        (Retention(last=1, daily=2, weekly=2, monthly=2), [0, 1, 2, 20]),
    ],
)
def test_each_rule_keeps_the_newest_of_its_periods(policy: Retention, wanted: list[int]) -> None:
    assert kept(nightly(200), policy) == wanted


def test_periods_without_a_version_do_not_count() -> None:
    points = [p for p in nightly(60) if int(p.version, 16) not in range(1, 40)]
    assert kept(points, Retention(last=0, daily=3)) == [0, 40, 41]


def test_days_are_those_of_the_place() -> None:
    late = Point("1" * 32, datetime(2031, 5, 10, 22, 30, tzinfo=UTC))
    later = Point("2" * 32, datetime(2031, 5, 10, 23, 30, tzinfo=UTC))
    policy = Retention(last=0, daily=9)
    assert len(kept([late, later], policy)) == 1
    assert len(kept([late, later], policy, "Europe/London")) == 2


def test_no_rule_keeps_everything() -> None:
    assert len(kept(nightly(30), NONE)) == 30


def test_a_damaged_version_fills_no_place_and_goes_first() -> None:
    points = nightly(10)
    points[0] = Point(points[0].version, points[0].taken_at, "damaged")
    assert kept(points, Retention(last=3)) == [1, 2, 3]


def test_the_last_good_version_is_never_forgotten() -> None:
    points = nightly(10)
    points[7] = Point(points[7].version, points[7].taken_at, "good")
    assert kept(points, Retention(last=2)) == [0, 1, 7]


def test_a_vm_with_nothing_but_damage_keeps_its_newest() -> None:
    assert kept(nightly(5, trust="damaged"), Retention(last=2)) == [0]


def test_pins_locks_and_readers_hold() -> None:
    points = nightly(9)
    points[8] = Point(points[8].version, points[8].taken_at, pinned="audit")
    points[7] = Point(points[7].version, points[7].taken_at, pinned="old", pinned_until=NOW)
    points[6] = Point(
        points[6].version, points[6].taken_at, locked_until=NOW + timedelta(seconds=1)
    )
    points[5] = Point(points[5].version, points[5].taken_at, in_use=True)
    points[4] = Point(points[4].version, points[4].taken_at, locked_until=NOW)
    assert kept(points, Retention(last=1)) == [0, 5, 6, 8]
    found = judged(points, Retention(last=1), now=NOW, zone=UTC)
    assert of(found, points[8].version).reasons == ("pinned: audit",)
    assert of(found, points[7].version).goes


@given(
    ages=st.lists(st.integers(0, 20_000), unique=True, max_size=40),
    trust=st.lists(st.sampled_from(["good", "unchecked", "damaged"]), min_size=40, max_size=40),
    counts=st.tuples(*[st.integers(0, 4)] * 6),
)
def test_whatever_the_policy_something_that_may_restore_stays(
    ages: list[int], trust: list[str], counts: tuple[int, ...]
) -> None:
    points = [
        Point(f"{age:032x}", NOW - timedelta(hours=age), of_it)  # type: ignore[arg-type]
        for age, of_it in zip(ages, trust, strict=False)
    ]
    found = judged(points, Retention(*counts), now=NOW, zone=UTC)
    assert [each.point for each in found] == sorted(points, key=lambda p: p.taken_at, reverse=True)
    stays = [each.point for each in found if not each.goes]
    for wanted in ({"good"}, {"good", "unchecked"}):
        if any(point.trust in wanted for point in points):
            newest = max((p for p in points if p.trust in wanted), key=lambda p: p.taken_at)
            assert newest in stays
    assert not points or stays
