"""What people are told when a run came to no result, in words: what is known, what is safe."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from catalog.messages import Message, message_id
from catalog.values import VersionRow
from likeness.clock import utc_and_local
from likeness.model.ids import RunId
from tasks.reports import letter

_VARYING = re.compile(r"[0-9a-f]*\d[0-9a-f]*")
_MAX_VMS = 20
HAS_UNPROTECTED = "UnprotectedVms"
"""How the listing of VMs that no job backs up ends when there are some."""
_MEANING = {
    "validate": (
        "Nothing was read back, or not all of it. What was green turns stale when its age is up.",
        "The next validation goes on there; start one now with the deployment revalidate.",
    ),
    "vault": (
        "Versions that the vault lacks are in the data store alone.",
        "The next vaulting goes on there; start one now with the deployment vault.",
    ),
    "check-vault": (
        "What lies in the vault was not read back in full; its versions lose their mark in time.",
        "The next check goes on there; start one now with the deployment check-vault.",
    ),
    "keep-vault": (
        "The vault keeps more than its rules say. No version that they keep is concerned.",
        "Put right what is said above; the next run goes on there.",
    ),
    "refill": (
        "The data store was not filled from the vault in full. The vault is as it was.",
        "Put right what is said above and start the deployment refill again; it goes on there.",
    ),
    "protect": (
        "What the catalog alone knows since its last copy, ages of validation, could be lost.",
        "The next job makes a copy, too.",
    ),
    "rehearse": (
        "A lost installation might not come back as it is. No version is concerned.",
        "Put right what is said above and start the deployment rehearse.",
    ),
    "restore-disks": (
        "Disks that were not restored whole left no file behind. No version was changed.",
        "Put right what is said above and start the restore again.",
    ),
    "sweep": (
        "What runs that died left behind is still there: snapshots, files, a deployment's turn.",
        "The next sweep tries again.",
    ),
    "unprotected": (
        "VMs that no job backs up have no new versions; which they are is on the page unprotected.",
        "Add them to a job, or give them the tag that keeps them out.",
    ),
    "examine-site": (
        "Something that backups, restores or alarms rely on does not work; see the page doctor.",
        "It is looked at again by its schedule; start it from the deployment doctor.",
    ),
    "watch": (
        "Nobody looked whether everything that should happen does.",
        "The next watch looks again.",
    ),
}
_OTHER = ("What it was to do is not done.", "Start it again, or leave it to its schedule.")


def failure_letter(
    job: str,
    run: RunId,
    how: str,
    sentence: str,
    made: Sequence[VersionRow] = (),
    store: Sequence[str] = (),
) -> Message:
    """A job that came to no result at all, and the versions it had made until then.

    Args:
        job: Which.
        run: Of the job.
        how: Its state in Prefect's words.
        sentence: Why.
        made: The versions there are of this run.
        store: What `store_lines` says.
    """
    lines = [f"The job ended as {how} before it came to a result.", *filter(None, ("", sentence))]
    lines += ["", "WHAT IT MEANS"]
    lines += [f"VM {row.vm_name} has its new version {row.version[:8]}." for row in made]
    others = "The other VMs" if made else "The VMs of this job"
    lines += [
        f"{others} have no new version from this run. Of their earlier versions it says nothing;"
        " what was last read back is on the page versions.",
        *store,
        *("", "WHAT HAPPENS NEXT"),
        "Snapshots and data it left behind are removed by the sweep. Start the job again, or leave"
        " it to its schedule.",
        *("", f"run {run}"),
    ]
    subject = f"Likeness: job {job}: {how}"
    return letter(message_id("job", run), "job", subject, lines)


def late_letter(job: str, run: RunId, due_at: datetime, why: str) -> Message:
    """A job that should have begun long ago."""
    lines = [
        f"The job should have begun on {utc_and_local(due_at)} and has not.",
        why,
        *("", "WHAT IT MEANS", "Its VMs have no version from this run yet."),
        *("", "WHAT HAPPENS NEXT"),
        "It begins as soon as it can. See that a worker runs, and what holds the one before it.",
        *("", f"run {run}"),
    ]
    return letter(message_id("late", run), "job", f"Likeness: job {job}: late", lines)


def flow_matter(flow: str, site: str, run: RunId, how: str, sentence: str, at: datetime) -> str:
    """What a failed run of another flow is known by: the same cause is one matter a day.

    A restore is asked for by a person, so each is a matter of its own.
    """
    if flow == "restore-disks":
        return message_id("flow", flow, run)
    if flow == "unprotected" and how == HAS_UNPROTECTED:  # once for each set of VMs
        return message_id("flow", flow, site, sentence)
    return message_id("flow", flow, site, how, _VARYING.sub("#", sentence), f"{at:%Y-%m-%d}")


def flow_letter(
    matter: str,
    flow: str,
    site: str,
    run: RunId,
    how: str,
    sentence: str,
    store: Sequence[str] = (),
) -> Message:
    """A run of another flow that failed.

    Args:
        matter: See `flow_matter`.
        flow: Its name.
        site: Of the Site block.
        run: Which run.
        how: Its state in Prefect's words.
        sentence: Why.
        store: What `store_lines` says.
    """
    means, following = _MEANING.get(flow, _OTHER)
    name = flow.removesuffix("-disks")
    lines = [f"The {name} of site {site} ended as {how}.", *filter(None, ("", sentence))]
    lines += ["", "WHAT IT MEANS", means, *store, "", "WHAT HAPPENS NEXT", following]
    lines += ["", "The same cause is told once a day.", f"run {run}"]
    return letter(matter, "run", f"Likeness: {name} of {site}: {how}", lines)


def store_lines(
    place: str, problem: str, vault: str, newest: Sequence[VersionRow]
) -> Iterator[str]:
    """What to do when the data store cannot be had, and what not to.

    Args:
        place: Of the data store.
        problem: Why it cannot be had now.
        vault: The vault's place; empty if there is none.
        newest: Each VM's newest version that the vault has, as the catalog knows it.
    """
    yield from ("", "THE DATA STORE", f"At the moment {place} cannot be opened: {problem}.")
    yield "Put it back where it was, or correct the data store's block if it was moved."
    yield "Do not make an empty store in its place: it would have other keys and none of these"
    yield "versions, and what is still there might be written over."
    if not vault:
        yield "There is no vault to go on from."
        return
    yield f"If it is lost, go on from the vault {vault}:"
    for row in newest[:_MAX_VMS]:
        yield (
            f"  VM {row.vm_name}: version {row.version[:8]} of {row.taken_at:%Y-%m-%d %H:%M} UTC"
            " is there, as far as the catalog knows"
        )
    if not newest:
        yield "  the catalog knows of no version there; list it with python -m likeness list"
    yield "  1. To restore now: the deployment restore, with From the vault switched on."
    yield "  2. To back up again: name a new, empty place in the data store's block, keep the key"
    yield "     file, and start the deployment refill, which fills it from the vault; then a"
    yield "     validation. The vault itself stays the second place."
