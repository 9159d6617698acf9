"""What the account of a session may do, and what the pool's clock says."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from likeness.errors import HostRefused
from likeness.xen.session import XenSession

NEEDED: Mapping[str, str] = {
    "vm.snapshot": "take snapshots",
    "vm.destroy": "remove them",
    "vdi.destroy": "remove frozen disks",
    "vdi.enable_cbt": "read only what changed",
    "vdi.data_destroy": "keep records of changes",
    "vbd.create": "give disks to delegates",
    "vm.clone": "make delegates",
    "vm.import": "restore VMs",
}
"""What jobs and restores ask the pool for, and why."""
TOO_MUCH = ("pool.eject", "host.reboot", "pool.create_vlan", "subject.add_to_roles")
"""What no backup needs: an account that may do this is too strong."""


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """What an account may do.

    Attributes:
        local_root: It is the host's own root, to whom everything is allowed.
        lacks: What it may not do and should, in words.
        too_much: What it may do and need not, as the pool calls it.
    """

    local_root: bool
    lacks: tuple[str, ...]
    too_much: tuple[str, ...]


def account_facts(xen: XenSession) -> AccountFacts | None:
    """What this session's account may do; none if the pool does not say.

    Raises:
        HostUnreachable: The pool does not answer.
    """
    try:
        if xen.call("session.get_is_local_superuser", xen.ref):
            return AccountFacts(local_root=True, lacks=(), too_much=TOO_MUCH)
        may = {str(each).lower() for each in xen.call("session.get_rbac_permissions", xen.ref)}
    except HostRefused:
        return None
    lacks = tuple(f"{why} ({what})" for what, why in NEEDED.items() if what not in may)
    too_much = tuple(each for each in TOO_MUCH if each in may)
    return AccountFacts(local_root=False, lacks=lacks, too_much=too_much)


def pool_clock(xen: XenSession) -> datetime:
    """What time the coordinator has.

    Raises:
        HostUnreachable: The pool does not answer.
    """
    host = xen.call("pool.get_master", xen.call("pool.get_all")[0])
    said = str(xen.call("host.get_servertime", host)).replace("-", "")
    return datetime.strptime(said.rstrip("Z"), "%Y%m%dT%H:%M:%S").replace(tzinfo=UTC)
