"""What a fresh pool holds: host, storage, networks, templates, roles."""

from lab.parts.assembly import Parts
from lab.roles import ROLES
from lab.wire.values import Value, date_of

GIB = 1 << 30
MIB = 1 << 20
HOST_MEMORY = 64 * GIB
BLOCK_DRIVER = (
    "VDI_CREATE", "VDI_DELETE", "VDI_ATTACH", "VDI_DETACH", "VDI_RESIZE", "VDI_CLONE",
    "VDI_SNAPSHOT", "VDI_CONFIG_CBT", "VDI_UPDATE", "SR_UPDATE", "SR_PROBE",
)  # fmt: skip
BLOCK_FEATURES = dict.fromkeys(BLOCK_DRIVER, 1)
DRIVERS: dict[str, dict[str, int]] = {
    "ext": {**BLOCK_FEATURES, "THIN_PROVISIONING": 1},
    "nfs": {**BLOCK_FEATURES, "THIN_PROVISIONING": 1},
    "smb": {**BLOCK_FEATURES, "THIN_PROVISIONING": 1},
    "lvm": BLOCK_FEATURES,
    "lvmoiscsi": BLOCK_FEATURES,
    "iso": {"VDI_CREATE": 1, "VDI_DELETE": 1, "VDI_ATTACH": 1, "VDI_DETACH": 1},
    "udev": {"VDI_ATTACH": 1, "VDI_DETACH": 1, "VDI_UPDATE": 1},
}
MACHINE: dict[str, Value] = {
    "memory_static_max": GIB,
    "memory_dynamic_max": GIB,
    "memory_dynamic_min": GIB,
    "memory_static_min": 512 * MIB,
    "memory_target": GIB,
    "VCPUs_max": 2,
    "VCPUs_at_startup": 2,
    "actions_after_shutdown": "destroy",
    "actions_after_reboot": "restart",
    "actions_after_crash": "restart",
    "HVM_boot_policy": "BIOS order",
    "HVM_boot_params": {"order": "cd", "firmware": "bios"},
    "platform": {"acpi": "1", "apic": "true", "nx": "true", "pae": "true", "viridian": "false"},
    "domain_type": "hvm",
    "hardware_platform_version": 2,
    "has_vendor_device": False,
}


def fill_new_pool(pool: Parts, address: str, host_count: int) -> None:
    """Fill an empty pool; the first host is its coordinator."""
    for kind, features in DRIVERS.items():
        pool.db.create(
            "SM",
            type=kind,
            name_label=kind,
            vendor="lab",
            version="1.0",
            required_api_version="1.0",
            features=features,
            capabilities=list(features),
            driver_filename=f"/opt/xensource/sm/{kind.upper()}SR",
            supported_image_formats=["vhd"] if "VDI_SNAPSHOT" in features else ["raw"],
        )
    network = pool.db.create(
        "network",
        name_label="Pool-wide network associated with eth0",
        bridge="xenbr0",
        other_config={"automatic": "true"},
    )
    pool.db.create(
        "network",
        name_label="Host internal management network",
        bridge="xenapi",
        other_config={"is_host_internal_management_network": "true"},
    )
    hosts = [_add_host(pool, number, address, network) for number in range(host_count)]
    _add_storage(pool, hosts)
    _add_templates(pool)
    for name in ROLES:
        pool.db.create("role", name_label=name, name_description=f"The {name} role")
    pool.db.create("user", short_name=pool.settings.username, fullname="Lab administrator")


def _add_host(pool: Parts, number: int, address: str, network: str) -> str:
    major, minor = pool.facts.api_version
    now = date_of(pool.settings.now())
    name = f"lab-host-{number + 1}"
    own_address = address if number == 0 else member_address(number)
    metrics = pool.db.create("host_metrics", memory_total=HOST_MEMORY, live=True, last_updated=now)
    host = pool.db.create(
        "host",
        name_label=name,
        hostname=name,
        address=own_address,
        metrics=metrics,
        enabled=True,
        API_version_major=major,
        API_version_minor=minor,
        API_version_vendor="XenSource",
        software_version={
            "product_brand": "XCP-ng",
            "product_version": "8.3.0",
            "product_version_text": "8.3",
            "platform_name": "XCP",
            "platform_version": "3.4.0",
            "xapi": f"{major}.{minor}",
        },
        capabilities=["xen-3.0-x86_64", "hvm-3.0-x86_64"],
        cpu_info={"cpu_count": "8", "socket_count": "1", "vendor": "GenuineIntel"},
        edition="xcp-ng",
        license_params={"restrict_cbt": "false", "sku_type": "xcp-ng"},
        other_config={"agent_start_time": "0", "boot_time": "0"},
        tls_verification_enabled=True,
    )
    _add_interface(pool, host, network, number, own_address)
    dom0 = pool.machines.add_vm_record(
        **MACHINE
        | {
            "name_label": f"Control domain on host: {name}",
            "is_control_domain": True,
            "HVM_boot_policy": "",
            "domain_type": "pv",
            "power_state": "Running",
            "resident_on": host,
            "domid": 0,
            "affinity": host,
        }
    )
    pool.db.put("host", host, control_domain=dom0)
    return host


def member_address(number: int) -> str:
    """The address of a member host: all of 127.0.0.0/8 is this machine."""
    return f"127.0.0.{number + 1}"


def _add_interface(pool: Parts, host: str, network: str, number: int, address: str) -> None:
    card = pool.db.create("PIF_metrics", carrier=True, speed=10_000, duplex=True)
    pool.db.create(
        "PIF",
        device="eth0",
        network=network,
        host=host,
        MAC=f"02:00:00:00:00:{number + 1:02x}",
        MTU=1500,
        VLAN=-1,
        metrics=card,
        physical=True,
        currently_attached=True,
        management=True,
        ip_configuration_mode="Static",
        IP=address,
        netmask="255.0.0.0",
    )


def _add_storage(pool: Parts, hosts: list[str]) -> None:
    shared = len(hosts) > 1
    local = pool.storage.add_sr(
        name_label="Shared storage" if shared else "Local storage",
        type="nfs" if shared else "ext",
        content_type="user",
        shared=shared,
        physical_size=pool.settings.sr_bytes,
    )
    tools = pool.storage.add_sr(
        name_label="XenServer Tools", type="iso", content_type="iso", shared=True, is_tools_sr=True
    )
    for host in hosts:
        pool.storage.connect(local, host, {"device": "/dev/lab"})
        pool.storage.connect(tools, host, {"location": "/opt/xensource/packages/iso"})
    pool.db.create(
        "pool",
        name_label="lab",
        master=hosts[0],
        default_SR=local,
        suspend_image_SR=local,
        crash_dump_SR=local,
        restrictions={"restrict_cbt": "false"},
        tls_verification_enabled=True,
    )


def _add_templates(pool: Parts) -> None:
    for name in ("Other install media", "Debian Bookworm 12"):
        pool.machines.add_vm_record(
            **MACHINE
            | {
                "name_label": name,
                "is_a_template": True,
                "is_default_template": True,
                "other_config": {"default_template": "true", "install-methods": "cdrom"},
            }
        )
