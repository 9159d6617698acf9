"""Pins: a version that somebody wants to keep stays, whatever any policy says."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from blocks import Site
from catalog.versions import find_version
from likeness.clock import system_clock
from likeness.errors import BadInput
from likeness.model.sizes import counted
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.prune.brakes import pins_that_are_gone
from likeness.store.prune.sweeping import state_swept
from likeness.store.repair.begun_for_nothing import holds_now
from likeness.store.write.holding import pin, unpin
from tasks.ages import age_limit
from tasks.claims import store_gate
from tasks.retries import STEP, task


@task(task_run_name="pin {version}", **STEP)
def pin_version(
    version: str, *, note: str, until: str, locked: bool, lift: bool, site: Site
) -> str:
    """Pin a version, lock it, or let policy decide on it again; what was done, in words.

    Args:
        version: The first digits of its id.
        note: Why.
        until: A day such as ``2027-12-31``, or a number of days such as ``90``; empty: for ever.
        locked: Nobody can lift it before.
        lift: Take an earlier pin away instead.
        site: The installation.

    Raises:
        UnknownVersion: No version, or several, have an id that begins so.
        BadInput: The moment cannot be, or has passed.
    """
    now = system_clock()
    age = age_limit(site.revalidate_after).green_for
    row = find_version(site.catalog.file, version.strip(), now, age)
    ends = moment_of(until, now)
    with site.data_store.open() as store, store_gate(site):
        gone = pins_that_are_gone(store)
        above = max(map(layout.number_of, gone), default=0)
        if lift:
            unpin(store, row.record, note=note, clock=system_clock, above=above)
            locks = [e for e in holds_now(store).get(row.record, ()) if e.holds_at(now)]
            done = "; ".join(["is not pinned any more", *map(str, locks)])
        else:
            pin(
                store,
                row.record,
                note=note,
                until=ends,
                clock=system_clock,
                locked=locked,
                above=above,
            )
            word = "locked" if locked else "pinned"
            done = f"is {word} until {ends:%Y-%m-%d %H:%M} UTC" if ends else f"is {word}"
            done += _given_up(store, gone)
    return f"{row.vm_name}, version {row.version[:8]} of {row.taken_at:%Y-%m-%d %H:%M}, {done}"


def _given_up(store: DataStore, gone: Sequence[str]) -> str:
    """Say of pins that vanished that they count no more: a person has just seen to what stays."""
    if not gone:
        return ""
    state_swept(store, (), tuple(gone), "they were gone, and pins were made anew", system_clock)
    return f"; gone from the store, and given up: {counted(len(gone), 'earlier pin')}"


def moment_of(text: str, now: datetime) -> datetime | None:
    """The moment that a person means; none for never.

    Raises:
        BadInput: It is none.
    """
    text = text.strip()
    if not text:
        return None
    if text.isdecimal() and len(text) < 6:
        return now + timedelta(days=int(text))
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as cause:
        raise BadInput(
            f"{text[:40]!r} is no moment: give a day such as 2027-12-31, or a number of days"
        ) from cause
