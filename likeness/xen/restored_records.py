"""The records a VM is made again from: what it was, without what belonged to its old place."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from likeness.errors import BadInput
from likeness.model.ids import DiskId, from_uuid
from likeness.xen import marks
from likeness.xen.configuration import CONFIGURATION_FORMAT
from likeness.xen.marks import Owner
from likeness.xen.session import NULL, XenSession

_KEPT = (
    "name_description",
    "user_version",
    "memory_static_max",
    "memory_dynamic_max",
    "memory_dynamic_min",
    "memory_static_min",
    "memory_target",
    "VCPUs_params",
    "VCPUs_max",
    "VCPUs_at_startup",
    "actions_after_shutdown",
    "actions_after_reboot",
    "actions_after_crash",
    "PV_bootloader",
    "PV_kernel",
    "PV_ramdisk",
    "PV_args",
    "PV_bootloader_args",
    "PV_legacy_args",
    "HVM_boot_policy",
    "HVM_boot_params",
    "HVM_shadow_multiplier",
    "platform",
    "PCI_bus",
    "recommendations",
    "xenstore_data",
    "tags",
    "start_delay",
    "shutdown_delay",
    "order",
    "version",
    "hardware_platform_version",
    "has_vendor_device",
    "reference_label",
    "domain_type",
    "NVRAM",
)
"""What makes the VM what it is; references to hosts, appliances and policies stay behind."""

_DEFAULTS: Mapping[str, Any] = {
    "actions_after_shutdown": "destroy",
    "actions_after_reboot": "restart",
    "actions_after_crash": "restart",
    "HVM_boot_policy": "",
    "PCI_bus": "",
    "memory_target": "0",
    "user_version": "1",
}
_BIOS_STRINGS = frozenset(
    {
        "bios-vendor",
        "bios-version",
        "system-manufacturer",
        "system-product-name",
        "system-version",
        "system-serial-number",
        "enclosure-asset-tag",
        "baseboard-manufacturer",
        "baseboard-product-name",
        "baseboard-version",
        "baseboard-serial-number",
        "baseboard-asset-tag",
        "baseboard-location-in-chassis",
    }
)
"""The firmware texts XenServer lets a client set."""

_NOT_RESTORED: Mapping[str, str] = {
    "VTPMs": "its virtual TPM is not in the version: have the guest's recovery keys at hand",
    "VGPUs": "its virtual GPU was left out: add one by hand",
    "attached_PCIs": "devices of its host that it used were left out: attach them by hand",
    "VUSBs": "its USB devices were left out: plug them in by hand",
}

LEAVE_OUT = "none"
"""In place of a network: the card is not made."""

_BLOCKED = "Likeness is still restoring this VM"


def parsed(configuration: str) -> Mapping[str, Any]:
    """The configuration a version keeps.

    Raises:
        BadInput: It is none, or of a later format.
    """
    if not configuration:
        raise BadInput(
            "this version was made inside the guest before any from outside, so it keeps no"
            " configuration of the VM; restore its disks and attach them to a VM of your own"
        )
    try:
        facts = json.loads(configuration)
        found = facts["format"]
        needed = {"vm", "drives", "cards", "disks", "networks"} - set(facts)
    except (ValueError, TypeError, KeyError) as cause:
        raise BadInput(f"the VM's configuration in this version cannot be read: {cause}") from cause
    if found != CONFIGURATION_FORMAT or needed:
        raise BadInput(
            f"the VM's configuration in this version has format {found}, and this release reads "
            f"{CONFIGURATION_FORMAT}; restore with the release that made it, or a later one"
        )
    return dict(facts)


def vm_record(old: Mapping[str, Any], name: str, owner: Owner) -> dict[str, Any]:
    """What VM.create takes: as it was, under a telling name, blocked from starting."""
    record = {**_DEFAULTS, **{key: old[key] for key in _KEPT if key in old}}
    other_config = marks.without_marks(old.get("other_config", {}))
    other_config.pop("mac_seed", None)  # it would give two VMs the same addresses
    return record | {
        "name_label": marks.label_of(owner, f"{name} (being restored)"),
        "is_a_template": False,
        "affinity": NULL,
        "ha_always_run": False,
        "ha_restart_priority": "",
        "blocked_operations": {"start": _BLOCKED, "start_on": _BLOCKED},
        "other_config": other_config | marks.marks_to_be_made_with(owner),
    }


def drive_record(old: Mapping[str, Any], vm_ref: str, disk_ref: str) -> dict[str, Any]:
    """What VBD.create takes; without a disk an empty drive."""
    return {
        "VM": vm_ref,
        "VDI": disk_ref,
        "userdevice": old["userdevice"],
        "bootable": old["bootable"],
        "mode": old["mode"],
        "type": old["type"],
        "unpluggable": old.get("unpluggable", True),
        "empty": disk_ref == NULL,
        "other_config": dict(old["other_config"]),
        "qos_algorithm_type": old["qos_algorithm_type"],
        "qos_algorithm_params": dict(old["qos_algorithm_params"]),
    }


def card_record(
    old: Mapping[str, Any], vm_ref: str, network_ref: str, address: str
) -> dict[str, Any]:
    """What VIF.create takes; without an address the pool makes one."""
    return {
        "VM": vm_ref,
        "network": network_ref,
        "device": old["device"],
        "MAC": address,
        "MTU": old["MTU"],
        "other_config": dict(old["other_config"]),
        "qos_algorithm_type": old["qos_algorithm_type"],
        "qos_algorithm_params": dict(old["qos_algorithm_params"]),
        "locking_mode": old.get("locking_mode", "network_default"),
        "ipv4_allowed": list(old.get("ipv4_allowed", [])),
        "ipv6_allowed": list(old.get("ipv6_allowed", [])),
    }


def bios_strings(old: Mapping[str, Any]) -> dict[str, str]:
    """The firmware texts of a VM that may be set on another."""
    return {
        key: str(value)
        for key, value in old.get("bios_strings", {}).items()
        if key in _BIOS_STRINGS and value
    }


def left_behind(facts: Mapping[str, Any], sizes: Collection[DiskId]) -> tuple[str, ...]:
    """What a VM had and its restored self does not have, one sentence each.

    Args:
        facts: The configuration, see `parsed`.
        sizes: The disks that are restored.
    """
    notes = [sentence for key, sentence in _NOT_RESTORED.items() if facts["vm"].get(key)]
    disks = {from_uuid(disk["uuid"]): disk for disk in facts["disks"].values()}
    notes += [
        f"disk {disk['name_label']!r} is not in the version and was left out"
        for uuid, disk in disks.items()
        if uuid not in sizes
    ]
    if set(sizes) - set(disks):
        notes.append("the guest's memory is in the version; the VM itself starts from its disks")
    return tuple(notes)


@dataclass(slots=True)
class NetworkFinder:
    """Finds for each network card the network of this pool that it belongs on.

    Attributes:
        xen: The session.
        known: The networks as they were, by XenServer's reference of then.
        wanted: Uuid or name of a network as it was to uuid or name of the one to use, or
            `LEAVE_OUT`.
    """

    xen: XenSession
    known: Mapping[str, Mapping[str, Any]]
    wanted: Mapping[str, str]
    here: dict[str, dict[str, Any]] = field(default_factory=dict)

    def network_for(self, card: Mapping[str, Any]) -> tuple[str, str]:
        """The network's reference, empty if the card is to be left out, and what to tell about it.

        It is the network that was named, else the one of its uuid, else the one of its VLAN and
        name.

        Raises:
            BadInput: There is no such network in the pool; it says which there are.
            Refusal: The pool refused.
        """
        self.here = self.here or dict(self.xen.call("network.get_all_records"))
        old = self.known.get(card["network"], {})
        uuid, name = str(old.get("uuid", "")), str(old.get("name_label", ""))
        for known in filter(None, (uuid, name)):
            if known in self.wanted:
                return self._chosen(card, self.wanted[known])
        by_uuid = self._where("uuid", uuid)
        if by_uuid:
            return by_uuid, ""
        vlans = set(old.get("vlans", ()))
        by_name = self._where("name_label", name)
        if by_name and (not vlans or self._vlan(by_name) in vlans):
            return by_name, f"network card {card['device']} is on the network called {name} here"
        tag = next((f" (VLAN {vlan})" for vlan in sorted(vlans) if vlan >= 0), "")
        raise BadInput(
            f"network card {card['device']} was on {name!r}{tag}, which is not here; say which"
            f" network to use for it, or {LEAVE_OUT!r}: {self._names()}"
        )

    def _vlan(self, ref: str) -> int:
        pifs = self.here[ref]["PIFs"]
        return int(self.xen.call("PIF.get_VLAN", pifs[0])) if pifs else -1

    def _names(self) -> str:
        return ", ".join(sorted({repr(record["name_label"]) for record in self.here.values()})[:8])

    def _where(self, key: str, value: str) -> str:
        found = [ref for ref, record in self.here.items() if value and record[key] == value]
        return found[0] if len(found) == 1 else ""

    def _chosen(self, card: Mapping[str, Any], uuid_or_name: str) -> tuple[str, str]:
        if uuid_or_name == LEAVE_OUT:
            return "", f"network card {card['device']} was left out, as asked for"
        found = self._where("uuid", uuid_or_name) or self._where("name_label", uuid_or_name)
        if not found:
            raise BadInput(
                f"this pool has no network, or several, called {uuid_or_name!r}; name one by its"
                f" uuid: {self._names()}"
            )
        return found, ""
