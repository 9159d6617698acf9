# ruff: noqa: FBT001 - the order and the booleans are those of the API
"""SR.* and PBD.*: storage repositories and their connections to hosts."""

from lab.behaviours.vdi import drop_drives
from lab.calls import Call
from lab.failures import XapiFailure
from lab.registry import message
from lab.wire.values import Value

DEFAULT_BYTES = 64 << 30


@message("SR.create")
def create(
    call: Call,
    host: str,
    device_config: dict[str, str],
    physical_size: int,
    name_label: str,
    name_description: str,
    kind: str,
    content_type: str,
    shared: bool,
    sm_config: dict[str, str],
) -> str:
    """Make an SR and connect it to one host, or to all when it is shared."""
    _require_driver(call, kind)
    sr = call.pool.add_sr(
        name_label=name_label,
        name_description=name_description,
        type=kind,
        content_type=content_type or "user",
        shared=shared,
        sm_config=sm_config,
        physical_size=physical_size or DEFAULT_BYTES,
    )
    for each in call.db.refs("host") if shared else [host]:
        call.pool.connect(sr, each, device_config)
    return sr


@message("SR.introduce")
def introduce(
    call: Call,
    uuid: str,
    name_label: str,
    name_description: str,
    kind: str,
    content_type: str,
    shared: bool,
    sm_config: dict[str, str],
) -> str:
    """Make the record of an SR that is not connected yet; its disks come with the first scan."""
    _require_driver(call, kind)
    if call.db.where("SR", uuid=uuid):
        raise XapiFailure("SR_UUID_EXISTS", uuid)
    call.pool.shelf.take_storage(uuid)
    return call.pool.add_sr(
        uuid=uuid,
        name_label=name_label,
        name_description=name_description,
        type=kind,
        content_type=content_type,
        shared=shared,
        sm_config=sm_config,
        physical_size=DEFAULT_BYTES,
    )


def _require_driver(call: Call, kind: str) -> None:
    if not call.db.where("SM", type=kind):
        raise XapiFailure("SR_UNKNOWN_DRIVER", kind)


@message("SR.destroy", "SR.forget")
def remove(call: Call, sr: str) -> None:
    """Remove an SR that is not attached anywhere; what is forgotten can be introduced again."""
    with call.db.lock:
        pbds = call.db.get("SR", sr, "PBDs")
        if any(call.db.get("PBD", pbd, "currently_attached") for pbd in pbds):
            raise XapiFailure("SR_HAS_PBD", sr)
        vdis = call.db.get("SR", sr, "VDIs")
        if call.name == "SR.destroy" and vdis:
            raise XapiFailure("SR_NOT_EMPTY")
        if call.name == "SR.forget":
            call.pool.shelf.put_storage(sr)
        for vdi in vdis:
            if vdi in call.pool.disks:  # the storage's own layers go with their last child
                drop_drives(call, vdi, "forget")
                call.pool.forget_vdi(vdi)
        for pbd in pbds:
            call.db.destroy("PBD", pbd)
        call.db.destroy("SR", sr)


@message("SR.scan", "SR.update")
def scan(call: Call, sr: str) -> None:
    """Bring the records of an SR up to date and let its storage tidy up."""
    call.pool.require_storage(sr)
    call.pool.bring_back(sr)
    call.db.touch("SR", sr)
    call.pool.coalesce_soon(sr)


@message("SR.get_supported_types")
def get_supported_types(call: Call) -> Value:
    """The types of SR there are drivers for."""
    return [call.db.get("SM", sm, "type") for sm in call.db.refs("SM")]


@message("SR.get_live_hosts")
def get_live_hosts(call: Call, sr: str) -> Value:
    """The hosts that have the SR attached."""
    with call.db.lock:
        pbds = [call.db.record("PBD", pbd) for pbd in call.db.get("SR", sr, "PBDs")]
        return [pbd["host"] for pbd in pbds if pbd["currently_attached"]]


@message("SR.probe")
def probe(call: Call, host: str, device_config: dict[str, str], kind: str, *rest: Value) -> str:
    """Look for forgotten SRs at a device; the answer is the driver's XML."""
    del host, rest
    _require_driver(call, kind)
    found = call.pool.shelf.found_at(kind, device_config)
    inside = "".join(f"<SR><UUID>{uuid}</UUID></SR>" for uuid in found)
    return f'<?xml version="1.0" ?><SRlist>{inside}</SRlist>'


@message("SR.probe_ext")
def probe_ext(
    call: Call, host: str, device_config: dict[str, str], kind: str, *rest: Value
) -> Value:
    """The same as records."""
    del host, rest
    _require_driver(call, kind)
    return [
        {
            "configuration": device_config,
            "complete": True,
            "sr": {"uuid": uuid, "health": "healthy"},
            "extra_info": {},
        }
        for uuid in call.pool.shelf.found_at(kind, device_config)
    ]


@message("SR.make")
def make(call: Call, *given: Value) -> Value:
    """Make an SR the way of long ago."""
    del call, given
    raise XapiFailure("MESSAGE_DEPRECATED")


@message("SR.assert_can_host_ha_statefile", "SR.assert_supports_database_replication")
def assert_shared(call: Call, sr: str) -> None:
    """Fail unless all hosts see the SR."""
    if not call.db.get("SR", sr, "shared"):
        raise XapiFailure("SR_NOT_SHARED", sr)


@message("PBD.create")
def create_pbd(call: Call, fields: dict[str, Value]) -> str:
    """Declare a connection of an SR to a host."""
    call.db.row("host", fields["host"])
    call.db.row("SR", fields["SR"])
    return call.db.create("PBD", **fields)


@message("PBD.destroy")
def destroy_pbd(call: Call, pbd: str) -> None:
    """Remove a connection, after unplugging it if need be."""
    if call.db.get("PBD", pbd, "currently_attached"):
        unplug(call, pbd)
    call.db.destroy("PBD", pbd)


@message("PBD.plug")
def plug(call: Call, pbd: str) -> None:
    """Attach an SR to a host."""
    call.db.put("PBD", pbd, currently_attached=True)


@message("PBD.unplug")
def unplug(call: Call, pbd: str) -> None:
    """Detach an SR from a host; no disk of it may be in use there."""
    with call.db.lock:
        sr = call.db.get("PBD", pbd, "SR")
        for vdi in call.db.get("SR", sr, "VDIs"):
            for vbd in call.db.get("VDI", vdi, "VBDs"):
                if call.db.get("VBD", vbd, "currently_attached"):
                    raise XapiFailure("VDI_IN_USE", vdi, "unplug")
        call.db.put("PBD", pbd, currently_attached=False)
