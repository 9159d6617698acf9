"""What the pool says was written is read, nothing else; whatever it says, versions are right."""

import random
from collections.abc import Callable, Generator
from itertools import count
from typing import Any

import pytest

from lab.failures import XapiFailure
from likeness.model.ids import from_uuid
from likeness.model.outcome import VmOutcome, VmState
from likeness.store.read.versions import Version
from tests.flows.scene import MIB, NOTHING_LEFT, Scene, Vms, noise, open_scene, outcomes, sha256
from tests.unit.workshop import flipped

pytestmark = pytest.mark.prefect

CHUNK = 256 << 10
TROUBLES = ["", "", "", "snapshot", "disk", "lost", "unnoticed", "export"]


def offer_nbd(scene: Scene) -> None:
    network = scene.pool.db.where("network", bridge="xenbr0")[0]
    scene.pool.db.put("network", network, purpose=["insecure_nbd"])


def exported(scene: Scene) -> int:
    return sum(scene.pool.counters()["exported_bytes"].values())


@pytest.mark.parametrize(
    "size",
    [
        1 << 30,
        pytest.param(8 << 30, marks=[pytest.mark.torture, pytest.mark.timeout(900)]),
    ],
)
def test_two_percent_changed_are_two_percent_read(
    new_site: Callable[..., Scene], size: int
) -> None:
    scene = new_site({"tracked": [size], "untracked": [size]})
    offer_nbd(scene)
    scene.back_up("tracked")
    scene.back_up("untracked", changed_blocks=False)
    chance = random.Random(1)
    places = chance.sample(range(size // MIB), size * 2 // 100 // MIB)
    for place in places:
        content = chance.randbytes(MIB)
        for vm in ("tracked", "untracked"):
            scene.pool.write(vm, disk=0, offset=place * MIB, data=content)

    before = exported(scene)
    (tracked,) = outcomes(scene.back_up("tracked")).values()
    between = exported(scene)
    (untracked,) = outcomes(scene.back_up("untracked", changed_blocks=False)).values()
    after = exported(scene)

    changed = len(places) * MIB
    print(f"changed {changed}, read with tracking {between - before}, without {after - between}")
    assert changed <= between - before <= 1.2 * changed
    assert after - between == size
    assert tracked.new_bytes == untracked.new_bytes == changed
    assert abs(tracked.sent_bytes - untracked.sent_bytes) < untracked.sent_bytes // 1000
    assert scene.left_in_the_pool() == NOTHING_LEFT


@pytest.mark.parametrize(
    "days", [8, pytest.param(32, marks=[pytest.mark.torture, pytest.mark.timeout(900)])]
)
def test_days_of_writing_and_failing_give_true_versions(
    new_site: Callable[..., Scene], days: int
) -> None:
    size = 24 * MIB
    scene = new_site({"web": [size, 5 * MIB]})
    offer_nbd(scene)
    chance = random.Random(20)
    truth: dict[str, list[str]] = {}
    failed = 0
    plan = chance.sample(TROUBLES * (days // len(TROUBLES)), days)
    for day, trouble in enumerate(plan):
        for _ in range(chance.randrange(12)):
            length = chance.choice([1, 512, 4096, 70_000, 600_000])
            offset = chance.randrange(size - length)
            scene.pool.write("web", disk=0, offset=offset, data=chance.randbytes(length))
        if chance.random() < 0.3:
            scene.pool.write("web", disk=1, offset=chance.randrange(4 * MIB), data=bytes(4096))
        _cause(scene, trouble)
        held = scene.disks("web")

        (outcome,) = outcomes(scene.back_up("web")).values()

        scene.pool.faults.clear()
        if outcome.state is VmState.DONE:
            truth[outcome.version] = held
        else:
            failed += 1
            assert trouble, f"day {day}: {outcome.sentence}"
        assert scene.left_in_the_pool() == NOTHING_LEFT, f"day {day}"

    versions = scene.stored()
    assert {version.version for version in versions} == set(truth)
    assert failed >= days // 4, "two of eight troubles always end a VM"
    assert len(versions) + failed == days
    for version in versions:
        assert scene.read_back(version) == truth[version.version]


def _cause(scene: Scene, trouble: str) -> None:
    faults = scene.pool.faults
    if trouble == "snapshot":
        faults.fail("VM.snapshot", "SR_BACKEND_FAILURE_82", "", "snapshot failed", "", times=0)
    elif trouble == "disk":
        faults.fail("disk.snapshot", "SR_BACKEND_FAILURE_44", "", "no space", "", at=2, times=0)
    elif trouble in ("lost", "unnoticed"):
        scene.pool.lose_change_log("web", 0, noticed=trouble == "lost")
    elif trouble == "export":
        faults.fail_export("short", after_bytes=300_000, vdi="", times=1)


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[Scene, None, None]:
    """Each VM is one test's, and was backed up once."""
    once: Vms = {name: [4 * MIB] for name in ("lost", "doubted", "refused")}
    vms: Vms = {
        **once,
        "damaged": [noise("damaged", 2 * MIB)],
        "web": [4 * MIB],
        "report": [2 * MIB],
    }
    with open_scene(tmp_path_factory.mktemp("shared") / "site", vms) as made:
        assert made.back_up(*once, "damaged").name == "Completed"
        yield made


def stored(scene: Scene, outcome: VmOutcome) -> Version:
    """The version that a job made of a VM."""
    (found,) = [each for each in scene.stored() if each.version == outcome.version]
    return found


def test_the_reason_for_reading_everything_is_told(shared: Scene) -> None:
    scene = shared
    scene.pool.lose_change_log("lost", 0, noticed=True)

    (outcome,) = outcomes(scene.back_up("lost")).values()

    assert outcome.state is VmState.DONE
    assert "read whole" in outcome.sentence
    assert scene.newest("lost").note == outcome.sentence
    assert scene.read_back(stored(scene, outcome)) == scene.disks("lost")
    assert sha256(b"") not in scene.disks("lost")


def test_a_job_that_does_not_trust_the_record_of_changes_reads_everything(
    shared: Scene,
) -> None:
    (trusted,) = outcomes(shared.back_up("doubted")).values()
    (checked,) = outcomes(shared.back_up("doubted", changed_blocks=False)).values()
    (again,) = outcomes(shared.back_up("doubted")).values()

    assert trusted.read_bytes == 0
    assert checked.read_bytes == 4 * MIB
    assert checked.new_bytes == 0
    assert again.read_bytes == 0


def test_a_disk_of_two_vms_is_compared_with_each_ones_own_last_version(
    shared: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written between the two snapshots of a job is new to the VM that came first."""
    scene, before = shared, shared.records_of_changes()
    db, web, report = scene.pool.db, scene.pool.vm("web"), scene.pool.vm("report")
    for vm in (web, report):
        db.put("VM", vm, power_state="Halted")
    drive = db.record("VBD", db.get("VM", web, "VBDs")[0])
    db.create("VBD", **drive | {"VM": report, "uuid": "", "userdevice": "1"})
    scene.back_up("web", "report")
    assert scene.records_of_changes() == before + 3
    answer, taken = scene.pool.dispatcher.answer, [0]

    def answer_and_write(method: str, given: list[Any], host: str = "") -> Any:
        taken[0] += method == "Async.VM.snapshot"
        if taken == [2] and method == "Async.VM.snapshot":
            scene.pool.write("web", disk=0, offset=MIB, data=b"in between")
        return answer(method, given, host)

    monkeypatch.setattr(scene.pool.dispatcher, "answer", answer_and_write)
    scene.back_up("web", "report")
    first, second = outcomes(scene.back_up("web", "report")).values()

    for outcome in (first, second):
        assert scene.read_back(stored(scene, outcome)) == scene.disks(outcome.name)
    assert (first.read_bytes, second.read_bytes) == (256 << 10, 0)
    assert scene.records_of_changes() == before + 3


@pytest.mark.parametrize("code", ["INTERNAL_ERROR", "TOO_MANY_PENDING_TASKS"])
def test_a_pool_that_does_not_list_its_records_of_changes_is_read_whole(
    shared: Scene, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    scene = shared
    answer, asked = scene.pool.dispatcher.answer, count()

    def refuse(method: str, given: list[Any], host: str = "") -> Any:
        if method == "VDI.get_all_records" and next(asked):  # not where VMs are selected
            raise XapiFailure(code, "on purpose")
        return answer(method, given, host)

    monkeypatch.setattr(scene.pool.dispatcher, "answer", refuse)
    (outcome,) = outcomes(scene.back_up("refused")).values()

    assert outcome.state is VmState.DONE, outcome.sentence
    assert "disk 0 was read whole" in outcome.sentence
    assert outcome.read_bytes == 4 * MIB


def test_a_last_version_whose_block_map_is_damaged_has_its_disk_read_whole(
    shared: Scene,
) -> None:
    scene = shared
    db = scene.pool.db
    (disk,) = db.where("VDI", name_label="damaged 0", is_a_snapshot=False)
    maps = list((scene.place / "maps" / from_uuid(db.get("VDI", disk, "uuid"))).iterdir())
    for path in maps:
        path.write_bytes(flipped(path.read_bytes(), path.stat().st_size // 2))
    scene.pool.write("damaged", disk=0, offset=MIB, data=b"since then")

    (outcome,) = outcomes(scene.back_up("damaged")).values()

    assert maps
    assert outcome.state is VmState.DONE, outcome.sentence
    assert outcome.read_bytes == 2 * MIB
    assert scene.read_back(stored(scene, outcome)) == scene.disks("damaged")
