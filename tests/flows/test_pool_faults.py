"""Whatever the pool does to a job: the right reaction, the other VMs go on, and nothing stays.

Each row is one job of four VMs; three of them are hit by the row's fault, one in its snapshot, one
in its transfer and one when its version is committed and its snapshot goes.
"""

import random
import re
from collections.abc import Callable, Collection, Generator
from functools import partial
from typing import Any

import pytest
from prefect.client.schemas.objects import State

from flows.sweep import sweep
from likeness.model.outcome import VmOutcome, VmState
from likeness.xen.sweeping_tasks import owner_of_task
from tests.figures import tell
from tests.flows.killing import kill_when, start
from tests.flows.pool_fault_rows import ROWS, Cell
from tests.flows.pool_faults import CALM, KIB, PHASES, VMS, Stage, open_stage
from tests.flows.scene import outcomes

pytestmark = [pytest.mark.prefect, pytest.mark.lab, pytest.mark.timeout(600)]
ANEW = re.compile(
    r"(disk \d was read whole: the pool kept no record since the last version(; |\Z))*"
)


@pytest.fixture(scope="module")
def whole_stage(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[Stage, None, None]:
    with open_stage(tmp_path_factory.mktemp("pool-faults") / "site") as made:
        assert made.scene.back_up(*VMS).name == "Completed"
        assert made.references() == made.wanted_references() != set()
        yield made


@pytest.fixture
def stage(whole_stage: Stage) -> Stage:
    """With no fault set, and nothing in the pool but what the next run compares with."""
    whole_stage.begin_anew()
    assert whole_stage.left() == []
    return whole_stage


@pytest.fixture(scope="module")
def cells() -> Generator[list[VmState], None, None]:
    run: list[VmState] = []
    yield run
    failed = run.count(VmState.FAILED)
    tell(f"pool faults through a job: {len(run)} cells, of these {failed} end in a failed VM")


@pytest.mark.parametrize("row", ROWS)
def test_each_vm_reacts_as_it_should_and_after_the_sweep_nothing_of_ours_is_left(
    stage: Stage, cells: list[VmState], row: str
) -> None:
    held, lacking = stage.guests_write(row), stage.lacking()
    wanted = dict(zip(PHASES, ROWS[row], strict=True))
    for (vm, cell), next_vm in zip(wanted.items(), VMS[1:], strict=True):
        stage.watch.at(vm, vm, partial(cell.cause, stage, vm))
        stage.watch.at(next_vm, "snapshot", stage.faults.end)

    ended = stage.scene.back_up(*VMS)

    assert (stage.watch.not_begun(), stage.faults.never_struck) == ([], [])
    found = outcomes(ended)
    assert list(found) == list(VMS)
    for vm in VMS:
        must_be(wanted.get(vm, Cell(lambda *_: None)), found[vm], anew=vm in lacking)
        cells += [found[vm].state] if vm in wanted else []
    must_have_what_they_held(stage, ended, held)
    must_leave_nothing(stage, without=[vm for vm, cell in wanted.items() if not cell.compared])


def must_be(cell: Cell, outcome: VmOutcome, *, anew: bool) -> None:
    assert outcome.state is (VmState.DONE if cell.done else VmState.FAILED), outcome.sentence
    said = outcome.sentence
    if anew and cell.done:
        assert said.startswith("disk 0 was read whole: the pool kept no record since the last")
        said = ANEW.sub("", said, count=1)
    assert re.match(cell.says or r"\Z", said), said


def must_have_what_they_held(stage: Stage, ended: State[Any], held: dict[str, list[str]]) -> None:
    """A VM has a version that gives back its disks bit for bit, or the job says why not."""
    for vm, outcome in outcomes(ended).items():
        if outcome.state is VmState.DONE:
            assert stage.scene.read_back(stage.version(outcome)) == held[vm]
        else:
            assert len(outcome.sentence) > 30
            assert f"{vm}: {outcome.sentence}" in str(ended.message)


def must_leave_nothing(stage: Stage, *, without: Collection[str] = ()) -> None:
    """After the sweep there is one record of changes for each disk of each VM, and nothing else."""
    report: Any = sweep(site=stage.scene.name)
    assert [each.problem for each in report.snapshots if each.problem] == []
    stage.must_be_clean()
    assert stage.references() == stage.wanted_references(*without, *stage.lacking())
    assert set(without) <= set(stage.lacking())


def test_no_snapshot_is_taken_for_a_data_store_that_does_not_answer(stage: Stage) -> None:
    away = stage.scene.folder / "away"
    stage.watch.at("transfer", "settle", lambda: stage.scene.place.rename(away))
    before = len(stage.pool.journal.entries("Async.VM.snapshot"))
    try:
        ended = stage.scene.back_up("transfer", CALM)
    finally:
        away.rename(stage.scene.place)

    first, second = outcomes(ended).values()
    assert (first.state, second.state) == (VmState.DONE, VmState.FAILED)
    assert second.sentence.startswith("VM calm is not backed up now: the data store ")
    assert "no snapshot was taken. See that it answers" in second.sentence
    assert len(stage.pool.journal.entries("Async.VM.snapshot")) == before + 1


def test_the_last_attempt_reads_over_http_whatever_nbd_does(stage: Stage) -> None:
    held = stage.guests_write("nbd")
    streams = stage.pool.journal.counts()["task.create"]
    network = stage.pool.db.where("network", bridge="xenbr0")[0]
    stage.pool.db.put("network", network, purpose=["insecure_nbd"])
    try:
        stage.faults.fail_export("short", after_bytes=0, times=6)  # three tries in two attempts
        ended = stage.scene.back_up(CALM)
    finally:
        stage.pool.db.put("network", network, purpose=[])

    (outcome,) = outcomes(ended).values()
    assert outcome.state is VmState.DONE
    assert stage.faults.listing()["exports"] == []
    assert stage.pool.journal.counts()["task.create"] == streams + 1  # made for HTTP alone
    assert stage.scene.read_back(stage.version(outcome)) == held[CALM]
    stage.must_be_clean()


def marked(stage: Stage) -> list[str]:
    """Names of the tasks the pool is at work on that tell whose they are."""
    db = stage.pool.db
    pending = [db.record("task", ref) for ref in db.where("task", status="pending")]
    return [str(record["name_label"]) for record in pending if owner_of_task(record)]


def kill_a_job(stage: Stage, it_is_time: Callable[[], object]) -> None:
    job = stage.scene.job(CALM).model_dump()
    process = start("backup", job=job, site=stage.scene.name)
    assert kill_when(process, lambda: bool(it_is_time()))


@pytest.mark.parametrize("phase", ["snapshot", "transfer"])
def test_what_a_killed_run_had_asked_the_pool_for_is_ended_by_the_sweep(
    stage: Stage, phase: str
) -> None:
    before = sum(stage.pool.counters()["exported_bytes"].values())
    if phase == "snapshot":
        stage.faults.hang("VM.snapshot")
        kill_a_job(stage, lambda: "Async.VM.snapshot" in marked(stage))
    else:
        stage.faults.fail_export("stall", after_bytes=100 * KIB)
        kill_a_job(stage, lambda: sum(stage.pool.counters()["exported_bytes"].values()) > before)
    assert marked(stage), "the pool is still at work for nobody"

    must_leave_nothing(stage)


CODES = (
    ("OTHER_OPERATION_IN_PROGRESS", "VM", "OpaqueRef:1", "clone", "OpaqueRef:2"),
    ("OPERATION_NOT_ALLOWED", "not now"),
    ("HANDLE_INVALID", "VM", "OpaqueRef:1"),
    ("INTERNAL_ERROR", "Not_found"),
    ("VDI_IN_USE", "OpaqueRef:1", "destroy"),
    ("SR_BACKEND_FAILURE_46", "", "The VDI is not available", ""),
    ("TOO_MANY_PENDING_TASKS",),
    ("RBAC_PERMISSION_DENIED", "vdi.snapshot", "no such right"),
    ("HOST_IS_SLAVE", "127.0.0.1"),
    ("SESSION_INVALID", "OpaqueRef:1"),
    ("LICENCE_RESTRICTION", "vdi_config_cbt"),
    ("",),
)
"""The last one: it hangs."""


@pytest.mark.torture
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(100))
def test_whichever_call_of_a_job_fails_or_hangs_nothing_wrong_is_kept_and_nothing_stays(
    stage: Stage, seed: int
) -> None:
    chance = random.Random(seed)
    held = stage.guests_write(str(seed))
    stage.scene.back_up("transfer")
    phase = chance.choice(PHASES)
    method = chance.choice(sorted(stage.watch.called["transfer", phase]))
    code, *more = chance.choice(CODES)
    at, times = chance.choice([1, 1, 2, 3]), chance.choice([1, 2, 0])
    print(f"{method} in {phase}: {code or 'hangs'}, call {at}, {times} times")

    def strike() -> None:
        if code:
            stage.faults.fail(method, code, *more, at=at, times=times)
        elif method.startswith(("VM.", "VDI.", "VBD.")) and ".get" not in method:
            stage.faults.hang(method, at=at, times=times)

    stage.watch.at("transfer", phase, strike)
    stage.watch.at(CALM, "snapshot", stage.faults.end)

    ended = stage.scene.back_up("transfer", CALM)

    assert outcomes(ended)[CALM].state is VmState.DONE
    must_have_what_they_held(stage, ended, held)
    must_leave_nothing(stage)
