"""The window: so many VMs in flight as the job says, in the order of its list."""

from collections.abc import Generator

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun

from lab.journal import Journal
from likeness.xen.inventory import find_vm
from tests.flows.background import InTheBackground
from tests.flows.scene import Scene, noise, open_scene, outcomes
from tests.flows.test_after_commit import run_of
from tests.flows.waiting import wait_until

pytestmark = [pytest.mark.prefect, pytest.mark.lab]
AT_ONCE = 5
NAMES = [f"vm{number:02}" for number in range(20)]


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[Scene, None, None]:
    vms = {name: [noise(name, 64 << 10)] for name in NAMES}
    with open_scene(tmp_path_factory.mktemp("window") / "site", vms) as made:
        yield made


@pytest.fixture
def twenty(whole: Scene) -> Scene:
    """Twenty VMs; what was done with them before is not counted."""
    whole.pool.journal = Journal()
    whole.pool.counts.max_snapshots_at_once = 0
    return whole


def asked_to_freeze(site: Scene) -> list[str]:
    """The VMs whose snapshot was asked for, in that order."""
    entries = site.pool.journal.entries("Async.VM.snapshot")
    return [
        str(site.pool.db.get("VM", str(entry.parameters[0]), "name_label")) for entry in entries
    ]


def protecting(run: str) -> list[TaskRun]:
    """The task run of each VM of a flow run, in the order in which they began."""
    with get_client(sync_client=True) as client:

        def found() -> list[TaskRun]:
            this = FlowRunFilter(id=FlowRunFilterId(any_=[run]))  # type: ignore[list-item]
            runs = client.read_task_runs(flow_run_filter=this, limit=200)
            return [each for each in runs if each.name.startswith("protect ")]

        wait_until(
            lambda: len(found()) == len(NAMES) and all(each.end_time for each in found()),
            "the server knows how every VM's task ended",
        )
        return sorted(found(), key=lambda each: str(each.start_time))


def most_at_once(runs: list[TaskRun]) -> int:
    begun = [(each.start_time, 1) for each in runs]
    ended = [(each.end_time, -1) for each in runs]
    most = at_once = 0
    for _, step in sorted(begun + ended, key=lambda event: (str(event[0]), event[1])):
        at_once += step
        most = max(most, at_once)
    return most


def test_five_of_twenty_are_in_flight_while_one_is_stuck_and_none_overtakes(twenty: Scene) -> None:
    pool = twenty.pool
    pool.faults.hang("VM.snapshot", times=0)
    job = InTheBackground(twenty, *NAMES, concurrency=AT_ONCE)

    wait_until(lambda: len(asked_to_freeze(twenty)) == AT_ONCE, "the window is full")
    assert set(asked_to_freeze(twenty)) == set(NAMES[:AT_ONCE])
    pool.faults.clear()
    ended = job.ended()

    assert ended.name == "Completed"
    assert sorted(outcomes(ended)) == NAMES
    assert list(outcomes(ended)) == NAMES
    assert pool.max_snapshots_at_once <= AT_ONCE
    runs = protecting(str(ended.state_details.flow_run_id))
    assert most_at_once(runs) == AT_ONCE
    begun = [each.name.removeprefix("protect ") for each in runs]
    late = [abs(begun.index(name) - place) for place, name in enumerate(NAMES)]
    assert max(late) < AT_ONCE  # those that begin together may be noted in any order


def test_a_slow_vm_holds_one_place_and_the_others_go_on(twenty: Scene) -> None:
    pool, before = twenty.pool, len(twenty.record_names())
    pool.faults.hang("VM.snapshot", at=1)
    job = InTheBackground(twenty, *NAMES[:8], concurrency=2)

    wait_until(
        lambda: len(twenty.record_names()) == before + 7, "everything but the stuck VM is done"
    )
    pool.faults.clear()

    assert job.ended().name == "Completed"
    assert pool.max_snapshots_at_once <= 2


def test_one_vm_at_a_time_in_list_order_unless_said_otherwise(twenty: Scene) -> None:
    wanted = [NAMES[4], NAMES[1], NAMES[3], NAMES[0]]

    twenty.back_up(*wanted)

    assert asked_to_freeze(twenty) == wanted
    assert twenty.pool.max_snapshots_at_once == 1


def test_a_global_limit_lets_no_more_vms_at_a_storage_than_it_says(
    twenty: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.limits._LOOK_SECONDS", 0.2)
    with twenty.site.xen_pool.open() as xen:
        name = f"storage {find_vm(xen, NAMES[0]).disks[0].storage}"
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
        try:
            twenty.pool.faults.hang("VM.snapshot", times=0)
            job = InTheBackground(twenty, *NAMES[:3], concurrency=3)
            wait_until(lambda: asked_to_freeze(twenty), "one is in flight")
            shown = client.read_global_concurrency_limit_by_name(name)
            assert shown.active_slots == 1
            twenty.pool.faults.clear()
            ended = job.ended()
            assert ended.name == "Completed"
            assert twenty.pool.max_snapshots_at_once == 1
            assert client.read_global_concurrency_limit_by_name(name).active_slots == 0
        finally:
            client.delete_global_concurrency_limit_by_name(name)
    made = [row.vm_name for row in twenty.listed() if row.run == run_of(ended)]
    assert sorted(made) == NAMES[:3]
