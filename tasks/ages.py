"""How old a proof may be, as the site says it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_DAY = timedelta(days=1)
_UNITS = {"hour": timedelta(hours=1), "day": _DAY, "week": 7 * _DAY}
DEFAULT_AGE = 30 * _DAY


@dataclass(frozen=True, slots=True)
class AgeLimit:
    """The setting *re-validate data blocks older than …*.

    Attributes:
        due_after: A pack proved longer ago than this is read again; never if none.
        green_for: A version whose oldest proof is older than this is no longer green; always green
            once proved if none.
    """

    due_after: timedelta | None
    green_for: timedelta | None


def age_limit(setting: str) -> AgeLimit:
    """Read the setting: ``always``, ``never``, or such as ``30 days``."""
    if setting == "always":
        return AgeLimit(timedelta(0), DEFAULT_AGE)
    if setting == "never":
        return AgeLimit(None, None)
    number, _, unit = setting.partition(" ")
    age = int(number) * _UNITS[unit.removesuffix("s")]
    return AgeLimit(age, age)


def is_hour(setting: str, now: datetime) -> bool:
    """Whether it is one of the hours of the setting *re-validate at these hours only*, in UTC.

    Args:
        setting: Such as ``22-6``: from 22:00 until 6:00; empty: every hour is.
        now: The present.
    """
    if not setting:
        return True
    first, _, end = setting.partition("-")
    begins, ends, hour = int(first), int(end), now.astimezone(UTC).hour
    return begins <= hour < ends if begins < ends else hour >= begins or hour < ends
