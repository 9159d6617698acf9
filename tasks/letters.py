"""What people are told, in words: damage, healing, and how a job went."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from catalog.audits import AuditTrouble
from catalog.incidents import Incident, IncidentVersion
from catalog.messages import Message, message_id
from catalog.values import VersionRow
from likeness.model.ids import RunId, VmId
from likeness.model.outcome import VmOutcome, VmState
from likeness.model.sizes import counted
from tasks.reports import letter, render

_MAX_VERSIONS = 100
_MAX_RANGES = 10
_MAX_BLOCKS = 20


def damage_letter(
    incident: Incident, *, newest_good: Mapping[VmId, VersionRow], vault: bool
) -> Message:
    """The one message of an incident: what, since when, what it means, what happens next.

    Args:
        incident: Which.
        newest_good: The newest green version of each VM that has one.
        vault: Whether the site has a vault to take data blocks from.
    """
    body = render(
        "damage.txt.j2",
        incident=incident,
        kinds=sorted({damage.kind for damage in incident.damage}),
        first_seen=min((damage.first_seen for damage in incident.damage), default=None),
        vms=_affected_vms(incident, newest_good),
        more_versions=max(len(incident.versions) - _MAX_VERSIONS, 0),
        vault=vault,
        names=sorted({version.vm_name for version in incident.versions}) or ["the VMs"],
        blocks=incident.damage[:_MAX_BLOCKS],
        more_blocks=max(incident.damaged_copies - _MAX_BLOCKS, 0),
    )
    subject = f"Likeness: damage found: {_who(incident)}"
    matter = message_id("incident", incident.incident, "damage")
    return letter(matter, "damage", subject, body.splitlines(), incident.number)


def _affected_vms(
    incident: Incident, newest_good: Mapping[VmId, VersionRow]
) -> list[dict[str, Any]]:
    """VMs with their red versions, as many of these as a message may name."""
    by_vm: dict[VmId, list[IncidentVersion]] = defaultdict(list)
    for version in incident.versions:
        by_vm[version.vm].append(version)
    left, found = _MAX_VERSIONS, []
    for vm, versions in by_vm.items():
        found.append(
            {
                "name": versions[0].vm_name,
                "good": newest_good.get(vm),
                "versions": [_red_version(each) for each in versions[: max(left, 0)]],
            }
        )
        left -= len(versions)
    return found


def _red_version(version: IncidentVersion) -> dict[str, Any]:
    disks = [
        {
            "name": disk.name,
            "disk": disk.disk,
            "affected_bytes": disk.affected_bytes,
            "told": ", ".join(f"{e.offset}–{e.end - 1}" for e in disk.ranges[:_MAX_RANGES]),
            "more": max(len(disk.ranges) - _MAX_RANGES, 0) + disk.more_ranges,
        }
        for disk in version.disks
    ]
    facts = ("version", "taken_at", "green_from", "vaults", "red_at", "reason")
    return {**{fact: getattr(version, fact) for fact in facts}, "disks": disks}


def healed_letter(incident: Incident) -> Message:
    """All versions of an incident are well again."""
    matter = message_id("incident", incident.incident, "healed")
    subject = f"Likeness: healed: {_who(incident)}"
    body = render("healed.txt.j2", incident=incident)
    return letter(matter, "healed", subject, body.splitlines(), incident.number)


def trouble_letter(troubles: Sequence[AuditTrouble]) -> Message:
    """Something of the store is lost or altered, and every version still restores."""
    found = [f"{each.name} {each.first_seen.isoformat()}" for each in troubles]
    subject = f"Likeness: the data store needs attention: {counted(len(troubles), 'object')}"
    body = render("store.txt.j2", troubles=troubles)
    return letter(message_id("store", *found), "store", subject, body.splitlines())


def job_letter(
    job: str,
    run: RunId,
    outcomes: Sequence[VmOutcome],
    head: str,
    warnings: Sequence[str] = (),
) -> Message:
    """How a job went, VM by VM, what went wrong after it, and the head that bears witness."""
    failed = [outcome for outcome in outcomes if outcome.state is not VmState.DONE]
    body = render("job.txt.j2", outcomes=outcomes, warnings=warnings, head=head, run=run)
    result = (
        f"{len(failed)} of {counted(len(outcomes), 'VM')} failed"
        if failed
        else f"{counted(len(outcomes), 'VM')} backed up"
    )
    if warnings and not failed:
        result += ", with warnings"
    subject = f"Likeness: job {job}: {result}"
    return letter(message_id("job", run), "job", subject, body.splitlines())


def aftermath_letter(job: str, run: RunId, troubles: Sequence[str]) -> Message:
    """What follows a backup and went wrong after the report of the job had gone out."""
    body = render("aftermath.txt.j2", troubles=troubles, run=run)
    subject = f"Likeness: job {job}: backed up, and what follows went wrong"
    return letter(message_id("job", run, "afterwards"), "job", subject, body.splitlines())


def _who(incident: Incident) -> str:
    names = sorted({version.vm_name for version in incident.versions})
    if not names:
        return f"{counted(incident.damaged_copies, 'data block')}, no version affected"
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"{counted(len(incident.versions), 'version')} of {counted(len(names), 'VM')} ({shown})"
