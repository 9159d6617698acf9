"""Which operations storage, drives, cards and hosts allow in their present state."""

from lab.database import Database, Record

OPERATIONS_WITHOUT_DATA = (
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
        return list(OPERATIONS_WITHOUT_DATA)
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
