"""Source *enhanced*: a delegate VM reads the frozen disks and sends them; nothing stays behind."""

import json
import os
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catalog.values import Verdict
from flows.sweep import sweep
from likeness.model.ids import RunId
from likeness.model.outcome import VmState
from likeness.model.sizes import readable_size
from likeness.xen.delegates import DEFAULT_TAG, own_disks
from likeness.xen.marks import DELEGATE, Owner, label_of, put_marks
from tests.flows.background import InTheBackground
from tests.flows.delegate_scene import delegate_scene, left, nothing
from tests.flows.killing import start
from tests.flows.scene import MIB, Scene, noise, outcomes
from tests.flows.sockets import counted_bytes
from tests.flows.test_validate import artifacts
from tests.flows.waiting import wait_until
from tests.smb.server import SmbServer

pytestmark = [pytest.mark.prefect, pytest.mark.smb, pytest.mark.lab]

WEB = (noise("web", 24 * MIB) + bytes(8 * MIB), noise("logs", 3 * MIB + 512))


@pytest.fixture(scope="module")
def server() -> Generator[SmbServer, None, None]:
    made = SmbServer()
    made.start()
    yield made
    made.remove()


@pytest.fixture(scope="module")
def scene(
    server: SmbServer, tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[Scene, None, None]:
    with delegate_scene(
        tmp_path_factory.mktemp("enhanced"), server, {"web": WEB, "clone": WEB}
    ) as made:
        yield made


@pytest.fixture(scope="module")
def two(
    server: SmbServer, tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[Scene, None, None]:
    vms = {"web": [noise("web", 16 * MIB)], "db": [noise("db", 64 << 10)]}
    with delegate_scene(tmp_path_factory.mktemp("two"), server, vms) as made:
        yield made


def calls(scene: Scene, method: str) -> int:
    """How often it was called so far."""
    return len(scene.pool.journal.entries(method))


def read_from_the_pool(scene: Scene) -> int:
    return sum(scene.pool.counters()["exported_bytes"].values())


def through(server: SmbServer) -> Callable[[str, int], str]:
    """Which of this process's sockets lead where; the pool of the lab lives in this process too."""

    def kind(address: str, port: int) -> str:
        if port == server.port:
            return "share"
        return "delegate" if address.startswith("127.") and address != "127.0.0.1" else ""

    return kind


def test_a_vm_through_a_delegate_validates_and_restores_bit_for_bit(
    scene: Scene, server: SmbServer
) -> None:
    """And of its payload nothing passes through the sockets of the controller."""
    before, payload = scene.disks("web"), 27 * MIB
    with counted_bytes(through(server)) as passed:
        first = scene.back_up("web", source="enhanced")
    (table,) = artifacts(scene.site.key_of("job-nightly"))
    scene.pool.write("web", disk=0, offset=5 * MIB, data=noise("new", 256 << 10))
    after = scene.disks("web")
    (second,) = outcomes(scene.back_up("web", source="enhanced")).values()
    scene.validate()

    assert (first.name, first.message) == ("Completed", "1 VM backed up")
    (done,) = outcomes(first).values()
    assert done.sent_bytes > payload
    assert 0 < passed["share"] + passed["delegate"] < payload / 20
    assert read_from_the_pool(scene) == 0
    assert done.read_by.startswith("ABD 127.")
    assert done.cpu_seconds > 0.05
    (row,) = json.loads(str(table.data))
    assert (row["read by"], row["sent"]) == (done.read_by, readable_size(done.sent_bytes))
    assert (row["CPU seconds"], row["read"]) == (f"{done.cpu_seconds:.1f}", row["disks"])
    assert row["snapshot seconds"].isdecimal()
    assert scene.verdicts() == [Verdict.GOOD] * 2
    assert [scene.restore(row.version) for row in scene.listed("web")] == [after, before]
    assert 0 < second.sent_bytes < MIB
    with counted_bytes(through(server)) as passed:
        (clone,) = outcomes(scene.back_up("clone", source="enhanced")).values()
    assert (clone.state, clone.sent_bytes < payload / 20) == (VmState.DONE, True)
    assert clone.known_bytes > payload * 0.95
    assert 0 < passed["share"] + passed["delegate"] < payload / 20
    assert left(scene) == nothing(scene)
    scene.pool.write("web", disk=0, offset=0, data=noise("much", 8 * MIB))
    with counted_bytes(through(server)) as passed:
        (direct,) = outcomes(scene.back_up("web")).values()
    assert passed["share"] > direct.sent_bytes > 8 * MIB
    assert (direct.read_by, passed["delegate"]) == ("this machine", 0)
    assert direct.cpu_seconds > 0.01


def test_what_goes_wrong_in_a_delegate_fails_its_vm_alone_and_leaves_nothing(
    two: Scene, server: SmbServer
) -> None:
    pool, faults = two.pool, two.pool.guests.faults
    for fault, said in (
        ({"no_address": True}, "told no address within 1 s; see that its network has a DHCP"),
        ({"refuse_ssh": True}, "cannot be logged in to"),
        ({"blocked_ports": [server.port]}, "no snapshot of VM web was taken: seen from its"),
        ({"kill_after_seconds": 1.5}, "the agent ended before it "),
    ):
        last = "kill_after_seconds" in fault
        two.save(xen_pool={"delegate_boot_seconds": 1 if "no_address" in fault else 300})
        pool.guests.faults = replace(faults, vms_called="web", **fault)
        names = ("web", "db") if last else ("web",)
        made = outcomes(two.back_up(*names, concurrency=2, source="enhanced", bandwidth_mib=4))

        assert made["web"].state is VmState.FAILED
        assert said in made["web"].sentence
        assert len(made["web"].sentence.split()) < 40
        assert last or pool.counters()["max_snapshots_at_once"] == 0
        assert left(two) == nothing(two)
    assert made["db"].state is VmState.DONE
    assert [each.record.vm_name for each in two.stored()] == ["db"]

    pool.guests.faults = replace(faults, boot_seconds=1.0)
    (slow,) = outcomes(two.back_up("db", source="enhanced")).values()
    assert slow.state is VmState.DONE
    pool.guests.faults = faults


def test_a_delegate_goes_on_with_the_jobs_next_vm_where_that_is_wished(two: Scene) -> None:
    two.save(xen_pool={"delegate_idle_seconds": 60})
    clones = calls(two, "Async.VM.clone")

    made = outcomes(two.back_up("web", "db", source="enhanced"))

    assert {each.state for each in made.values()} == {VmState.DONE}
    assert len({each.read_by for each in made.values()}) == 1
    assert calls(two, "Async.VM.clone") == clones + 1
    assert left(two) == nothing(two)


def test_a_kept_delegate_is_removed_when_no_vm_came_for_so_long(two: Scene) -> None:
    """While its job still works on another VM, whose snapshot is not taken yet."""
    two.save(xen_pool={"delegate_idle_seconds": 1})
    clones, ends = calls(two, "Async.VM.clone"), calls(two, "Async.VM.hard_shutdown")
    two.pool.faults.hang("VM.snapshot")
    job = InTheBackground(two, "web", "db", source="enhanced", concurrency=2)

    wait_until(lambda: calls(two, "Async.VM.hard_shutdown") > ends, "one delegate ends")
    assert calls(two, "Async.VM.clone") == clones + 2
    two.pool.faults.clear()

    assert {each.state for each in outcomes(job.ended()).values()} == {VmState.DONE}
    assert left(two) == nothing(two)


@pytest.mark.torture
@pytest.mark.timeout(1200)
def test_ten_vms_at_once_through_ten_delegates_cost_the_controller_little(
    server: SmbServer, tmp_path: Path, prefect_server: None
) -> None:
    """Memory, and processor time a VM, of the process that runs the job."""
    names = [f"vm{number}" for number in range(10)]
    vms = {name: [noise(name, 16 * MIB), noise(f"{name} data", 4 * MIB)] for name in names}
    with delegate_scene(tmp_path, server, vms) as scene:
        job = scene.job(*names, concurrency=10, source="enhanced")
        process, peak, most = start("backup", job=job.model_dump(), site=scene.name), 0, 0
        cpu_seconds = 0.0
        while process.is_alive():
            with suppress(OSError, ValueError, IndexError):  # it ends at any moment
                status = Path(f"/proc/{process.pid}/status").read_text()
                peak = max(peak, int(status.partition("VmHWM:")[2].split()[0]) << 10)
                ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                cpu_seconds = sum(map(int, ticks[11:13])) / os.sysconf("SC_CLK_TCK")
            most = max(most, len(scene.pool.guests.running))
            time.sleep(0.05)

        assert process.exitcode == 0
        assert sorted(version.record.vm_name for version in scene.stored()) == names
        assert most == 10
        assert 0 < peak < 400 << 20
        assert 0 < cpu_seconds / 10 < 2
        assert left(scene) == nothing(scene)


def test_what_cannot_be_done_through_a_delegate_is_refused_when_it_is_planned(
    scene: Scene,
) -> None:
    clones, account = calls(scene, "Async.VM.clone"), scene.site.data_store.drop_box_username

    def said(**job: Any) -> str:
        ended = scene.back_up("web", source="enhanced", **job)
        assert ended.name == "Failed"
        return str(ended.message)

    assert "choose source direct" in said(consistency="memory")
    scene.save(xen_pool={"delegate_template": "no-such-tag"})
    assert "no template has the tag or uuid 'no-such-tag'" in said()
    scene.save(data_store={"drop_box_username": ""})
    assert "names no account of delegates" in said()
    assert calls(scene, "Async.VM.clone") == clones
    scene.save(
        xen_pool={"delegate_template": DEFAULT_TAG}, data_store={"drop_box_username": account}
    )


def test_the_sweep_removes_delegates_of_dead_runs(scene: Scene) -> None:
    db = scene.pool.db
    with scene.site.xen_pool.open() as xen:
        run = "ab" * 16
        owner = Owner(scene.site.installation, RunId(run))
        label = label_of(owner, "ABD for web")
        (template,) = db.where("VM", name_label="abd")
        early, late = (xen.call("VM.clone", template, label) for _ in range(2))
        put_marks(xen, "VM", late, owner=owner, kind=DELEGATE)
        for disk in own_disks(xen, late):
            put_marks(xen, "VDI", disk, owner=owner, kind=DELEGATE)
        mine = xen.call("VM.clone", late, label)
        xen.call("VM.provision", late)
        xen.call("VM.start", late, False, False)  # noqa: FBT003  # as XAPI has it
    sweep(site=scene.name)
    assert {early, late}.isdisjoint(db.refs("VM"))
    assert mine in db.refs("VM")
    assert left(scene) == nothing(scene) | {"delegates": 1}
