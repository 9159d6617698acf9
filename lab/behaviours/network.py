"""network.*, PIF.*, VLAN.*: the pool's networks."""

from lab.calls import Call
from lab.failures import XapiFailure
from lab.registry import message
from lab.wire.values import Value


@message("network.create")
def create(call: Call, fields: dict[str, Value]) -> str:
    """Make a network inside the pool."""
    bridge = fields.pop("bridge", "") or f"xapi{call.db.count('network')}"
    return call.db.create("network", **fields, bridge=bridge)


@message("network.add_purpose")
def add_purpose(call: Call, network: str, value: str) -> None:
    """Switch NBD on for a network; with and without TLS exclude each other in the whole pool."""
    with call.db.lock:
        for other in call.db.refs("network"):
            for held in call.db.get("network", other, "purpose"):
                if held != value:
                    raise XapiFailure("NETWORK_INCOMPATIBLE_PURPOSES", value, held)
        call.db.add_item("network", network, "purpose", value)
