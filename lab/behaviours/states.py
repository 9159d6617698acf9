"""Which operations storage, drives, cards and hosts allow in their present state."""

from lab.database import Database, Record

DATA_OPERATIONS = ("snapshot", "clone", "copy", "resize", "generate_config")
DATA_LESS_OPERATIONS = (
    "destroy",
    "forget",
    "data_destroy",
    "list_changed_blocks",
    "update",
    "generate_config",
)


def vdi_operations(database: Database, vdi: str, record: Record) -> list[str]:
    """What may be done with a disk now."""
    del vdi
    if not record["managed"]:
        return []
    if record["type"] == "cbt_metadata":
        return list(DATA_LESS_OPERATIONS)
    attached = _attached(database, record)
    names = ["update", "forget", "force_unlock", "generate_config", "snapshot", "copy"]
    if not attached:
        names += ["destroy", "resize", "clone", "set_on_boot"]
    if record["is_a_snapshot"]:
        names += ["revert_from"] + (["data_destroy"] if record["cbt_enabled"] else [])
    else:
        names += ["enable_cbt", "disable_cbt", "mirror"]
    if record["cbt_enabled"]:
        names.append("list_changed_blocks")
    return names


def _attached(database: Database, record: Record) -> bool:
    rows = [database.row("VBD", vbd).record for vbd in record["VBDs"]]
    return any(row["currently_attached"] for row in rows)


def vbd_operations(database: Database, vbd: str, record: Record) -> list[str]:
    """What may be done with a drive now."""
    del vbd
    if not database.exists("VM", record["VM"]):
        return []
    state = database.row("VM", record["VM"]).record["power_state"]
    names = ["attach"]
    if record["type"] == "CD":
        names.append("insert" if record["empty"] else "eject")
    if state in ("Running", "Paused"):
        names += ["unplug", "unplug_force"] if record["currently_attached"] else ["plug"]
        names += ["pause", "unpause"]
    return names


def vif_operations(database: Database, vif: str, record: Record) -> list[str]:
    """What may be done with a network card now."""
    del vif
    if not database.exists("VM", record["VM"]):
        return []
    running = database.row("VM", record["VM"]).record["power_state"] == "Running"
    return ["attach", *(["unplug" if record["currently_attached"] else "plug"] if running else [])]


def sr_operations(database: Database, sr: str, record: Record) -> list[str]:
    """What may be done with an SR now, by its driver's features and its connections."""
    del sr
    plugged = [database.row("PBD", pbd).record["currently_attached"] for pbd in record["PBDs"]]
    names = ["pbd_create", "pbd_destroy", "plug", "unplug"]
    if not any(plugged):
        return [*names, "forget", "destroy"]
    drivers = database.where("SM", type=record["type"])
    features = database.row("SM", drivers[0]).record["features"] if drivers else {}
    return names + [name for name, feature in SR_NEEDS.items() if feature in ("", *features)]


def host_operations(database: Database, host: str, record: Record) -> list[str]:
    """What may be done with a host now."""
    del database, host
    if not record["enabled"]:
        return ["enable", "reboot", "shutdown", "power_on", "evacuate"]
    return ["provision", "evacuate", "vm_start", "vm_resume", "vm_migrate"]


SR_NEEDS = {
    "scan": "",
    "update": "",
    "vdi_create": "VDI_CREATE",
    "vdi_introduce": "",
    "vdi_destroy": "VDI_DELETE",
    "vdi_resize": "VDI_RESIZE",
    "vdi_clone": "VDI_CLONE",
    "vdi_snapshot": "VDI_SNAPSHOT",
    "vdi_mirror": "VDI_SNAPSHOT",
    "vdi_copy": "",
    "vdi_enable_cbt": "VDI_CONFIG_CBT",
    "vdi_disable_cbt": "VDI_CONFIG_CBT",
    "vdi_data_destroy": "VDI_CONFIG_CBT",
    "vdi_list_changed_blocks": "VDI_CONFIG_CBT",
    "vdi_set_on_boot": "",
}
