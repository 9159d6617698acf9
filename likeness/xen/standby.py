"""Standbys: VMs that hold another VM's version, and cannot be started by accident.

What it holds stands on the VM itself, so that the next replication writes only what differs.
"""

from collections.abc import Collection
from dataclasses import dataclass

from likeness.errors import BadInput
from likeness.model.ids import VersionId, VmId, is_name
from likeness.xen import marks
from likeness.xen.failures import explained
from likeness.xen.marks import Owner
from likeness.xen.overwriting import go_back, promised_return
from likeness.xen.restoring import RestoredVm
from likeness.xen.session import LISTING_SECONDS, XenSession

HOLDS = "likeness:version"
"""On a standby: the version that its disks are."""

BLOCKED = "a standby of Likeness: fail over to it, then start it"
_STARTS = ("start", "start_on")


@dataclass(frozen=True, slots=True)
class Standby:
    """A standby as the pool has it.

    Attributes:
        ref: XenServer's reference to it.
        uuid: Its uuid, with dashes.
        name: What it is called.
        vm: The VM that it stands in for.
        holds: The version that its disks are.
        power_state: As XenServer says.
        blocked: Whether it still cannot be started.
    """

    ref: str
    uuid: str
    name: str
    vm: VmId
    holds: VersionId
    power_state: str
    blocked: bool


def become_standby(
    xen: XenSession, vm: RestoredVm, *, owner: Owner, of: VmId, holds: VersionId
) -> None:
    """Make a restored VM, whole and blocked, a standby; it stays blocked all the time.

    Raises:
        HostBusy, HostRefused, HostUnreachable: Not possible.
    """
    with explained(f"making VM {vm.name} a standby"):
        blocked = xen.call("VM.get_blocked_operations", vm.ref)
        xen.call(
            "VM.set_blocked_operations", vm.ref, {**blocked, **dict.fromkeys(_STARTS, BLOCKED)}
        )
        xen.call("VM.set_name_label", vm.ref, vm.name)
        marks.set_mark(xen, "VM", vm.ref, HOLDS, holds)
        marks.put_marks(xen, "VM", vm.ref, owner=owner, kind=marks.STANDBY, uuid=vm.uuid, vm=of)
        for disk in vm.disks:
            marks.drop_marks(xen, "VDI", disk.ref)


def find_standby(xen: XenSession, installations: Collection[str], vm: VmId) -> Standby | None:
    """The standby of a VM in this pool, if there is one.

    Raises:
        BadInput: There are several.
        HostBusy, HostRefused, HostUnreachable: The pool did not say.
    """
    with explained(f"looking for standbys in {xen.url}"):
        records = xen.call("VM.get_all_records", deadline_seconds=LISTING_SECONDS)
    found = []
    for ref, record in records.items():
        owner = marks.owner_in_marks(record, marks.STANDBY)
        own = record["other_config"]
        if record["is_a_snapshot"] or owner is None or owner.installation not in installations:
            continue
        if own.get(marks.VM) == vm and is_name(own.get(HOLDS, "")):
            found.append(
                Standby(
                    ref=str(ref),
                    uuid=str(record["uuid"]),
                    name=str(record["name_label"]),
                    vm=vm,
                    holds=VersionId(own[HOLDS]),
                    power_state=str(record["power_state"]),
                    blocked=set(_STARTS) <= set(record["blocked_operations"]),
                )
            )
    if len(found) > 1:
        uuids = ", ".join(sorted(each.uuid for each in found))
        raise BadInput(f"the pool {xen.url} has several standbys of one VM; delete one of {uuids}")
    return found[0] if found else None


def require_untouched(standby: Standby) -> None:
    """Leave unless its disks are certainly what they were.

    Raises:
        BadInput: Somebody has started it, or has made that possible.
    """
    if standby.power_state != "Halted" or not standby.blocked:
        raise BadInput(
            f"standby {standby.name} was started or can be, so what it holds is not known; delete"
            " it, and the next replication makes a new one"
        )


def fail_over(xen: XenSession, standby: Standby) -> None:
    """Make a standby a VM like any other; one that was being written is what it was before.

    Raises:
        HostBusy, HostRefused, HostUnreachable: Not possible.
    """
    with explained(f"failing over to VM {standby.name}"):
        if promised_return(xen.call("VM.get_record", standby.ref)) is not None:
            go_back(xen, standby.ref)
        blocked = xen.call("VM.get_blocked_operations", standby.ref)
        kept = {key: why for key, why in blocked.items() if why != BLOCKED}
        own = marks.without_marks(xen.call("VM.get_other_config", standby.ref))
        xen.call("VM.set_other_config", standby.ref, own)
        xen.call("VM.set_blocked_operations", standby.ref, kept)
