"""network.*, PIF.*, VLAN.*: the pool's networks."""

from lab.calls import Call
from lab.failures import XapiFailure
from lab.registry import message
from lab.wire.values import Value

VLAN_TAGS = range(1, 4095)


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


def add_vlan(call: Call, pif: str, network: str, tag: int) -> str:
    """Make the VLAN and its untagged PIF on the host of a PIF; returns that PIF."""
    if tag not in VLAN_TAGS:
        raise XapiFailure("VLAN_TAG_INVALID", tag)
    with call.db.lock:
        base = call.db.record("PIF", pif)
        same = call.db.where("PIF", host=base["host"], device=base["device"], VLAN=tag)
        if same:
            raise XapiFailure("PIF_VLAN_EXISTS", same[0])
        vlan = call.db.create("VLAN", tagged_PIF=pif, tag=tag)
        made = call.db.create(
            "PIF",
            device=base["device"],
            network=network,
            host=base["host"],
            MAC=base["MAC"],
            MTU=base["MTU"],
            VLAN=tag,
            VLAN_master_of=vlan,
            currently_attached=True,
            metrics=base["metrics"],
        )
        call.db.put("VLAN", vlan, untagged_PIF=made)
        return made


@message("pool.create_VLAN")
def create_everywhere(call: Call, device: str, network: str, tag: int) -> Value:
    """Tag a network on that device of every host."""
    base = call.db.where("PIF", device=device, VLAN=-1)
    if not base:
        raise XapiFailure("INVALID_VALUE", "device", device)
    return [add_vlan(call, pif, network, tag) for pif in base]
