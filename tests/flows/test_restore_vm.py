"""A VM comes back whole into the pool, or nothing of it is left that can be started."""

import json
from collections.abc import Generator
from typing import Any

import pytest

from flows.restore_vm import restore_vm
from flows.sweep import sweep
from tests.flows.pool_faults import TimedFaults
from tests.flows.scene import MIB, Scene, noise, open_scene, two_vms

pytestmark = [pytest.mark.prefect, pytest.mark.lab]

VM_FIELDS = (
    "name_description", "user_version", "memory_static_max", "memory_dynamic_max",
    "memory_dynamic_min", "memory_static_min", "VCPUs_params", "VCPUs_max", "VCPUs_at_startup",
    "actions_after_shutdown", "actions_after_reboot", "actions_after_crash", "PV_args",
    "HVM_boot_policy", "HVM_boot_params", "platform", "tags", "order", "start_delay",
    "has_vendor_device", "domain_type",
)  # fmt: skip
"""What must be as it was. Another: uuid, references, name, mac_seed; not kept: host, appliance."""
DRIVE_FIELDS = ("userdevice", "bootable", "mode", "type", "unpluggable")
DISK_FIELDS = ("name_label", "name_description", "virtual_size", "type", "sharable", "read_only")
CARD_FIELDS = ("device", "MTU", "network", "locking_mode", "ipv4_allowed", "ipv6_allowed")


def record_of(site: Scene, vm: str) -> dict[str, Any]:
    """What of a VM must come back, by name."""
    db = site.pool.db
    ref = site.pool.vm(vm)
    record = db.record("VM", ref)
    drives = [db.record("VBD", each) for each in record["VBDs"]]
    disks = [db.record("VDI", each["VDI"]) for each in drives if each["type"] == "Disk"]
    config = dict(record["other_config"])
    config.pop("mac_seed", None)
    return {
        "vm": {key: record[key] for key in VM_FIELDS} | {"other_config": config},
        "drives": by(drives, DRIVE_FIELDS),
        "disks": by(disks, DISK_FIELDS),
        "cards": by([db.record("VIF", each) for each in record["VIFs"]], CARD_FIELDS),
    }


def by(records: list[dict[str, Any]], fields: tuple[str, ...]) -> list[dict[str, Any]]:
    return sorted(({key: each[key] for key in fields} for each in records), key=str)


def addresses(site: Scene, vm: str) -> list[str]:
    db = site.pool.db
    return [db.get("VIF", vif, "MAC") for vif in db.get("VM", site.pool.vm(vm), "VIFs")]


def objects(site: Scene) -> dict[str, int]:
    db = site.pool.db
    return {
        "VM": db.count("VM"),
        "VIF": db.count("VIF"),
        "disks": len(db.where("VDI", managed=True)),
    }


