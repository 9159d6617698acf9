"""What a pool keeps for itself: availability, hosts that come and go, certificates, services."""

import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import XenAPI

from lab.certificates import make_certificate
from lab.failures import XapiFailure
from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from tests.lab.clients import Xen

MIB = 1 << 20


@pytest.fixture
def pair() -> Iterator[LabServer]:
    """Two hosts that share their storage, on HTTPS."""
    pool = Pool(Settings(detach_seconds=0.05, coalesce_seconds=0.0), hosts=2)
    pool.add_vm("web", [4 * MIB])
    with LabServer(pool, tls=True) as server:
        yield server


@pytest.fixture
def two(pair: LabServer) -> Xen:
    return Xen(pair)


def refusal(call: object, *arguments: object) -> list[str]:
    with pytest.raises(XenAPI.Failure) as refused:
        call(*arguments)  # type: ignore[operator]
    return list(refused.value.details)


def hosts(xen: Xen) -> tuple[str, str]:
    """The coordinator and the other one."""
    first = xen.api.pool.get_master(xen.api.pool.get_all()[0])
    return first, next(host for host in xen.api.host.get_all() if host != first)


# -- high availability -----------------------------------------------------------------------------


def test_availability_needs_shared_storage_and_leaves_when_switched_off(two: Xen) -> None:
    api, pool = two.api, two.api.pool.get_all()[0]
    assert refusal(api.pool.disable_ha) == ["HA_NOT_ENABLED"]
    api.pool.enable_ha([], {"timeout": "60"})
    (statefile,) = api.pool.get_ha_statefiles(pool)
    assert api.VDI.get_type(statefile) == "ha_statefile"
    assert api.pool.get_ha_enabled(pool)
    assert all(api.host.get_ha_statefiles(host) == [statefile] for host in api.host.get_all())
    assert refusal(api.pool.enable_ha, [], {}) == ["HA_IS_ENABLED"]
    assert refusal(api.pool.eject, hosts(two)[1]) == ["HA_IS_ENABLED"]
    api.pool.set_ha_host_failures_to_tolerate(pool, "1")
    assert refusal(api.pool.set_ha_host_failures_to_tolerate, pool, "2") == ["HA_NO_PLAN"]
    vm = two.vm("web")
    plan = api.pool.ha_compute_vm_failover_plan([hosts(two)[0]], [vm])
    assert plan == {vm: {"host": hosts(two)[1]}}
    assert api.pool.ha_compute_vm_failover_plan(list(hosts(two)), [vm]) == {
        vm: {"error_code": "NO_HOSTS_AVAILABLE"}
    }
    api.pool.disable_ha()
    assert not api.pool.get_ha_enabled(pool)
    assert refusal(api.VDI.get_record, statefile)[0] == "HANDLE_INVALID"


def test_a_pool_without_shared_storage_has_no_place_for_statefiles(xen: Xen) -> None:
    assert refusal(xen.api.pool.enable_ha, [], {}) == ["CANNOT_CREATE_STATE_FILE"]


# -- hosts -----------------------------------------------------------------------------------------


def test_a_dead_host_halts_its_vms_starts_none_and_can_be_forgotten(pair: LabServer) -> None:
    xen = Xen(pair)
    first, second = hosts(xen)
    vm = xen.vm("web")
    xen.api.VM.pool_migrate(vm, second, {})
    assert refusal(xen.api.host.destroy, second) == ["HOST_IS_LIVE", second]
    assert refusal(xen.api.host.declare_dead, first) == ["HOST_CANNOT_DESTROY_SELF", first]
    assert refusal(xen.api.pool.eject, second) == ["HOST_HAS_RESIDENT_VMS", second]
    xen.api.host.declare_dead(second)
    assert xen.api.VM.get_power_state(vm) == "Halted"
    assert xen.api.VM.get_possible_hosts(vm) == [first]
    assert refusal(xen.api.host.power_on, second) == ["HOST_POWER_ON_MODE_DISABLED"]
    xen.api.host.set_power_on_mode(second, "wake-on-lan", {})
    xen.api.host.power_on(second)
    assert set(xen.api.VM.get_possible_hosts(vm)) == {first, second}
    xen.api.host.declare_dead(second)
    xen.api.host.destroy(second)
    assert xen.api.host.get_all() == [first]
    assert {xen.api.PIF.get_host(pif) for pif in xen.api.PIF.get_all()} == {first}
    assert {xen.api.PBD.get_host(pbd) for pbd in xen.api.PBD.get_all()} == {first}
    assert len([v for v in xen.api.VM.get_all() if xen.api.VM.get_is_control_domain(v)]) == 1
    xen.api.VM.start(vm, False, False)  # noqa: FBT003
    assert xen.export(xen.disks(vm)[0]) == bytes(4 * MIB)


