"""Delegates (ABDs): small VMs of ours that read a VM's frozen disks where they are.

A delegate is cloned from a template, which costs no space, lives for one VM of one run, and is
destroyed whatever happens. It is told its configuration, and tells its address, through xenstore.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from likeness.clock import stopwatch
from likeness.errors import BadInput, HostBusy, LikenessError
from likeness.model.addresses import StaticAddress
from likeness.model.choosing import uuid_in
from likeness.model.ids import from_uuid
from likeness.model.sizes import counted
from likeness.retrying import Pauses
from likeness.stopping import StopToken
from likeness.xen import marks
from likeness.xen.delegate_network import TOLD_BY_GUEST, give_interface, require_alone, tell
from likeness.xen.failures import Refusal, explained, suppress_gone
from likeness.xen.holding import WHILE_HELD, until_free
from likeness.xen.inventory import is_disk
from likeness.xen.owner import Owner, label_of
from likeness.xen.session import LISTING_SECONDS, XenSession
from likeness.xen.snapshot_facts import SnapshotDisk
from likeness.xen.tasks import run_task

DEFAULT_TAG = "likeness-abd"
AGENT_TAG = "likeness-agent-"
"""How a template's tag begins that says which version of the agent's protocol is in it."""
BOOT_SECONDS = 300.0
_STEP_SECONDS = 120.0
_LOOK_SECONDS = 0.5
_TOLD_EVERY_SECONDS = 10.0
_DEVICE = re.compile(r"[a-z]{2,4}[a-z0-9]*\Z")


@dataclass(frozen=True, slots=True)
class DelegateWish:
    """What a delegate shall be like.

    Attributes:
        template: A template's uuid, or a tag that one template of the pool has.
        network: Name or uuid of the network its first interface is on; empty: the template's.
        address: A static one; none: DHCP.
        protocol: The agent's protocol; a template whose tag names another one is refused.
        boot_seconds: How long it may take until it tells its address.
    """

    template: str = DEFAULT_TAG
    network: str = ""
    address: StaticAddress | None = None
    protocol: int = 1
    boot_seconds: float = BOOT_SECONDS


@dataclass(frozen=True, slots=True)
class XenDelegate:
    """A delegate that runs.

    Attributes:
        ref: XenServer's reference.
        name: What people see in the pool, without its owner.
        address: Where it listens.
        port: Of its SSH server.
        host_key: Its SSH server's public key, as it told through xenstore.
        devices: The folder in which its disks appear.
    """

    ref: str
    name: str
    address: str
    port: int
    host_key: str
    devices: str


def find_template(xen: XenSession, wish: DelegateWish) -> str:
    """The reference of the template for delegates, looked at.

    Raises:
        BadInput: There is none or there are several, or it cannot be a delegate's.
        HostUnreachable, HostBusy, HostRefused: The pool did not say.
    """
    with explained("looking for the template of delegates"):
        vms = xen.call("VM.get_all_records", deadline_seconds=LISTING_SECONDS)
        found = {ref: each for ref, each in vms.items() if _is_meant(each, wish.template)}
        if len(found) != 1:
            what = "no template has" if not found else f"{len(found)} templates have"
            raise BadInput(
                f"{what} the tag or uuid {wish.template!r} that delegates are to be cloned from;"
                " give one template of the pool this tag, or choose source direct"
            )
        ((ref, record),) = found.items()
        _require_fit(xen, record, wish)
        return str(ref)


def _is_meant(record: Mapping[str, Any], wanted: str) -> bool:
    ours = marks.owner_in_label(str(record["name_label"]))  # a clone that is not yet a VM
    if not record["is_a_template"] or record["is_a_snapshot"] or ours:
        return False
    uuid = uuid_in(wanted)
    return from_uuid(record["uuid"]) == uuid if uuid else wanted in record["tags"]


def _require_fit(xen: XenSession, record: Mapping[str, Any], wish: DelegateWish) -> None:
    name = record["name_label"]
    if record["power_state"] != "Halted":
        raise BadInput(f"template {name} of delegates is {record['power_state']}; shut it down")
    disks = [vbd for vbd in record["VBDs"] if is_disk(xen.call("VBD.get_record", vbd))]
    if len(disks) != 1:
        raise BadInput(
            f"template {name} of delegates has {counted(len(disks), 'disk')}, and a delegate has"
            " one; make it anew"
        )
    versions = [tag for tag in record["tags"] if tag.startswith(AGENT_TAG)]
    if versions and f"{AGENT_TAG}{wish.protocol}" not in versions:
        raise BadInput(
            f"template {name} of delegates holds another version of the agent ({versions[0]},"
            f" wanted {AGENT_TAG}{wish.protocol}); make the template of this release"
        )


def start_delegate(
    xen: XenSession,
    wish: DelegateWish,
    *,
    vm_name: str,
    vm_ref: str,
    owner: Owner,
    public_key: str,
    stop: StopToken,
    say: Callable[[str], None] = lambda _: None,
) -> XenDelegate:
    """Clone the template, start it, and wait until it tells where it is.

    Args:
        xen: The session.
        wish: What it shall be like.
        vm_name: The VM whose disks it will read.
        vm_ref: Its reference: the delegate runs where that one's disks can be seen.
        owner: Installation and run.
        public_key: Who may log in, in OpenSSH's form.
        stop: Ends waiting early.
        say: Told what it waits for.

    Raises:
        BadInput: There is no template or network for it.
        AddressTaken: Another VM has the address.
        HostBusy: It did not tell its address in time, or ended before.
        HostRefused, HostUnreachable: The pool does not make it.
        Stopped: On request.
    """
    template = find_template(xen, wish)
    name = f"{marks.DELEGATE_NAME}{vm_name}"
    with explained(f"making a delegate for VM {vm_name}"):
        ref = str(run_task(xen, "VM.clone", template, label_of(owner, name), stop=stop))
        try:
            _mark_all(xen, ref, owner)
            if xen.call("VM.get_is_a_template", ref):
                run_task(xen, "VM.provision", ref, stop=stop)
            static = wish.address
            network = (static.network if static else "") or wish.network
            give_interface(xen, ref, network, static.mac if static else "")
            tell(xen, ref, public_key, static)
            require_alone(xen, ref, static)
            _start(xen, ref, vm_ref, stop)
            return _awaited(xen, ref, name, wish, stop, say)
        except BaseException:
            with suppress(LikenessError):
                destroy_delegate(xen, ref)
            raise


def _mark_all(xen: XenSession, ref: str, owner: Owner) -> None:
    for disk in own_disks(xen, ref):
        marks.put_marks(xen, "VDI", disk, owner=owner, kind=marks.DELEGATE)
    marks.put_marks(xen, "VM", ref, owner=owner, kind=marks.DELEGATE)
    marks.set_mark(xen, "VM", ref, "HideFromXenCenter", "true")


def _start(xen: XenSession, ref: str, vm_ref: str, stop: StopToken) -> None:
    """Start it on a host that sees the disks of the VM that it is for."""
    own = xen.call("VM.get_possible_hosts", ref)
    theirs = set(xen.call("VM.get_possible_hosts", vm_ref))
    for host in own:
        if host in theirs:
            run_task(xen, "VM.start_on", ref, host, False, False, stop=stop)  # noqa: FBT003
            return
    run_task(xen, "VM.start", ref, False, False, stop=stop)  # noqa: FBT003


def _awaited(
    xen: XenSession,
    ref: str,
    name: str,
    wish: DelegateWish,
    stop: StopToken,
    say: Callable[[str], None],
) -> XenDelegate:
    begun, told_at = stopwatch(), 0.0
    while True:
        record = xen.call("VM.get_record", ref)
        data = record["xenstore_data"]
        told = {key: str(data.get(f"vm-data/{key}", "")) for key in TOLD_BY_GUEST}
        if told["assigned-ip"] and told["host-key"]:
            if wish.address and told["assigned-ip"] != wish.address.address:
                raise BadInput(
                    f"{name} took address {told['assigned-ip'][:40]} although it was given"
                    f" {wish.address.address}; make the template of this release"
                )
            port = told["ssh-port"] or "22"
            if not (port.isdecimal() and 0 < int(port) < 1 << 16):
                raise BadInput(f"{name} tells a port that is none: {port[:20]!r}; see its log")
            devices = told["devices"] or "/dev"
            return XenDelegate(ref, name, told["assigned-ip"], int(port), told["host-key"], devices)
        if record["power_state"] != "Running":
            raise HostBusy(
                f"{name} is {record['power_state']} before it told its address; see its host's log,"
                " then run the job again"
            )
        waited = stopwatch() - begun
        if waited > wish.boot_seconds:
            see = "its console" if wish.address else "that its network has a DHCP server"
            raise HostBusy(
                f"{name} told no address within {wish.boot_seconds:.0f} s; see {see}, then run the"
                " job again"
            )
        if waited >= told_at:
            say(f"waiting for the address of {name}, {waited:.0f} s so far")
            told_at += _TOLD_EVERY_SECONDS
        stop.wait(_LOOK_SECONDS)
        stop.check()


def goes_on(
    xen: XenSession, delegate: XenDelegate, *, vm_name: str, vm_ref: str, owner: Owner
) -> XenDelegate | None:
    """A delegate for another VM; none unless it runs where that one's disks can be seen.

    Raises:
        HostBusy, HostRefused, HostUnreachable: The pool did not say.
    """
    name = f"{marks.DELEGATE_NAME}{vm_name}"
    with explained(f"looking at {delegate.name}"), suppress_gone():
        host = xen.call("VM.get_resident_on", delegate.ref)
        runs = xen.call("VM.get_power_state", delegate.ref) == "Running"
        if runs and host in xen.call("VM.get_possible_hosts", vm_ref):
            xen.call("VM.set_name_label", delegate.ref, label_of(owner, name))
            return replace(delegate, name=name)
    return None


def plug_disks(
    xen: XenSession, delegate: XenDelegate, disks: Sequence[SnapshotDisk]
) -> tuple[str, ...]:
    """Plug frozen disks into a delegate; where it finds each.

    Raises:
        HostBusy, HostRefused, HostUnreachable: The pool does not do it.
    """
    return tuple(_plugged(xen, delegate, disk) for disk in disks)


def _plugged(xen: XenSession, delegate: XenDelegate, disk: SnapshotDisk) -> str:
    with explained(f"plugging disk {disk.facts.position} ({disk.facts.name}) into {delegate.name}"):
        for mode in ("RO", "RW"):  # hardware-virtualised guests cannot have one read-only
            vbd = str(xen.call("VBD.create", _drive(delegate.ref, disk.ref, mode)))
            try:
                run_task(xen, "VBD.plug", vbd, deadline_seconds=_STEP_SECONDS)
            except Refusal as refusal:
                with suppress(LikenessError):
                    xen.call("VBD.destroy", vbd)
                if mode == "RW" or refusal.code != "DISK_VBD_MUST_BE_READWRITE_FOR_HVM":
                    raise
                continue
            device = str(xen.call("VBD.get_device", vbd))
            if not _DEVICE.match(device):
                raise BadInput(f"{delegate.name}: the pool named a device {device[:20]!r}")
            break
        return f"{delegate.devices}/{device}"


def _drive(vm: str, disk: str, mode: str) -> dict[str, Any]:
    return {
        "VM": vm,
        "VDI": disk,
        "userdevice": "autodetect",
        "bootable": False,
        "mode": mode,
        "type": "Disk",
        "empty": False,
        "unpluggable": True,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    }


def unplug_disks(xen: XenSession, delegate: XenDelegate) -> None:
    """Take all frozen disks from a delegate; safe to repeat.

    Raises:
        HostBusy, HostRefused, HostUnreachable: Not possible now.
    """
    with explained(f"unplugging disks from {delegate.name}"), suppress_gone():
        own = own_disks(xen, delegate.ref)
        for vbd in xen.call("VM.get_VBDs", delegate.ref):
            with suppress_gone():
                drive = xen.call("VBD.get_record", vbd)
                if is_disk(drive) and drive["VDI"] not in own:
                    _unplug(xen, str(vbd), attached=bool(drive["currently_attached"]))


def _unplug(xen: XenSession, vbd: str, *, attached: bool) -> None:
    if attached:
        try:
            run_task(xen, "VBD.unplug", vbd, deadline_seconds=_STEP_SECONDS)
        except (Refusal, HostBusy):
            run_task(xen, "VBD.unplug_force", vbd, deadline_seconds=_STEP_SECONDS)
    until_free(lambda: run_task(xen, "VBD.destroy", vbd, deadline_seconds=_STEP_SECONDS))


def own_disks(xen: XenSession, ref: str) -> tuple[str, ...]:
    """A delegate's disks that were cloned with it; never a frozen one."""
    found = []
    for vbd in xen.call("VM.get_VBDs", ref):
        drive = xen.call("VBD.get_record", vbd)
        if is_disk(drive) and not xen.call("VDI.get_is_a_snapshot", drive["VDI"]):
            found.append(str(drive["VDI"]))
    return tuple(found)


