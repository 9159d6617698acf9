"""How old a proof may be, as the site says it."""

from dataclasses import dataclass
from datetime import timedelta

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