def test_an_orphan_can_take_the_pool_over(pair: LabServer) -> None:
    xen = Xen(pair)
    _, second = hosts(xen)
    address = xen.api.host.get_address(second)
    pair.pool.dispatcher.answer("pool.emergency_transition_to_master", [xen.token], second)
    assert pair.pool.coordinator_address() == address
    with pytest.raises(XenAPI.Failure, match="HOST_IS_SLAVE"):
        Xen(pair)


def test_clients_follow_the_management_interface(two: Xen) -> None:
    first, _ = hosts(two)
    base = two.api.host.get_management_interface(first)
    two.api.pool.create_VLAN(
        "eth0", two.api.network.create({"name_label": "m", "other_config": {}}), "9"
    )
    tagged = next(p for p in two.api.host.get_PIFs(first) if p != base)
    unconfigured = refusal(two.api.host.management_reconfigure, tagged)
    assert unconfigured == ["PIF_HAS_NO_NETWORK_CONFIGURATION", tagged]
    two.api.PIF.reconfigure_ip(tagged, "Static", "127.0.9.1", "255.0.0.0", "", "")
    two.api.host.management_reconfigure(tagged)
    assert two.api.host.get_management_interface(first) == tagged
    assert two.api.host.get_address(first) == "127.0.9.1"
    lost = two.api.network.create({"name_label": "nowhere", "other_config": {}})
    assert refusal(two.api.pool.management_reconfigure, lost)[0] == "PIF_NOT_PRESENT"


# -- certificates ----------------------------------------------------------------------------------


def shown_by(lab: LabServer) -> str:
    parts = urlsplit(lab.url)
    return ssl.get_server_certificate((parts.hostname or "", parts.port or 0), timeout=30)


def test_a_host_can_renew_the_certificate_that_clients_pinned(pair: LabServer) -> None:
    xen = Xen(pair)
    first, _ = hosts(xen)
    (record,) = xen.api.host.get_certificates(first)
    assert xen.api.Certificate.get_type(record) == "host"
    before = shown_by(pair)
    assert before.strip() == xen.api.host.get_server_certificate(first).strip()
    xen.api.host.reset_server_certificate(first)
    assert shown_by(pair) != before
    assert shown_by(pair).strip() == xen.api.host.get_server_certificate(first).strip()
    assert refusal(xen.api.Certificate.get_record, record)[0] == "HANDLE_INVALID"
    assert len(xen.api.Certificate.get_all_records()) == 2


def test_a_host_shows_the_certificate_it_is_given_if_the_key_fits(pair: LabServer) -> None:
    xen = Xen(pair)
    first, _ = hosts(xen)
    given, other = (make_certificate("pool.test", ["192.0.2.1"]) for _ in range(2))
    install = xen.api.host.install_server_certificate
    for pem, key, code in (
        ("nonsense", "", "SERVER_CERTIFICATE_INVALID"),
        (given.pem, "nonsense", "SERVER_CERTIFICATE_KEY_INVALID"),
        (given.pem, other.key_pem.decode(), "SERVER_CERTIFICATE_KEY_MISMATCH"),
    ):
        assert refusal(install, first, pem, key, "") == [code]
    install(first, given.pem, given.key_pem.decode(), "")
    assert shown_by(pair).strip() == given.pem.strip()


