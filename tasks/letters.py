"""What people are told, in words: damage, healing, and how a job went."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from catalog.audits import Trouble
from catalog.incidents import Incident, IncidentVersion
from catalog.messages import Message, message_id
from catalog.values import AffectedDisk, VersionRow
from likeness.model.ids import RunId, VmId
from likeness.model.outcome import VmOutcome, VmState
from likeness.model.sizes import counted, readable_size

_MOST_VERSIONS = 100
_MOST_RANGES = 10
_MOST_BLOCKS = 20


def damage_letter(
    incident: Incident, *, newest_good: Mapping[VmId, VersionRow], vault: bool
) -> Message:
    """The one message of an incident: what, since when, what it means, what happens next.

    Args:
        incident: Which.
        newest_good: The newest green version of each VM that has one.
        vault: Whether the site has a vault to take data blocks from.
    """
    by_vm: dict[VmId, list[IncidentVersion]] = defaultdict(list)
    for version in incident.versions:
        by_vm[version.vm].append(version)
    lines = [*_found(incident), "", "WHAT IT MEANS", *_meaning(incident), ""]
    shown = 0
    for vm, versions in by_vm.items():
        lines.append(f"VM {versions[0].vm_name}{_good_one(newest_good.get(vm))}")
        for version in versions:
            shown += 1
            if shown <= _MOST_VERSIONS:
                lines += _version(version)
    if shown > _MOST_VERSIONS:
        lines.append(f"  … and {shown - _MOST_VERSIONS} more; see the artifact versions")
    lines += ["", "WHAT HAPPENS NEXT", *_next(incident, vault=vault)]
    lines += ["", "DETAILS", *_details(incident)]
    subject = f"Likeness: damage found: {_who(incident)}"
    matter = message_id("incident", incident.incident, "damage")
    return Message(matter, "damage", subject, "\n".join(lines), incident.number)


def _found(incident: Incident) -> Iterator[str]:
    yield "WHAT WAS FOUND"
    if not incident.damaged_copies:
        yield (
            f"On {_at(incident.opened_at)}, records or block maps of versions were damaged or"
            " missing. Each was read twice, over two connections, with the same result."
        )
        return
    first = min(damage.first_seen for damage in incident.damage)
    kinds = sorted({damage.kind for damage in incident.damage})
    yield (
        f"{counted(incident.damaged_copies, 'data block')} {' and '.join(kinds)} in the data"
        f" store, first seen on {_at(first)}."
    )
    if kinds != ["lost"]:
        yield "Each was read twice, over two connections, with the same result."


def _meaning(incident: Incident) -> Iterator[str]:
    if not incident.versions:
        yield "No version turned red: other copies in the store serve, or none needs these blocks."
        yield "A share that damages data deserves a look all the same."
        return
    yield (
        f"{counted(len(incident.versions), 'version')} got the red X: they cannot be restored"
        " whole from the data store."
    )
    yield "A restore of them fails and names the bytes that are lost; it never invents data."
    yield "Of all other versions this says nothing new."


def _version(version: IncidentVersion) -> Iterator[str]:
    since = f", green since {_at(version.green_from)}" if version.green_from else ""
    vaults = f"; in the vault {', '.join(version.vaults)} too" if version.vaults else ""
    yield f"  version {version.version[:8]} of {_at(version.taken_at)}{since}{vaults}"
    yield f"    red since {_at(version.red_at)}: {version.reason}"
    for disk in version.disks:
        yield f"    disk {disk.name or disk.disk}: {_ranges(disk)}"


def _ranges(disk: AffectedDisk) -> str:
    told = [f"{each.offset}–{each.end - 1}" for each in disk.ranges[:_MOST_RANGES]]
    more = len(disk.ranges) - len(told) + disk.more_ranges
    rest = f" and {more} more ranges" if more else ""
    return f"{readable_size(disk.affected_bytes)} at bytes {', '.join(told)}{rest}"


def _good_one(row: VersionRow | None) -> str:
    if row is None:
        return ": no version is green at the moment"
    return f": version {row.version[:8]} of {_at(row.taken_at)} is green and restores"


def _next(incident: Incident, *, vault: bool) -> Iterator[str]:
    blocks = incident.damaged_copies > 0
    if blocks:
        yield "1. The damaged data blocks serve deduplication no more."
    else:
        yield "1. What is damaged is set aside, never deleted."
    if vault:
        yield "2. It is fetched from the vault, if that has it whole, within this validation."
    else:
        yield "2. There is no vault to fetch it from."
    names = sorted({version.vm_name for version in incident.versions}) or ["the VMs"]
    if blocks:
        yield (
            f"3. Otherwise the next backup of {', '.join(names)} reads these bytes again, whatever"
            " has changed, and sends those that the disk still has."
        )
    else:
        yield "3. No disk holds records or block maps; without the vault they stay damaged."
    yield "4. Versions turn green again only when everything was read back; you are told then."
    yield "5. What no place has any more stays red. Nothing is deleted."


def _details(incident: Incident) -> Iterator[str]:
    for damage in incident.damage[:_MOST_BLOCKS]:
        where = f"pack {damage.pack}, byte {damage.offset}" if damage.pack else "no known pack"
        yield f"data block {damage.chunk_key.hex()} in {where}: {damage.kind}: {damage.cause}"
    if incident.damaged_copies > _MOST_BLOCKS:
        yield f"… and {incident.damaged_copies - _MOST_BLOCKS} more"
    yield f"incident {incident.number}, {incident.incident}"


def healed_letter(incident: Incident) -> Message:
    """All versions of an incident are well again."""
    lines = [
        f"The damage found on {_at(incident.opened_at)} is healed: every data block of these"
        " versions was read back and proved again.",
        "",
    ]
    for version in incident.versions:
        until = f"green again since {_at(version.settled_at)}" if version.settled_at else "green"
        until = "not in the data store any more" if version.lost else until
        lines.append(
            f"VM {version.vm_name}, version {version.version[:8]} of {_at(version.taken_at)}:"
            f" red since {_at(version.red_at)}, {until}"
        )
    lines += ["", f"incident {incident.number}, {incident.incident}"]
    matter = message_id("incident", incident.incident, "healed")
    subject = f"Likeness: healed: {_who(incident)}"
    return Message(matter, "healed", subject, "\n".join(lines), incident.number)


def trouble_letter(troubles: Sequence[Trouble]) -> Message:
    """Something of the store is lost or altered, and every version still restores."""
    lines = [
        "WHAT WAS FOUND",
        "Looking whether everything is there, twice and over two connections, showed what follows.",
        "No version turned red for it.",
        "",
    ]
    for each in troubles:
        lines += [f"{each.name}: {each.cause}", f"  since {_at(each.first_seen)}; {each.meaning}"]
    lines += [
        "",
        "WHAT HAPPENS NEXT",
        "Index segments, and spare copies of block maps, are put back from the vault if there is"
        " one that has them. The rest waits for you; it stands on the page dashboard until then.",
    ]
    found = [f"{each.name} {each.first_seen.isoformat()}" for each in troubles]
    subject = f"Likeness: the data store needs attention: {counted(len(troubles), 'object')}"
    return Message(message_id("store", *found), "store", subject, "\n".join(lines))


def job_letter(
    job: str,
    run: RunId,
    outcomes: Sequence[VmOutcome],
    head: str,
    warnings: Sequence[str] = (),
) -> Message:
    """How a job went, VM by VM, what went wrong after it, and the head that bears witness."""
    failed = [outcome for outcome in outcomes if outcome.state is not VmState.DONE]
    lines = []
    for outcome in outcomes:
        mark = "ok    " if outcome.state is VmState.DONE else "FAILED"
        sizes = (
            f"read {readable_size(outcome.read_bytes)}, sent {readable_size(outcome.sent_bytes)}"
        )
        lines.append(f"{mark}  {outcome.name}: {sizes}")
        if outcome.sentence:
            lines.append(f"        {outcome.sentence}")
    if warnings:
        lines += ["", "The versions are there. What follows a backup went wrong:", *warnings]
    lines += [
        "",
        f"The data store is at {head}." if head else "No head was written for the data store.",
        "Keep this mail: the head bears witness if the data store is ever set back as a whole.",
        f"run {run}",
    ]
    result = (
        f"{len(failed)} of {counted(len(outcomes), 'VM')} failed"
        if failed
        else f"{counted(len(outcomes), 'VM')} backed up"
    )
    if warnings and not failed:
        result += ", with warnings"
    subject = f"Likeness: job {job}: {result}"
    return Message(message_id("job", run), "job", subject, "\n".join(lines))


def aftermath_letter(job: str, run: RunId, troubles: Sequence[str]) -> Message:
    """What follows a backup and went wrong after the report of the job had gone out."""
    lines = [
        "The versions of this job are committed. What comes after a backup went wrong:",
        *("", *troubles),
        *("", "WHAT HAPPENS NEXT"),
        "The next job, or the schedule of that step, tries again; see what is said above.",
        *("", f"run {run}"),
    ]
    subject = f"Likeness: job {job}: backed up, and what follows went wrong"
    return Message(message_id("job", run, "afterwards"), "job", subject, "\n".join(lines))


def _who(incident: Incident) -> str:
    names = sorted({version.vm_name for version in incident.versions})
    if not names:
        return f"{counted(incident.damaged_copies, 'data block')}, no version affected"
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"{counted(len(incident.versions), 'version')} of {counted(len(names), 'VM')} ({shown})"


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