def _certainly_own(xen: XenSession, ref: str) -> list[str]:
    """Of a delegate that was marked only disks that were: somebody may have plugged in another."""
    marked = marks.owner_in_marks(xen.call("VM.get_record", ref), marks.DELEGATE)
    return [
        disk
        for disk in own_disks(xen, ref)
        if not marked or marks.owner_in_marks(xen.call("VDI.get_record", disk), marks.DELEGATE)
    ]


def destroy_delegate(xen: XenSession, ref: str, *, pauses: Pauses = WHILE_HELD) -> None:
    """Take a delegate away with its own disk; safe to repeat. Frozen disks stay.

    Raises:
        HostBusy, HostRefused, HostUnreachable: Not possible now; the sweep tries again.
    """
    with explained("removing a delegate"), suppress_gone():
        own = _certainly_own(xen, ref)
        if xen.call("VM.get_power_state", ref) != "Halted":
            run_task(xen, "VM.hard_shutdown", ref, deadline_seconds=_STEP_SECONDS)
        with suppress_gone():
            run_task(xen, "VM.destroy", ref, deadline_seconds=_STEP_SECONDS)
        for disk in own:
            _destroy(xen, disk, pauses)


def destroy_own_disk(xen: XenSession, ref: str, *, pauses: Pauses = WHILE_HELD) -> None:
    """Take away a disk that a delegate has left.

    Raises:
        HostBusy, HostRefused, HostUnreachable: Not possible now.
    """
    with explained("removing a delegate's disk"):
        _destroy(xen, ref, pauses)


def _destroy(xen: XenSession, disk: str, pauses: Pauses) -> None:
    with suppress_gone():
        until_free(
            lambda: run_task(xen, "VDI.destroy", disk, deadline_seconds=_STEP_SECONDS),
            pauses=pauses,
        )
