"""Hosts that come and go, and who of them is the coordinator."""

from lab.behaviours.common import the_pool
from lab.behaviours.ha import refuse_ha
from lab.behaviours.vm_power import bring_down
from lab.calls import Call
from lab.failures import XapiFailure
from lab.registry import message


def _guests(call: Call, host: str) -> list[str]:
    resident = call.db.get("host", host, "resident_VMs")
    return [vm for vm in resident if not call.db.get("VM", vm, "is_control_domain")]


def _refuse_coordinator(call: Call, host: str) -> None:
    if host == call.db.get("pool", the_pool(call), "master"):
        raise XapiFailure("HOST_CANNOT_DESTROY_SELF", host)


def _set_live(call: Call, host: str, *, live: bool) -> None:
    metrics = call.db.get("host", host, "metrics")
    call.db.put("host_metrics", metrics, live=live)
    call.db.put("host", host, enabled=live)


@message("host.declare_dead")
def declare_dead(call: Call, host: str) -> None:
    """Take a host for lost: what ran on it is halted."""
    _refuse_coordinator(call, host)
    with call.db.lock:
        _set_live(call, host, live=False)
        for vm in _guests(call, host):
            bring_down(call, vm)


@message("host.power_on")
def power_on(call: Call, host: str) -> None:
    """Switch a host on, if it was told how that is done."""
    if not call.db.get("host", host, "power_on_mode"):
        raise XapiFailure("HOST_POWER_ON_MODE_DISABLED")
    _set_live(call, host, live=True)


@message("host.destroy")
def destroy(call: Call, host: str) -> None:
    """Forget a host that is gone for good."""
    _refuse_coordinator(call, host)
    if call.db.get("host_metrics", call.db.get("host", host, "metrics"), "live"):
        raise XapiFailure("HOST_IS_LIVE", host)
    _remove(call, host)


@message("pool.eject")
def eject(call: Call, host: str) -> None:
    """Let a host leave the pool; its local storage goes with it."""
    refuse_ha(call)
    _refuse_coordinator(call, host)
    _remove(call, host)


def _remove(call: Call, host: str) -> None:
    with call.db.lock:
        if _guests(call, host):
            raise XapiFailure("HOST_HAS_RESIDENT_VMS", host)
        record = call.db.record("host", host)
        for pbd in record["PBDs"]:
            sr = call.db.get("PBD", pbd, "SR")
            call.db.destroy("PBD", pbd)
            if not call.db.get("SR", sr, "PBDs"):
                _forget(call, sr)
        for pif in record["PIFs"]:
            for vlan in call.db.get("PIF", pif, "VLAN_slave_of"):
                call.db.destroy("VLAN", vlan)
            call.db.destroy("PIF", pif)
        for certificate in record["certificates"]:
            call.db.destroy("Certificate", certificate)
        call.pool.drop_vm(record["control_domain"])
        call.db.destroy("host_metrics", record["metrics"])
        call.db.destroy("host", host)


def _forget(call: Call, sr: str) -> None:
    for vdi in call.db.get("SR", sr, "VDIs"):
        call.pool.drop_vdi(vdi)
    call.db.destroy("SR", sr)


@message("pool.emergency_transition_to_master")
def transition_to_master(call: Call) -> None:
    """Make the host that was asked the coordinator, although the old one is lost."""
    call.pool.set_coordinator(call.host or call.db.refs("host")[0])


@message("pool.emergency_reset_master")
def reset_master(call: Call, address: str) -> None:
    """Let a member take another host for its coordinator."""
    found = call.db.where("host", address=address)
    call.pool.set_coordinator(found[0] if found else "", address="" if found else address)


# -- how hosts are reached -------------------------------------------------------------------------


def _manage_by(call: Call, pif: str) -> None:
    refuse_ha(call)
    record = call.db.record("PIF", pif)
    if not record["IP"]:
        raise XapiFailure("PIF_HAS_NO_NETWORK_CONFIGURATION", pif)
    with call.db.lock:
        for other in call.db.get("host", record["host"], "PIFs"):
            call.db.put("PIF", other, management=other == pif)
        call.db.put("host", record["host"], address=record["IP"])


@message("host.management_reconfigure")
def management_reconfigure(call: Call, pif: str) -> None:
    """Let clients reach a host by another of its interfaces."""
    _manage_by(call, pif)


@message("pool.management_reconfigure")
def management_reconfigure_all(call: Call, network: str) -> None:
    """Let clients reach all hosts by another network."""
    refuse_ha(call)
    with call.db.lock:
        found = {}
        for host in call.db.refs("host"):
            here = call.db.where("PIF", host=host, network=network)
            if not here:
                raise XapiFailure("PIF_NOT_PRESENT", host, network)
            found[host] = here[0]
        for pif in found.values():
            _manage_by(call, pif)
