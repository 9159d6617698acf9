"""Which version is meant, in words."""

from datetime import UTC, datetime

import pytest

from likeness.errors import BadInput
from likeness.model.points_in_time import WantedVersion, vm_and_version, wanted_version

DAY = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", WantedVersion()),
        ("  last good ", WantedVersion()),
        ("Last  Good before 2026-11-20", WantedVersion(before=DAY)),
        ("before 2026-11-20", WantedVersion(before=DAY)),
        (
            "last good before 2026-11-20 14:30",
            WantedVersion(before=DAY.replace(hour=14, minute=30)),
        ),
        ("last good before 2026-11-20T01:00+01:00", WantedVersion(before=DAY)),
        ("0123abcd", WantedVersion(digits="0123abcd")),
        ("20261120", WantedVersion(digits="20261120")),
        ("0123abcd-0000-4000-8000-000000000000", None),
    ],
)
def test_words_and_ids_are_told_apart(text: str, wanted: WantedVersion | None) -> None:
    assert wanted_version(text) == (wanted or WantedVersion(digits=text))


@pytest.mark.parametrize(
    "text",
    [
        *("yesterday", "2026-11-20", "last good before", "last good before noon", "abc", "last"),
        "before 0001-01-01T00:00+14:00",
    ],
)
def test_what_is_neither_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadInput, match="last good before 2026-11-20"):
        wanted_version(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("web, last good before 2026-11-20", ("web", "last good before 2026-11-20")),
        ("Berlin, web 1, last good", ("Berlin, web 1", "last good")),
        (" web , last good", (" web ", "last good")),
        ("web,0123abcd", ("web", "0123abcd")),
        ("0123abcd", ("", "0123abcd")),
        ("last good", ("", "last good")),
        ("web,", ("", "web,")),
        (", last good", ("", ", last good")),
        ("web, yesterday", ("", "web, yesterday")),
    ],
)
def test_a_vm_and_its_version_are_said_in_one(text: str, parts: tuple[str, str]) -> None:
    assert vm_and_version(text) == parts
