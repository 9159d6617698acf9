"""Which version is meant, in words a person knows: an id, or the last good one before a moment."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from likeness.errors import BadInput

LAST_GOOD = "last good"
EXAMPLE = f"{LAST_GOOD} before 2026-11-20"
_WORDS = re.compile(r"(?:last\s+good)?(?:\s*\bbefore\s+(?P<moment>\S.*))?", re.IGNORECASE)
_ID = re.compile(r"[0-9a-f][0-9a-f-]{3,}", re.IGNORECASE)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True)
class WantedVersion:
    """A version by its id, or the last good one.

    Attributes:
        digits: The beginning of its id; empty: the last good one.
        before: Only one that was taken before this moment.
    """

    digits: str = ""
    before: datetime | None = None


def wanted_version(text: str) -> WantedVersion:
    """Read what a person wrote; nothing at all means the last good version.

    A day means its beginning, and a moment without an offset is in UTC.

    Raises:
        BadInput: It is neither an id nor such words.
    """
    said = text.strip()
    words = _WORDS.fullmatch(said)
    if words:
        moment = words["moment"]
        return WantedVersion(before=_moment(moment.strip(), text) if moment else None)
    if _ID.fullmatch(said) and not _DAY.match(said):
        return WantedVersion(digits=said)
    raise _unclear(text)


def vm_and_version(text: str) -> tuple[str, str]:
    """What a person wrote in one, such as "web, last good before 2026-11-20": the VM, and the rest.

    Without a VM the first is empty. A VM may have commas in its name, and blanks at its ends.
    """
    vm, comma, rest = text.rpartition(",")
    try:
        wanted_version(rest)
    except BadInput:
        return "", text
    return (vm, rest.strip()) if comma and rest.strip() and vm.strip() else ("", text)


def _moment(said: str, text: str) -> datetime:
    try:
        found = datetime.fromisoformat(said)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as cause:  # a moment may be out of all years in UTC
        raise _unclear(text) from cause


def _unclear(text: str) -> BadInput:
    return BadInput(
        f"{text[:60]!r} says no version: give four digits or more of its id, or such as"
        f" {EXAMPLE!r}, or nothing for the last good one"
    )
