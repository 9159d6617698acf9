# ruff: noqa: FBT001 - the order and the booleans are those of the API
"""SR.* and PBD.*: storage repositories and their connections to hosts."""

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
    sr = call.storage.add_sr(
        name_label=name_label,
        name_description=name_description,
        type=kind,
        content_type=content_type or "user",
        shared=shared,
        sm_config=sm_config,
        physical_size=physical_size or DEFAULT_BYTES,
    )
    for each in call.db.refs("host") if shared else [host]:
        call.storage.connect(sr, each, device_config)
    return sr


def _require_driver(call: Call, kind: str) -> None:
    if not call.db.where("SM", type=kind):
        raise XapiFailure("SR_UNKNOWN_DRIVER", kind)


@message("SR.destroy")
def destroy(call: Call, sr: str) -> None:
    """Remove an SR that is empty and not attached anywhere."""
    with call.db.lock:
        pbds = call.db.get("SR", sr, "PBDs")
        if any(call.db.get("PBD", pbd, "currently_attached") for pbd in pbds):
            raise XapiFailure("SR_HAS_PBD", sr)
        if call.db.get("SR", sr, "VDIs"):
            raise XapiFailure("SR_NOT_EMPTY")
        for pbd in pbds:
            call.db.destroy("PBD", pbd)
        call.db.destroy("SR", sr)


@message("SR.scan", "SR.update")
def scan(call: Call, sr: str) -> None:
    """Bring the records of an SR up to date and let its storage tidy up."""
    call.storage.require_storage(sr)
    call.db.touch("SR", sr)
    call.storage.coalesce_soon(sr)


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
