"""Interfaces that somebody introduces by hand, and the addresses they get."""

from lab.behaviours.common import the_pool
from lab.behaviours.network import add_vlan
from lab.calls import Call
from lab.failures import XapiFailure
from lab.registry import message
from lab.wire.values import Value

INTRODUCED = (
    "device", "network", "host", "MAC", "MTU", "VLAN", "physical", "ip_configuration_mode", "IP",
    "netmask", "gateway", "DNS", "bond_slave_of", "VLAN_master_of", "management", "other_config",
    "disallow_unplug", "ipv6_configuration_mode", "IPv6", "ipv6_gateway", "primary_address_type",
    "managed", "properties",
)  # fmt: skip


def _refuse_twice(call: Call, host: str, device: str, tag: int) -> None:
    if call.db.where("PIF", host=host, device=device, VLAN=tag):
        raise XapiFailure("DUPLICATE_PIF_DEVICE_NAME", device)


@message("PIF.introduce")
def introduce(call: Call, host: str, mac: str, device: str, managed: Value) -> str:
    """Make the record of an interface, and a network for it."""
    with call.db.lock:
        _refuse_twice(call, host, device, -1)
        network = call.db.create(
            "network",
            name_label=f"Pool-wide network associated with {device}",
            bridge=f"xenbr{call.db.count('network')}",
        )
        metrics = call.db.create("PIF_metrics", carrier=True)
        return call.db.create(
            "PIF",
            host=host,
            MAC=mac.lower(),
            device=device,
            managed=managed,
            network=network,
            metrics=metrics,
            physical=True,
            VLAN=-1,
            MTU=1500,
        )


@message("PIF.pool_introduce", "PIF.db_introduce")
def introduce_record(call: Call, *given: Value) -> str:
    """Make the record of an interface of which everything is told."""
    fields = dict(zip(INTRODUCED, given, strict=True))
    with call.db.lock:
        call.db.row("host", fields["host"])
        call.db.row("network", fields["network"])
        _refuse_twice(call, fields["host"], fields["device"], fields["VLAN"])
        return call.db.create("PIF", **fields)


@message("VLAN.pool_introduce")
def introduce_vlan(
    call: Call, tagged: str, untagged: str, tag: int, other_config: dict[str, str]
) -> str:
    """Make the record of a VLAN whose interfaces are there."""
    with call.db.lock:
        vlan = call.db.create(
            "VLAN", tagged_PIF=tagged, untagged_PIF=untagged, tag=tag, other_config=other_config
        )
        call.db.put("PIF", untagged, VLAN_master_of=vlan)
        return vlan


@message("PIF.reconfigure_ipv6")
def reconfigure_ipv6(call: Call, pif: str, *given: str) -> None:
    """Note an interface's second address."""
    mode, address, gateway, dns = given
    addresses = [address] if address else []
    call.db.put(
        "PIF", pif, ipv6_configuration_mode=mode, IPv6=addresses, ipv6_gateway=gateway, DNS=dns
    )


@message("host.sync_vlans")
def sync_vlans(call: Call, host: str) -> None:
    """Give a host the VLANs its coordinator has."""
    with call.db.lock:
        coordinator = call.db.get("pool", the_pool(call), "master")
        for pif in call.db.get("host", coordinator, "PIFs"):
            record = call.db.record("PIF", pif)
            own = call.db.where("PIF", host=host, device=record["device"], VLAN=-1)
            same = call.db.where("PIF", host=host, device=record["device"], VLAN=record["VLAN"])
            if record["VLAN"] >= 0 and own and not same:
                add_vlan(call, own[0], record["network"], record["VLAN"])


@message("host.sync_tunnels")
def sync_tunnels(call: Call, host: str) -> None:
    """Give a host the tunnels its coordinator has: none."""
    call.db.row("host", host)


@message("host.sync_pif_currently_attached")
def sync_attached(call: Call, host: str, bridges: list[str]) -> None:
    """Note which of a host's interfaces are up, by the bridges that are."""
    for pif in call.db.get("host", host, "PIFs"):
        bridge = call.db.get("network", call.db.get("PIF", pif, "network"), "bridge")
        call.db.put("PIF", pif, currently_attached=bridge in bridges)


@message("network.set_default_locking_mode")
def set_locking_mode(call: Call, network: str, value: str) -> None:
    """Choose what cards may send that leave it to the network; none may be plugged meanwhile."""
    with call.db.lock:
        for vif in call.db.get("network", network, "VIFs"):
            plugged = call.db.get("VIF", vif, "currently_attached")
            if plugged and call.db.get("VIF", vif, "locking_mode") == "network_default":
                raise XapiFailure("VIF_IN_USE", network, vif)
        call.db.put("network", network, default_locking_mode=value)
