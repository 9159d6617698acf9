"""Faults of a pool in each phase of a job, and what has to become of the VM they hit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.flows.pool_faults import KIB, Stage

Cause = Callable[[Stage, str], object]


@dataclass(frozen=True)
class Cell:
    """A fault, and what has to become of the VM it hits.

    Attributes:
        cause: Called when the VM's phase begins.
        done: Whether the VM has a new version all the same.
        says: What its report says, as a pattern; empty: nothing at all.
        compared: Whether the next run can compare with what this one left.
    """

    cause: Cause
    done: bool = True
    says: str = ""
    compared: bool = True


# -- causes ------------------------------------------------------------------------------------


def fails(method: str, code: str, *parameters: str, at: int = 1, times: int = 1) -> Cause:
    return lambda stage, _: stage.faults.fail(method, code, *parameters, at=at, times=times)


def hangs(method: str) -> Cause:
    return lambda stage, _: stage.faults.hang(method)


def export(kind: str, times: int = 1) -> Cause:
    return lambda stage, _: stage.faults.fail_export(kind, after_bytes=100 * KIB, times=times)


def sessions_end(method: str) -> Cause:
    return lambda stage, _: stage.faults.when(method, stage.pool.sessions.end_all)


def coordinator_moves(method: str) -> Cause:
    def move(stage: Stage) -> None:
        db = stage.pool.db
        now = db.get("pool", db.refs("pool")[0], "master")
        stage.pool.set_coordinator(next(each for each in db.refs("host") if each != now))

    return lambda stage, _: stage.faults.when(method, lambda: move(stage))


def all_of(*causes: Cause) -> Cause:
    return lambda stage, vm: [cause(stage, vm) for cause in causes]


def log_is_lost(*disks: int) -> Cause:
    def lose(stage: Stage, vm: str) -> None:
        for disk in disks:
            stage.pool.lose_change_log(vm, disk, noticed=True)

    return lose


def dom0_holds_the_disk(*, refusals: int) -> Cause:
    """A host keeps the frozen disk plugged in, and does not let go at once even when pulled."""

    def hold(stage: Stage, vm: str) -> None:
        db = stage.pool.db
        (snapshot,) = db.where("VM", is_a_snapshot=True)
        disk = db.get("VBD", db.get("VM", snapshot, "VBDs")[0], "VDI")
        stage.hold(disk)
        stage.faults.fail("VBD.unplug_force", "DEVICE_DETACH_REJECTED", "VBD", times=refusals)

    return hold


# -- rows ----------------------------------------------------------------------------------------

NOT_DONE = "its snapshot is still there and the next sweep will remove it: "
BUSY = ("VM", "OpaqueRef:1", "clone", "OpaqueRef:2")
FULL = ("", "There is insufficient space [opterr=no space]", "")
NO_CHANGES = ("", "Failed to calculate changed blocks for given VDIs. [opterr=...]", "")
RIGHTS = ("vdi.snapshot", "no such right")

ROWS: Mapping[str, tuple[Cell, Cell, Cell]] = {
    "something else works on the VM": (
        Cell(
            fails("VM.snapshot", "OTHER_OPERATION_IN_PROGRESS", *BUSY),
            done=False,
            says=r"snapshot of VM snapshot: another operation is under way on it \(clone\) .*;"
            " run the job again when it is over",
        ),
        Cell(
            fails("VDI.list_changed_blocks", "OTHER_OPERATION_IN_PROGRESS", *BUSY),
            says="disk 0 was read whole: .*another operation is under way",
        ),
        Cell(fails("VM.destroy", "OTHER_OPERATION_IN_PROGRESS", *BUSY, times=2)),
    ),
    "all sessions end": (
        Cell(sessions_end("VM.snapshot")),
        Cell(export("session")),
        Cell(sessions_end("VDI.data_destroy")),
    ),
    "another host becomes the coordinator": (
        Cell(coordinator_moves("VM.snapshot")),
        Cell(coordinator_moves("task.create")),
        Cell(coordinator_moves("VM.destroy")),
    ),
    "a task never ends": (
        Cell(
            hangs("VM.snapshot"),
            done=False,
            says="snapshot of VM snapshot: the pool has not finished VM.snapshot within 3 s; the"
            " task was cancelled; look at the pool's tasks",
        ),
        Cell(
            hangs("VDI.list_changed_blocks"),
            says="disk 0 was read whole: the pool has not finished VDI.list_changed_blocks",
        ),
        Cell(
            hangs("VM.destroy"),
            says=NOT_DONE + "removing the snapshot of VM commit: the pool has not finished",
            compared=False,
        ),
    ),
    "the storage is in trouble": (
        Cell(
            fails("disk.snapshot", "SR_BACKEND_FAILURE_44", *FULL, at=2),
            done=False,
            says="snapshot of VM snapshot: the storage has no room .*; free space",
        ),
        Cell(export("second-answer")),
        Cell(
            fails("VDI.data_destroy", "SR_BACKEND_FAILURE_46", "", "VDI not available", ""),
            says=NOT_DONE + ".*the storage could not do it just now",
            compared=False,
        ),
    ),
    "storage trouble that passes": (
        Cell(fails("VM.snapshot", "SR_BACKEND_FAILURE_82", "", "failed to pause VDI", "")),
        Cell(export("short")),
        Cell(fails("VDI.data_destroy", "VDI_IN_USE", "OpaqueRef:1", "data_destroy", times=3)),
    ),
    "the record of changes is lost": (
        Cell(log_is_lost(0), says="disk 0 was read whole: the pool has no record of changes"),
        Cell(
            fails("VDI.list_changed_blocks", "SR_BACKEND_FAILURE_460", *NO_CHANGES),
            says="disk 0 was read whole: the pool has no record of changes",
        ),
        Cell(
            fails("VDI.data_destroy", "VDI_NO_CBT_METADATA", "OpaqueRef:1", times=0), compared=False
        ),
    ),
    "the pool refuses for good": (
        Cell(
            fails("VM.snapshot", "OPERATION_BLOCKED", "OpaqueRef:1", "not at night"),
            done=False,
            says=r"snapshot of VM snapshot: the operation is blocked on purpose \(not at night\)",
        ),
        Cell(
            fails("task.create", "INTERNAL_ERROR", "Db_exn.DBCache_NotFound", times=0),
            done=False,
            says="reading disk 0 .*: XenServer failed inside .*; look at the host's xensource.log",
        ),
        Cell(
            fails("VM.destroy", "OPERATION_NOT_ALLOWED", "not now", times=0),
            says=NOT_DONE + "removing the snapshot of VM commit: not now",
            compared=False,
        ),
    ),
    "what is needed is gone": (
        Cell(
            fails("SR.get_record", "HANDLE_INVALID", "SR", "OpaqueRef:1"),
            done=False,
            says="looking at VM snapshot: the SR it needs is gone",
        ),
        Cell(
            fails("VDI.list_changed_blocks", "HANDLE_INVALID", "VDI", "OpaqueRef:1"),
            says="disk 0 was read whole: the snapshot to compare with is gone from the pool",
        ),
        Cell(fails("VDI.data_destroy", "HANDLE_INVALID", "VDI", "OpaqueRef:1"), compared=False),
    ),
    "the account lost a right": (
        Cell(
            fails("VM.snapshot", "RBAC_PERMISSION_DENIED", *RIGHTS),
            done=False,
            says="snapshot of VM snapshot: the account lacks the right vdi.snapshot .*; give the",
        ),
        Cell(
            fails("VDI.list_changed_blocks", "RBAC_PERMISSION_DENIED", *RIGHTS),
            says="disk 0 was read whole: .*the account lacks the right",
        ),
        Cell(
            fails("VM.destroy", "RBAC_PERMISSION_DENIED", *RIGHTS, times=0),
            says=NOT_DONE + ".*the account lacks the right",
            compared=False,
        ),
    ),
    "an export stands still, or never says how it went": (
        Cell(
            all_of(
                log_is_lost(0, 1),
                fails("VDI.enable_cbt", "LICENCE_RESTRICTION", "vdi_config_cbt", times=2),
            ),
            says="disk 0 was read whole: changes of this disk were not recorded; disk 1 was read",
            compared=False,
        ),
        Cell(export("stall")),
        Cell(dom0_holds_the_disk(refusals=1)),
    ),
    "an export that never goes well": (
        Cell(
            fails("host_metrics.get_live", "INTERNAL_ERROR", "Not_found"),
        ),
        Cell(
            export("short", times=9),
            done=False,
            says=r"disk 0 \(transfer 0\): the host sent .* bytes, then failed: .*VDI_IO_ERROR",
        ),
        Cell(
            fails("VDI.set_other_config", "INTERNAL_ERROR", "Not_found", times=0),
            says=NOT_DONE + ".*XenServer failed inside",
            compared=False,
        ),
    ),
}