def test_trusted_certificates_are_listed_by_their_names(two: Xen) -> None:
    pool, pem = two.api.pool.get_all()[0], make_certificate("ca.test", []).pem
    two.api.pool.install_ca_certificate("ours.pem", pem)
    assert two.api.pool.certificate_list() == ["ours.pem"]
    install = two.api.pool.install_ca_certificate
    assert refusal(install, "ours.pem", pem) == ["CERTIFICATE_ALREADY_EXISTS", "ours.pem"]
    assert refusal(install, "../x", pem) == ["CERTIFICATE_NAME_INVALID", "../x"]
    assert refusal(install, "bad.pem", "x") == ["CERTIFICATE_CORRUPT", "bad.pem"]
    two.api.pool.uninstall_ca_certificate("ours.pem")
    gone = refusal(two.api.pool.uninstall_ca_certificate, "ours.pem")
    assert gone == ["CERTIFICATE_DOES_NOT_EXIST", "ours.pem"]
    two.api.pool.install_trusted_certificate(pool, False, pem, ["ldaps"])  # noqa: FBT003
    records = two.api.Certificate.get_all_records().items()
    (pinned,) = [ref for ref, record in records if record["type"] == "pinned"]
    assert two.api.Certificate.get_purpose(pinned) == ["ldaps"]
    two.api.pool.uninstall_trusted_certificate(pool, pinned)
    own = two.api.host.get_certificates(hosts(two)[0])[0]
    refused = refusal(two.api.pool.uninstall_trusted_certificate, pool, own)
    assert refused == ["NOT_TRUSTED_CERTIFICATE", own]


# -- services --------------------------------------------------------------------------------------


def test_what_needs_another_side_fails_as_without_it(two: Xen) -> None:
    pool, (first, _) = two.api.pool.get_all()[0], hosts(two)
    assert refusal(two.api.pool.retrieve_wlb_recommendations) == ["WLB_NOT_INITIALIZED"]
    assert refusal(two.api.host.license_add, first, "x") == ["LICENSE_FILE_DEPRECATED"]
    assert refusal(two.api.pool.apply_edition, pool, "gold") == ["INVALID_EDITION", "gold"]
    sync = (pool, False, "", "", "", "")
    assert refusal(two.api.pool.sync_updates, *sync) == ["NO_REPOSITORY_ENABLED"]
    two.api.pool.apply_edition(pool, "standard")
    assert {two.api.host.get_edition(host) for host in hosts(two)} == {"standard"}


def test_hosts_join_and_leave_a_directory_together(two: Xen) -> None:
    pool, (first, second) = two.api.pool.get_all()[0], hosts(two)
    two.api.pool.enable_external_auth(pool, {"user": "u", "pass": "p"}, "ad.test", "AD")
    assert two.api.host.get_external_auth_service_name(second) == "ad.test"
    assert "pass" not in two.api.host.get_external_auth_configuration(second)
    again = refusal(two.api.pool.enable_external_auth, pool, {}, "x", "AD")
    assert again == ["POOL_AUTH_ALREADY_ENABLED", first]
    two.api.host.disable_external_auth(first, {})
    assert refusal(two.api.pool.detect_nonhomogeneous_external_auth, pool)[1] == second
    two.api.pool.disable_external_auth(pool, {})
    two.api.pool.detect_nonhomogeneous_external_auth(pool)


def test_copies_of_the_database_are_disks_of_their_own_kind(two: Xen) -> None:
    pool = two.api.pool.get_all()[0]
    sr = two.api.pool.get_default_SR(pool)
    two.api.pool.enable_redo_log(sr)
    assert two.api.VDI.get_type(two.api.pool.get_redo_log_vdi(pool)) == "redo_log"
    assert refusal(two.api.pool.enable_redo_log, sr) == ["REDO_LOG_IS_ENABLED"]
    two.api.SR.enable_database_replication(sr)
    (vdi,) = two.api.pool.get_metadata_VDIs(pool)
    assert two.api.VDI.read_database_pool_uuid(vdi) == two.api.pool.get_uuid(pool)
    two.api.SR.disable_database_replication(sr)
    two.api.pool.disable_redo_log()
    kinds = {record["type"] for record in two.api.VDI.get_all_records().values()}
    assert kinds == {"system"}


