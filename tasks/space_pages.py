"""Pages about space: what is or would be forgotten, what was reclaimed."""

from collections.abc import Sequence
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks import Site
from likeness.model.sizes import counted, readable_size
from likeness.store.prune.compacting import LIVE_SHARE
from likeness.store.prune.reclaiming import Reclaimed
from tasks.artifacts import put_markdown
from tasks.forget import ForgetPlan, Judged
from tasks.reports import cell

_MAX_ROWS = 500
_TRUST = {"good": "✅", "damaged": "❌", "unchecked": "⏳"}


def show_forget(plan: ForgetPlan, *, site: Site) -> None:
    """Which versions go and which stay, why, and how many bytes that frees."""
    key = site.key_of("forgotten" if plan.done else "forget-preview")
    what = "What was forgotten" if plan.done else "What would be forgotten; nothing was changed"
    put_markdown(key, forget_page(plan), what)


def forget_page(plan: ForgetPlan) -> str:
    """The page about a plan, in Markdown."""
    going, freed = plan.going, plan.freed
    verb = "were forgotten" if plan.done else "would be forgotten"
    lines = [
        f"**{counted(len(going), 'version')}** of {len(plan.versions)} {verb}; a reclaim gives back"
        f" **{freed.packs_bytes:,} bytes** ({readable_size(freed.packs_bytes)}) in"
        f" {counted(freed.packs, 'pack')} for that.",
        f"Only they need {freed.exclusive_bytes:,} bytes"
        f" ({readable_size(freed.exclusive_bytes)}) of data blocks; what shares a pack with data"
        f" that stays goes once less than {LIVE_SHARE:.0%} of that pack is needed, and a reclaim"
        " rewrites it.",
    ]
    if freed.waiting_packs:
        lines.append(
            f"{freed.waiting_bytes:,} bytes ({readable_size(freed.waiting_bytes)}) in"
            f" {counted(freed.waiting_packs, 'pack')} are needed by no version already."
        )
    lines += _table("Go", going) + _table("Stay", [e for e in plan.versions if not e.goes])
    return "\n\n".join(lines)


def _table(title: str, versions: Sequence[Judged]) -> list[str]:
    if not versions:
        return [f"## {title}: none"]
    rows = ["| VM | version | taken | | policy | why |", "|---|---|---|---|---|---|"]
    for each in versions[:_MAX_ROWS]:
        version = each.version
        why = "; ".join(each.reasons) or "no rule keeps it"
        name, taken = cell(version.vm_name), f"{version.taken_at:%Y-%m-%d %H:%M}"
        rows.append(
            f"| {name} | {version.version[:8]} | {taken} |"
            f" {_TRUST[version.trust]} | {cell(each.policy)} | {cell(why)} |"
        )
    more = len(versions) - _MAX_ROWS
    tail = [f"and {more} more"] if more > 0 else []
    return [f"## {title}: {len(versions)}", "\n".join(rows), *tail]


def forgotten_state(plan: ForgetPlan) -> State[Any]:
    """How forgetting, or its preview, ends."""
    going, freed = len(plan.going), readable_size(plan.freed.packs_bytes)
    verb = "forgotten" if plan.done else "would be forgotten"
    message = f"{counted(going, 'version')} {verb}, which frees {plan.freed.packs_bytes:,} bytes"
    message += f" ({freed}) in whole packs"
    return Completed(message=message if going else f"no version {verb}", data=plan)


def show_reclaim(done: Reclaimed, *, site: Site) -> None:
    """What was deleted, and what waits."""
    waiting = sum(done.waiting.values())
    lines = [
        f"Deleted: **{counted(len(done.deleted), 'pack')}**, {counted(done.objects, 'object')}"
        f" more; **{done.freed_bytes:,} bytes** ({readable_size(done.freed_bytes)}) given back.",
        f"Condemned now: {counted(len(done.condemned), 'pack')}. Waiting to be deleted:"
        f" {counted(len(done.waiting), 'pack')}, {waiting:,} bytes ({readable_size(waiting)});"
        " until then `undelete` takes a forgotten version back.",
    ]
    if done.rewritten:
        lines.append(
            f"Rewritten: {counted(len(done.rewritten), 'pack')} of which little was needed;"
            f" {done.moved_bytes:,} bytes ({readable_size(done.moved_bytes)}) moved into new packs."
        )
    if done.spared:
        lines.append(
            f"Spared, since a version needs them after all: {counted(len(done.spared), 'pack')}."
        )
    put_markdown(site.key_of("reclaimed"), "\n\n".join(lines), "What a reclaim gave back")


def reclaimed_state(done: Reclaimed) -> State[Any]:
    """How a reclaim ends."""
    waiting = readable_size(sum(done.waiting.values()))
    message = f"{readable_size(done.freed_bytes)} given back, {waiting} waits to be deleted"
    return Completed(message=message, data=done)
