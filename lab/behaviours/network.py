"""network.*, PIF.*, VLAN.*: the pool's networks."""

from lab.calls import Call
from lab.failures import XapiFailure
from lab.registry import message
from lab.wire.values import Value, is_null

VLAN_TAGS = range(1, 4095)


@message("network.create")
def create(call: Call, fields: dict[str, Value]) -> str:
    """Make a network inside the pool."""
    bridge = fields.pop("bridge", "") or f"xapi{call.db.count('network')}"
    return call.db.create("network", **fields, bridge=bridge)


@message("network.destroy")
def destroy(call: Call, network: str) -> None:
    """Remove a network that nothing is connected to."""
    with call.db.lock:
        record = call.db.record("network", network)
        connected = [v for v in record["VIFs"] if call.db.get("VIF", v, "currently_attached")]
        if connected:
            raise XapiFailure("NETWORK_CONTAINS_VIF", *connected)
        if record["PIFs"]:
            raise XapiFailure("NETWORK_CONTAINS_PIF", *record["PIFs"])
        call.db.destroy("network", network)


@message("network.add_purpose")
def add_purpose(call: Call, network: str, value: str) -> None:
    """Switch NBD on for a network; with and without TLS exclude each other in the whole pool."""
    with call.db.lock:
        for other in call.db.refs("network"):
            for held in call.db.get("network", other, "purpose"):
                if held != value:
                    raise XapiFailure("NETWORK_INCOMPATIBLE_PURPOSES", value, held)
        call.db.add_item("network", network, "purpose", value)


@message("network.remove_purpose")
def remove_purpose(call: Call, network: str, value: str) -> None:
    """Switch NBD off for a network."""
    call.db.drop_item("network", network, "purpose", value)


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


def _drop_vlan(call: Call, vlan: str) -> None:
    with call.db.lock:
        untagged = call.db.get("VLAN", vlan, "untagged_PIF")
        if not is_null(untagged) and call.db.exists("PIF", untagged):
            call.db.destroy("PIF", untagged)
        call.db.destroy("VLAN", vlan)


@message("pool.create_VLAN")
def create_everywhere(call: Call, device: str, network: str, tag: int) -> Value:
    """Tag a network on that device of every host."""
    base = call.db.where("PIF", device=device, VLAN=-1)
    if not base:
        raise XapiFailure("INVALID_VALUE", "device", device)
    return [add_vlan(call, pif, network, tag) for pif in base]


@message("pool.create_VLAN_from_PIF")
def create_from_pif(call: Call, pif: str, network: str, tag: int) -> Value:
    """Tag a network on every host, beside the one that a PIF belongs to."""
    return create_everywhere(call, call.db.get("PIF", pif, "device"), network, tag)


@message("VLAN.create")
def create_vlan(call: Call, tagged_pif: str, tag: int, network: str) -> str:
    """Tag a network on the host of a PIF."""
    made = add_vlan(call, tagged_pif, network, tag)
    return str(call.db.get("PIF", made, "VLAN_master_of"))


@message("VLAN.destroy")
def destroy_vlan(call: Call, vlan: str) -> None:
    """Remove a VLAN and its untagged PIF."""
    _drop_vlan(call, vlan)