def test_hosts_know_each_other_by_the_pools_secret(pair: LabServer) -> None:
    xen = Xen(pair)
    first, disk = hosts(xen)[0], xen.disks(xen.vm("web"))[0]
    secret = xen.api.pool.initial_auth()
    session = pair.pool.dispatcher.answer("session.slave_login", [first, secret])
    assert xen.api.session.get_pool(session)
    connection = xen.connection()
    headers = {"cookie": f"pool_secret={secret}"}
    connection.request("GET", f"/export_raw_vdi?vdi={disk}", headers=headers)
    assert connection.getresponse().status == 200
    connection.close()
    xen.api.pool.rotate_secret()
    with pytest.raises(XapiFailure, match="SESSION_AUTHENTICATION_FAILED"):
        pair.pool.dispatcher.answer("session.slave_login", [first, secret])
    with pytest.raises(XapiFailure, match="MESSAGE_PARAMETER_COUNT_MISMATCH"):
        pair.pool.dispatcher.answer("session.slave_login", [first, "", secret])
    assert secret not in str(pair.pool.journal.entries())


# -- networks --------------------------------------------------------------------------------------


def test_interfaces_are_introduced_once_and_vlans_spread(two: Xen) -> None:
    first, second = hosts(two)
    pif = two.api.PIF.introduce(first, "02:00:00:00:aa:01", "eth7", True)  # noqa: FBT003
    assert two.api.PIF.get_MAC(pif) == "02:00:00:00:aa:01"
    twice = refusal(two.api.PIF.introduce, first, "", "eth7", True)  # noqa: FBT003
    assert twice == ["DUPLICATE_PIF_DEVICE_NAME", "eth7"]
    network = two.api.network.create({"name_label": "v", "other_config": {}})
    base = two.api.host.get_management_interface(first)
    two.api.VLAN.create(base, "30", network)
    assert len(two.api.network.get_PIFs(network)) == 1
    two.api.host.sync_vlans(second)
    assert len(two.api.network.get_PIFs(network)) == 2
    two.api.PIF.reconfigure_ipv6(base, "Static", "fd00::1/64", "fd00::2", "")
    assert two.api.PIF.get_IPv6(base) == ["fd00::1/64"]


def test_a_networks_locking_cannot_change_under_plugged_cards(two: Xen) -> None:
    vif = two.api.VM.get_VIFs(two.vm("web"))[0]
    network = two.api.VIF.get_network(vif)
    refused = refusal(two.api.network.set_default_locking_mode, network, "disabled")
    assert refused == ["VIF_IN_USE", network, vif]
    two.api.VIF.unplug(vif)
    two.api.network.set_default_locking_mode(network, "disabled")
    two.api.VIF.set_locking_mode(vif, "locked")
    two.api.VIF.add_ipv4_allowed(vif, "192.0.2.7")
    assert two.api.VIF.get_ipv4_allowed(vif) == ["192.0.2.7"]


def test_classes_without_objects_are_named_and_empty(two: Xen) -> None:
    named = set(two.session.system.listMethods())
    for name in ("VGPU", "PCI", "PUSB", "Bond", "tunnel", "pool_update", "pool_patch"):
        assert {f"{name}.get_all_records", f"{name}.get_record"} <= named
        assert getattr(two.api, name).get_all_records() == {}
        lost = refusal(getattr(two.api, name).get_record, "OpaqueRef:x")
        assert lost == ["HANDLE_INVALID", name, "OpaqueRef:x"]
    counts = two.events(["*"])["valid_ref_counts"]
    assert (counts["vgpu"], counts["certificate"]) == (0, 2)