@pytest.fixture(scope="module")
def proved(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[Scene, None, None]:
    """Two VMs with a version each that was proved; tests add VMs and leave these as they are."""
    vms = {**two_vms(), "mail": [noise("mail", MIB + 512)]}
    with open_scene(tmp_path_factory.mktemp("proved") / "site", vms, hosts=2) as made:
        assert made.back_up("web", "db", validated=True).is_completed()
        yield made


def test_a_vm_comes_back_as_it_was_and_starts(proved: Scene) -> None:
    site = proved
    was, held, disk = record_of(site, "web"), site.disks("web"), site.pool.disk_of("web", 0)
    before = disk.read(0, MIB)
    site.pool.write("web", disk=0, offset=0, data=noise("later", MIB))

    ended = restore_vm("web", new_name="web again", start=True, site=site.name, return_state=True)

    assert ended.name == "Completed", ended.message
    assert "was started" in str(ended.message)
    assert site.disks("web again") == held != site.disks("web")
    assert record_of(site, "web again") == was
    assert addresses(site, "web again") != addresses(site, "web")
    again = site.pool.db.record("VM", site.pool.vm("web again"))
    assert again["power_state"] == "Running"
    assert again["blocked_operations"] == {}
    assert not sweep(site=site.name).snapshots  # type: ignore[attr-defined]
    site.pool.write("web", disk=0, offset=0, data=before)


def test_a_version_is_chosen_by_words_or_its_id_and_only_a_proved_one_is_good(
    proved: Scene,
) -> None:
    site = proved
    site.back_up("mail")
    unproved = restore_vm("mail", site=site.name, return_state=True)
    assert "VM mail has no version that was proved good; the newest is" in str(unproved.message)
    assert "(unchecked)" in str(unproved.message)

    site.validate()
    early = restore_vm("mail", "last good before 2020-01-01", site=site.name, return_state=True)
    assert "no version before 2020-01-01" in str(early.message)
    unclear = restore_vm("mail", "yesterday", site=site.name, return_state=True)
    assert "'yesterday' says no version" in str(unclear.message)
    nobody = restore_vm("mial", site=site.name, return_state=True)
    assert "did you mean 'mail'" in str(nobody.message)

    kept = restore_vm(
        "mail",
        "last good before 2999-01-01",
        keep_addresses=True,
        site=site.name,
        return_state=True,
    )
    assert kept.name == "Completed", kept.message
    back: Any = kept.result()
    name = str(back.name)
    assert name.startswith("mail (as of ")
    was, now = site.pool.disk_of("mail", 0), site.pool.disk_of(name, 0)
    padded = was.read(0, was.size).ljust(now.size, b"\0")  # the storage rounds sizes up
    assert now.read(0, now.size) == padded
    assert addresses(site, name) == addresses(site, "mail")
    assert site.pool.db.get("VM", site.pool.vm(name), "power_state") == "Halted"

    version = site.newest("mail").version[:8]
    with site.lost_catalog():
        wrong = restore_vm("web", version, site=site.name, return_state=True)
        assert f"version {version}" in str(wrong.message)
        assert "is none of VM web but of 'mail'" in str(wrong.message)
        right = restore_vm("mail", version, new_name="by its id", site=site.name, return_state=True)
        assert right.name == "Completed", right.message


def test_storage_that_is_full_fails_with_a_sentence_and_leaves_nothing(proved: Scene) -> None:
    site, before = proved, objects(proved)

    site.pool.faults.fail("VDI.create", "SR_FULL", "1", "0", at=2)
    full = restore_vm("web", new_name="again", site=site.name, return_state=True)
    assert full.is_failed()
    assert "the storage is full" in str(full.message)
    assert objects(site) == before

    site.pool.faults.fail("task.get_record", "SR_BACKEND_FAILURE_44", "", "no space", times=0)
    late = restore_vm("web", new_name="again", site=site.name, return_state=True)
    site.pool.faults.clear()
    assert late.is_failed()
    assert "the storage has no room" in str(late.message)
    sweep(site=site.name)
    assert objects(site) == before


def test_a_network_that_is_not_here_has_to_be_named(proved: Scene) -> None:
    site, db = proved, proved.pool.db
    (vif,) = db.get("VM", site.pool.vm("db"), "VIFs")
    old = db.get("VIF", vif, "network")
    was = {key: db.get("network", old, key) for key in ("uuid", "name_label")}
    db.put("network", old, uuid="0" * 8 + "-0000-4000-8000-" + "0" * 12, name_label="Office")
    before = objects(site)

    asked = restore_vm("db", new_name="in Office", site=site.name, return_state=True)
    assert "which is not here; say which network to use" in str(asked.message)
    assert "'Office'" in str(asked.message)
    assert objects(site) == before

    (known,) = [v.record.configuration for v in site.stored() if v.record.vm_name == "db"]
    name = next(iter(json.loads(known)["networks"].values()))["name_label"]
    told = restore_vm(
        "db", new_name="in Office", networks={name: "Office"}, site=site.name, return_state=True
    )
    assert told.name == "Completed", told.message
    (card,) = db.get("VM", site.pool.vm("in Office"), "VIFs")
    assert db.get("VIF", card, "network") == old
    without = restore_vm(
        "db", new_name="bare", networks={name: "none"}, site=site.name, return_state=True
    )
    assert "left out, as asked for" in str(without.message)
    assert db.get("VM", site.pool.vm("bare"), "VIFs") == []
    db.put("network", old, **was)


def test_all_sessions_end_and_another_host_becomes_coordinator_in_the_middle(
    proved: Scene,
) -> None:
    site, pool, before = proved, proved.pool, objects(proved)
    db = pool.db

    def move() -> None:
        now = db.get("pool", db.refs("pool")[0], "master")
        pool.set_coordinator(next(each for each in db.refs("host") if each != now))

    faults = pool.faults = TimedFaults()
    faults.when("VBD.create", pool.sessions.end_all)
    faults.when("task.create", move)
    ended = restore_vm("web", new_name="moved", site=site.name, return_state=True)
    if ended.is_failed():  # a call that may have been made is not made twice
        sweep(site=site.name)
        assert objects(site) == before
        ended = restore_vm("web", new_name="moved", site=site.name, return_state=True)
    assert ended.is_completed(), ended.message
    assert site.disks("moved") == site.disks("web")
    assert not sweep(site=site.name).snapshots  # type: ignore[attr-defined]
