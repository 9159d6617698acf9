"""Classes of the server of which a pool here has no object.

The table of facts covers what a backup touches. A real host names these too, clients ask for all
their records at login, and `listMethods` has to name what they ask for: they can be listed and
looked for, and hold nothing.
"""

from dataclasses import replace
from functools import cache

from lab.facts import ClassFacts, Facts, Field, Message, Parameter, load_facts
from lab.wire.values import NULL, null_value

EMPTY = (
    "pool_patch", "pool_update", "host_patch", "host_crashdump", "host_cpu", "crashdump", "VMSS",
    "VM_appliance", "VM_group", "DR_task", "Bond", "tunnel", "network_sriov", "PCI", "PGPU",
    "GPU_group", "VGPU", "VGPU_type", "PVS_site", "PVS_server", "PVS_proxy", "PVS_cache_storage",
    "PUSB", "USB_group", "VUSB", "Feature", "SDN_controller", "Cluster", "Cluster_host",
    "Repository", "Observer", "Host_driver", "Driver_variant", "Certificate",
)  # fmt: skip


@cache
def all_facts() -> Facts:
    """The table with these classes added."""
    facts = load_facts()
    added = {name: _class(name, {"uuid": "string"}, facts.enums) for name in EMPTY}
    return replace(facts, classes=facts.classes | added)


def _class(name: str, types: dict[str, str], enums: dict[str, tuple[str, ...]]) -> ClassFacts:
    fields = {
        field: Field(field, kind, "DRO", null_value(kind, enums)) for field, kind in types.items()
    }
    one = (Parameter("self", f"ref {name}", optional=False, default=NULL),)
    uuid = (Parameter("uuid", "string", optional=False, default=""),)
    found = [
        _message(name, "get_all", (), f"set(ref {name})"),
        _message(name, "get_all_records", (), f"map(ref {name},record {name})"),
        _message(name, "get_record", one, f"record {name}"),
        _message(name, "get_by_uuid", uuid, f"ref {name}"),
        *[_message(name, f"get_{field}", one, kind) for field, kind in types.items()],
    ]
    return ClassFacts(name, events=True, fields=fields, messages={m.name: m for m in found})


def _message(class_name: str, name: str, parameters: tuple[Parameter, ...], result: str) -> Message:
    return Message(
        class_name=class_name,
        name=name,
        parameters=parameters,
        result=result,
        open=False,
        asynchronous=False,
        removed=False,
        hidden=False,
        implicit=True,
        constructor=None,
        declared_errors=(),
        role="read-only",
    )
