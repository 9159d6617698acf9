"""What a delegate is told of its network, and who has which address.

A delegate's static address stands in its own record in the pool, before it starts and as long as
it exists. So the pool itself says which addresses are taken: by a delegate whose run died, too, and
by another installation's.
"""

from collections.abc import Mapping
from typing import Any

from likeness.errors import BadInput, HostBusy
from likeness.model.addresses import StaticAddress
from likeness.model.choosing import uuid_in
from likeness.model.ids import from_uuid
from likeness.model.sizes import counted
from likeness.xen import marks
from likeness.xen.failures import explained
from likeness.xen.owner import Owner
from likeness.xen.session import LISTING_SECONDS, XenSession

TOLD_BY_GUEST = ("assigned-ip", "host-key", "ssh-port", "devices")
_TOLD_TO_GUEST = ("authorized-key", "dhcp", "ip", "nm", "gw", "dns")
_ADDRESS = "vm-data/ip"


class AddressTaken(HostBusy):
    """Another VM of the pool has the address; another one may be free."""


def find_network(xen: XenSession, wanted: str) -> str:
    """The reference of the network that delegates are to be on.

    Raises:
        BadInput: There is none, or there are several.
    """
    networks = xen.call("network.get_all_records")
    found = [
        network
        for network, each in networks.items()
        if each["name_label"] == wanted or from_uuid(each["uuid"]) == uuid_in(wanted)
    ]
    if len(found) != 1:
        raise BadInput(
            f"{counted(len(found), 'network')} of the pool have the name or uuid {wanted!r} that"
            " delegates are to use; correct it in the Xen Pool block"
        )
    return str(found[0])


def give_interface(xen: XenSession, ref: str, wanted: str, mac: str) -> None:
    """Give a delegate one interface: on this network, or on its template's if none is named."""
    if not wanted and not mac:
        return
    there = xen.call("VM.get_VIFs", ref)
    if not wanted and not there:
        raise BadInput(
            "the template of delegates has no network interface; name the network of delegates in"
            " the Xen Pool block"
        )
    network = find_network(xen, wanted) if wanted else xen.call("VIF.get_network", there[0])
    for vif in there:
        xen.call("VIF.destroy", vif)
    record: dict[str, Any] = {
        "VM": ref,
        "network": network,
        "device": "0",
        "MAC": mac,
        "MTU": "1500",
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    }
    xen.call("VIF.create", record)


def tell(xen: XenSession, ref: str, public_key: str, address: StaticAddress | None) -> None:
    """Put its configuration into xenstore, and nothing that a delegate before it has told."""
    there = xen.call("VM.get_xenstore_data", ref)
    stale = {f"vm-data/{key}" for key in (*TOLD_BY_GUEST, *_TOLD_TO_GUEST)}
    data = {key: value for key, value in there.items() if key not in stale}
    told = {"authorized-key": public_key, **(address.told() if address else {"dhcp": "true"})}
    data |= {f"vm-data/{key}": value for key, value in told.items()}
    xen.call("VM.set_xenstore_data", ref, data)


def addresses_in_use(xen: XenSession) -> dict[str, tuple[str, Owner | None]]:
    """Addresses that VMs of the pool have: whose each is, and its run if that is a delegate's.

    Raises:
        HostUnreachable, HostBusy, HostRefused: The pool did not say.
    """
    with explained("looking for addresses in use"):
        vms = xen.call("VM.get_all_records", deadline_seconds=LISTING_SECONDS)
    return {
        str(record["xenstore_data"][_ADDRESS]): (str(ref), marks.owner_of_delegate(record))
        for ref, record in vms.items()
        if _has_address(record)
    }


def require_alone(xen: XenSession, ref: str, address: StaticAddress | None) -> None:
    """Leave a delegate's address to whoever has it too; asked after it was written, before use.

    Of two who write the same address at once each sees the other, and neither keeps it.

    Raises:
        AddressTaken: Somebody else has it.
    """
    if address is None:
        return
    vms = xen.call("VM.get_all_records", deadline_seconds=LISTING_SECONDS)
    others = [
        record["name_label"]
        for other, record in vms.items()
        if other != ref
        and _has_address(record)
        and record["xenstore_data"][_ADDRESS] == address.address
    ]
    if others:
        raise AddressTaken(
            f"address {address.address} of delegates is VM {others[0]}'s already; take it from the"
            " Xen Pool block or from that VM"
        )


def _has_address(record: Mapping[str, Any]) -> bool:
    """Whether a VM has an address and may use it: a delegate any time, others while they run."""
    if record["is_a_template"] or _ADDRESS not in record["xenstore_data"]:
        return False
    return record["power_state"] != "Halted" or marks.owner_of_delegate(record) is not None
