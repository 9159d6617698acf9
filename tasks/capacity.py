"""Capacity: how full the data store is, what of it is needed, and when it will be full."""

from dataclasses import dataclass
from datetime import timedelta

from prefect import get_run_logger

from blocks import Site
from catalog import capacity, messages
from catalog.capacity import Fullness
from catalog.dedup import PROOF_COUNTS_FOR
from catalog.messages import message_id
from likeness.clock import system_clock
from likeness.model.sizes import readable_size
from likeness.store.prune.compacting import LIVE_SHARE
from tasks.ages import age_limit
from tasks.artifacts import put_markdown
from tasks.notify import channels, tell
from tasks.reports import cell, letter
from tasks.retries import ONCE, STEP, task

LEAST_FREE = 0.10
SOON = 7.0
"""Below so much free, or so few days from full, people are told."""
_SHOWN = timedelta(days=90)
_MAX_POINTS = 30


@dataclass(frozen=True, slots=True)
class Capacity:
    """How full the store is.

    Attributes:
        now: At this moment.
        before: What was measured earlier, oldest first, the present one included.
        days_left: Until it is full, by the trend; none if that is not known, or never.
        warning: What people must be told; empty if nothing.
    """

    now: Fullness
    before: tuple[Fullness, ...]
    days_left: float | None
    warning: str


@task(task_run_name="measure the data store", **STEP)
def measure_capacity(*, site: Site) -> Capacity:
    """Measure, and write it down for the trend."""
    age = age_limit(site.revalidate_after).green_for or PROOF_COUNTS_FOR
    now = system_clock()
    with site.data_store.open() as store:
        room = store.transport.space()
    found = capacity.measure(
        site.catalog.file, now, age, total=room.total_bytes, free=room.free_bytes
    )
    before = capacity.history(site.catalog.file, now - _SHOWN)
    days = capacity.days_until_full(before)
    return Capacity(found, tuple(before), days, warning_of(found, days))


def warning_of(now: Fullness, days: float | None) -> str:
    """What people must be told of the room that is left; empty if nothing."""
    soon = days is not None and days < SOON
    if now.free_share >= LEAST_FREE and not soon:
        return ""
    when = f", and full in {days:.0f} days as it grows now" if soon and days is not None else ""
    return (
        f"the data store has {readable_size(now.free)} free, {now.free_share:.0%} of its place"
        f"{when}; forget versions and reclaim ({readable_size(now.reclaimable)} wait for that), or"
        " give it more room"
    )


def show_capacity(found: Capacity, *, site: Site) -> None:
    """The page: figures, and pictures that the UI draws."""
    put_markdown(site.key_of("capacity"), capacity_page(found), "How full the data store is")


def capacity_page(found: Capacity) -> str:
    """The page about the room, in Markdown."""
    now = found.now
    other = max(now.total - now.free - now.packs, 0)
    parts = {
        "needed by versions": now.live,
        "reclaimable in whole packs": now.reclaimable - now.rewriting,
        "reclaimable by rewriting packs": now.rewriting,
        "free": now.free,
        "other things at that place": other,
    }
    left = "not known, or never" if found.days_left is None else f"{found.days_left:.0f}"
    rows = ["| | bytes | |", "|---|---:|---:|"]
    rows += [f"| {name} | {size:,} | {readable_size(size)} |" for name, size in parts.items()]
    rows.append(f"| the place holds | {now.total:,} | {readable_size(now.total)} |")
    pie = ["```mermaid", "pie title Where the room goes"]
    pie += [f'    "{name}" : {size >> 20}' for name, size in parts.items() if size >> 20]
    lines = [f"🟠 **{cell(found.warning)}**"] if found.warning else []
    rest = (
        f"Packs of which at least {LIVE_SHARE:.0%} is needed count as needed whole: they are not"
        " rewritten."
    )
    lines += ["\n".join(rows), rest, f"Days until it is full, by the trend of 30 days: **{left}**."]
    if len(pie) > 2:
        lines.append("\n".join([*pie, "```"]))
    if len(found.before) > 1:
        lines.append(_trend(found.before[:: -(-len(found.before) // _MAX_POINTS)]))
    return "\n\n".join(lines)


def _trend(measured: tuple[Fullness, ...]) -> str:
    days = ", ".join(f'"{each.seen_at:%m-%d}"' for each in measured)
    packs = ", ".join(f"{each.packs / (1 << 30):.2f}" for each in measured)
    live = ", ".join(f"{each.live / (1 << 30):.2f}" for each in measured)
    return "\n".join(
        (
            "```mermaid",
            "xychart-beta",
            '    title "Packs, and what of them is needed, GiB"',
            f"    x-axis [{days}]",
            f"    line [{packs}]",
            f"    line [{live}]",
            "```",
        )
    )


@task(task_run_name="tell that the store gets full", **ONCE)
def tell_full(found: Capacity, *, site: Site) -> None:
    """Tell people, once a day."""
    now = system_clock()
    matter = message_id("capacity", site.name, f"{now:%Y-%m-%d}")
    lines = (
        "WHAT IS THE MATTER",
        f"- {found.warning}",
        *("", "WHAT IT MEANS"),
        "When there is no room left, backups fail before a snapshot is taken; restores go on.",
        *("", "WHAT HAPPENS NEXT"),
        "It is measured again; the same is told once a day until there is room.",
    )
    subject = f"Likeness: the data store of {site.name} gets full"
    told_of = letter(matter, "capacity", subject, lines)
    messages.write_message(site.catalog.file, told_of, channels(site), now)
    get_run_logger().warning("%s", found.warning)
    tell(site)
