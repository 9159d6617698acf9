"""What may be said of a version, as one plain function of what is known of it."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from catalog.serving import CLOCK_SLACK
from catalog.values import Verdict


@dataclass(frozen=True, slots=True)
class VerdictFacts:
    """What a version's verdict follows from.

    Attributes:
        judged: Whether it was ever validated.
        packs: How many packs it relies on.
        unproved: How many of them were never read back since they were written.
        unreachable: How many could not be read when last tried.
        damaged: Whether a chunk it refers to is damaged or missing.
        oldest: The oldest proof of its packs.
        newest: The newest.
        documents: Its record and maps: ``whole``, ``broken``, ``unknown``; none: not looked at.
        documents_at: When they were looked at.
        problem: What is wrong with them.
    """

    judged: bool
    packs: int
    unproved: int
    unreachable: int
    damaged: bool
    oldest: datetime | None
    newest: datetime | None
    documents: str | None = None
    documents_at: datetime | None = None
    problem: str = ""


def judge(facts: VerdictFacts, now: datetime, max_age: timedelta | None) -> tuple[Verdict, str]:
    """Say what may be said, and why.

    Damage outweighs everything. What could not be checked is never called damaged, and never
    green. Green needs all of it, packs and documents, read back within the age limit. A proof
    from the future is none: a clock was wrong.

    Args:
        facts: About the version.
        now: The present.
        max_age: For how long a proof counts; none: for ever.
    """
    if facts.damaged:
        return Verdict.BAD, "a data block it needs is damaged or missing"
    if facts.documents == "broken":
        return Verdict.BAD, f"its own record or block map cannot be read: {facts.problem}"
    if facts.unreachable:
        return Verdict.STALE, f"{facts.unreachable} of {_packs(facts.packs)} could not be checked"
    if facts.documents == "unknown":
        return Verdict.STALE, f"its own documents could not be checked: {facts.problem}"
    return _unless_old(facts, now, max_age)


def _unless_old(
    facts: VerdictFacts, now: datetime, max_age: timedelta | None
) -> tuple[Verdict, str]:
    newest = max(filter(None, (facts.newest, facts.documents_at)), default=None)
    if newest is not None and newest > now + CLOCK_SLACK:
        return Verdict.UNCHECKED, "it was read back at a time that is still to come; a clock is off"
    if facts.unproved:
        return Verdict.UNCHECKED, f"{facts.unproved} of {_packs(facts.packs)} never read back"
    if not facts.judged:
        return Verdict.UNCHECKED, "it was not validated yet"
    if facts.documents_at is None:
        return Verdict.UNCHECKED, "its own record and block maps were never read back"
    if max_age is not None and facts.oldest is not None and now - facts.oldest > max_age:
        return Verdict.STALE, f"a pack it needs was last read back on {facts.oldest:%Y-%m-%d}"
    if max_age is not None and now - facts.documents_at > max_age:
        return (
            Verdict.STALE,
            f"its own documents were last read back on {facts.documents_at:%Y-%m-%d}",
        )
    if facts.oldest is None:
        return Verdict.GOOD, "it needs no data blocks"
    return Verdict.GOOD, f"all of {_packs(facts.packs)} read back whole"


def _packs(count: int) -> str:
    return "its only pack" if count == 1 else f"its {count} packs"
