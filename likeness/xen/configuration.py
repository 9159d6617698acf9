"""Everything a pool says about a VM, as text that can make it again elsewhere."""

import json
import xmlrpc.client  # its DateTime is what XenServer's times arrive as
from collections.abc import Mapping
from typing import Any

from likeness.xen.failures import Refusal
from likeness.xen.inventory import SeenVm, is_disk
from likeness.xen.session import XenSession, is_null

CONFIGURATION_FORMAT = 1


def configuration_of(xen: XenSession, vm_ref: str, seen: SeenVm | None = None) -> str:
    """The VM's full record with its drives, network cards and disks, as JSON.

    Args:
        xen: The session.
        vm_ref: A live VM or a snapshot of one.
        seen: The VM's records, if they were asked for before; else they are now.

    Returns:
        An object with ``format`` (1), ``vm``, ``drives`` (VBD records), ``cards`` (VIF records),
        ``disks`` (VDI records by reference), ``networks`` (name, bridge and VLANs by reference),
        ``storages`` (name, uuid and type by reference). Records are XenServer's own.

    Raises:
        Refusal: The pool refused.
    """
    vm = seen.record if seen else xen.call("VM.get_record", vm_ref)
    known = seen.drives if seen else {}
    drives = [known.get(ref) or xen.call("VBD.get_record", ref) for ref in vm["VBDs"]]
    cards = [xen.call("VIF.get_record", ref) for ref in vm["VIFs"]]
    images = seen.disks if seen else {}
    disks = {
        d["VDI"]: images.get(d["VDI"]) or xen.call("VDI.get_record", d["VDI"])
        for d in drives
        if is_disk(d)
    }
    storages = seen.storages if seen else {}
    facts = {
        "format": CONFIGURATION_FORMAT,
        "vm": vm,
        "drives": drives,
        "cards": cards,
        "disks": disks,
        "networks": {ref: _network(xen, ref) for ref in {card["network"] for card in cards}},
        "storages": {
            ref: _storage(storages.get(ref) or xen.call("SR.get_record", ref))
            for ref in {disk["SR"] for disk in disks.values()}
        },
    }
    return json.dumps(facts, default=_plain, sort_keys=True, ensure_ascii=False)


def _network(xen: XenSession, ref: str) -> dict[str, Any]:
    if is_null(ref):
        return {}
    record = xen.once("network.get_record", ref)
    vlans = {_vlan(xen, pif) for pif in record["PIFs"][:1]}  # the same on every host
    return {
        "uuid": record["uuid"],
        "name_label": record["name_label"],
        "bridge": record["bridge"],
        "vlans": sorted(vlans),
    }


def _vlan(xen: XenSession, pif: str) -> int:
    try:
        return int(xen.once("PIF.get_VLAN", pif))
    except Refusal:
        return -1  # untagged, as XenServer writes it


def _storage(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("uuid", "name_label", "type")}


def _plain(value: object) -> str:
    if isinstance(value, xmlrpc.client.DateTime):
        return str(value.value)
    raise TypeError(f"{type(value).__name__} has no place in a VM's configuration")
