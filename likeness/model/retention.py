"""Which versions of a VM are kept, and why; which may go.

A policy counts periods that have a version, newest first: *7 daily* keeps the newest version of
each of the last seven days that have one. A damaged version fills no place, so it never pushes out
a good one, and the newest version that is good or not yet checked is kept whatever the policy says.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Literal

Trust = Literal["good", "unchecked", "damaged"]


@dataclass(frozen=True, slots=True)
class Retention:
    """How many versions of a VM to keep; a version stays for as long as any rule wants it.

    Attributes:
        last: So many of the newest, whenever they were taken.
        hourly: The newest of each of so many hours that have one; and so on.
    """

    last: int = 5
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    def __str__(self) -> str:
        said = [f"{name} {count}" for name in PERIODS if (count := getattr(self, name))]
        return ", ".join(said) or EVERYTHING

    @property
    def keeps_everything(self) -> bool:
        """Whether no rule is set; then nothing ever goes."""
        return not any((self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly))


PERIODS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
EVERYTHING = "everything"
POLICY_RULE = "give what to keep, such as 'last 5, daily 7, weekly 4', or 'everything'"
_WORDS = re.compile(r"(?:([a-z]+) ([0-9]{1,5})|([0-9]{1,5}) ([a-z]+))\Z")


def parse_policy(text: str) -> Retention:
    """The policy that people write as ``last 5, daily 7, weekly 4``, or ``everything``.

    Raises:
        ValueError: It says something else, or to keep nothing at all.
    """
    if " ".join(text.lower().split()) == EVERYTHING:
        return Retention(last=0)
    counts = dict.fromkeys(PERIODS, 0)
    for part in text.lower().split(","):
        match = _WORDS.match(" ".join(part.split()))
        word, number = (match[1] or match[4], int(match[2] or match[3])) if match else ("", 0)
        if word not in counts or counts[word]:
            raise ValueError(POLICY_RULE)
        counts[word] = number
    if not any(counts.values()):
        raise ValueError(POLICY_RULE)
    return Retention(**counts)


def policies_by_tag(text: str) -> dict[str, Retention]:
    """Policies that people write as ``gold: daily 30, monthly 12; lab: last 2``, by their tag.

    Raises:
        ValueError: It says something else.
    """
    found: dict[str, Retention] = {}
    for part in filter(str.strip, text.split(";")):
        tag, colon, policy = part.partition(":")
        if not colon or not tag.strip() or tag.strip() in found:
            raise ValueError(f"give tags such as 'gold: daily 30; lab: last 2'; {POLICY_RULE}")
        found[tag.strip()] = parse_policy(policy)
    return found


@dataclass(frozen=True, slots=True)
class Point:
    """A version, as far as keeping it goes.

    Attributes:
        version: Its id.
        taken_at: When its snapshot was taken; aware.
        trust: What validation says of it.
        pinned: Why a person keeps it; empty if nobody does.
        pinned_until: When the pin ends; never if none.
        locked_until: Before then it must not go, whoever asks.
        in_use: Whether something reads it at this moment.
    """

    version: str
    taken_at: datetime
    trust: Trust = "unchecked"
    pinned: str = ""
    pinned_until: datetime | None = None
    locked_until: datetime | None = None
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """What a policy says of one version.

    Attributes:
        point: The version.
        reasons: Why it stays; it may go if there are none.
    """

    point: Point
    reasons: tuple[str, ...]

    @property
    def goes(self) -> bool:
        """Whether nothing keeps it."""
        return not self.reasons


def judged(
    points: Iterable[Point], policy: Retention, *, now: datetime, zone: tzinfo
) -> list[Kept]:
    """What a policy says of every version of one VM, newest first.

    Args:
        points: All its versions.
        policy: The rules.
        now: The present; pins and locks end by it.
        zone: Whose days, weeks and months count.
    """
    newest_first = sorted(points, key=lambda p: (p.taken_at, p.version), reverse=True)
    reasons: dict[str, list[str]] = {point.version: [] for point in newest_first}
    sound = [point for point in newest_first if point.trust != "damaged"]
    if policy.keeps_everything:
        for point in newest_first:
            reasons[point.version].append("no rule is set")
    for point in sound[: policy.last]:
        reasons[point.version].append(f"one of the last {policy.last}")
    local = [(point, point.taken_at.astimezone(zone)) for point in sound]
    for name, count, period in _rules(policy):
        for point in _newest_of_each([(p, period(t)) for p, t in local], count):
            reasons[point.version].append(name)
    for point in newest_first:
        reasons[point.version] += _holds(point, now)
    for point in _never_forgotten(newest_first):
        reasons[point.version].append("the last one that may restore")
    return [Kept(point, tuple(reasons[point.version])) for point in newest_first]


def _rules(policy: Retention) -> list[tuple[str, int, Callable[[datetime], tuple[int, ...]]]]:
    return [
        ("hourly", policy.hourly, lambda t: (t.year, t.month, t.day, t.hour)),
        ("daily", policy.daily, lambda t: (t.year, t.month, t.day)),
        ("weekly", policy.weekly, lambda t: t.isocalendar()[:2]),
        ("monthly", policy.monthly, lambda t: (t.year, t.month)),
        ("yearly", policy.yearly, lambda t: (t.year,)),
    ]


def _newest_of_each(
    newest_first: Sequence[tuple[Point, tuple[int, ...]]], count: int
) -> list[Point]:
    """The newest version of each of the last `count` periods that have one."""
    found: dict[tuple[int, ...], Point] = {}
    for point, period in newest_first:
        if len(found) == count and period not in found:
            break
        found.setdefault(period, point)
    return list(found.values()) if count else []


def _holds(point: Point, now: datetime) -> list[str]:
    holds = []
    if point.pinned and (point.pinned_until is None or point.pinned_until > now):
        holds.append(f"pinned: {point.pinned}")
    if point.locked_until is not None and point.locked_until > now:
        holds.append(f"locked until {point.locked_until:%Y-%m-%d %H:%M} UTC")
    if point.in_use:
        holds.append("being read at this moment")
    return holds


def _never_forgotten(newest_first: Sequence[Point]) -> list[Point]:
    """The newest good version, and the newest that is not known to be damaged."""
    good = next((p for p in newest_first if p.trust == "good"), None)
    sound = next((p for p in newest_first if p.trust != "damaged"), None)
    last = sound or (newest_first[0] if newest_first else None)
    return list({p.version: p for p in (good, last) if p is not None}.values())
