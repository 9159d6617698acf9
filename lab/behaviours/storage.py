"""SR.* and PBD.*: storage repositories and their connections to hosts."""

from lab.calls import Call
from lab.failures import XapiFailure
from lab.registry import message


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
