"""kill -9 of the controller or of a delegate at any moment: the sweep leaves nothing of either."""

import random
import signal
from collections.abc import Callable, Generator
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from lab.pool import Pool
from lab.serving import LabServer
from likeness.claims import is_claimed
from likeness.errors import LikenessError
from likeness.model.addresses import AddressGroup
from likeness.xen.sweeping import sweep_snapshots
from tasks.addresses import claim_of
from tests.flows.delegate_scene import delegate_scene, left, nothing
from tests.flows.delegate_walk import begin, calls_of, lab_without_guests, site_of, walk_in
from tests.flows.killing import HANG_SECONDS, kill_when, start
from tests.flows.scene import MIB, Scene, noise
from tests.flows.test_kill import asked_of, at, progress
from tests.flows.waiting import wait_until
from tests.smb.server import SmbServer

pytestmark = pytest.mark.lab
ADDRESSES = ["127.61.7.11", "127.61.7.12"]


@pytest.fixture
def lab(tmp_path: Path) -> Generator[LabServer, None, None]:
    with lab_without_guests(tmp_path) as made:
        yield made


def everything(pool: Pool) -> dict[str, Any]:
    return {name: sorted(pool.db.refs(name)) for name in ("VM", "VBD", "VIF")} | {
        "VDI": sorted(pool.db.where("VDI", managed=True))
    }


@pytest.mark.parametrize(
    ("kills", "seed"),
    [(20, 0), *(pytest.param(20, seed, marks=pytest.mark.torture) for seed in range(1, 11))],
)
def test_a_controller_killed_at_any_call_leaves_nothing_after_the_sweep(
    lab: LabServer, tmp_path: Path, kills: int, seed: int
) -> None:
    chance, before = random.Random(seed), everything(lab.pool)
    first = walk_in(lab, tmp_path, ADDRESSES)
    site = site_of(first)
    assert site.catalog.installation(lambda: "")
    whole = begin(first)
    whole.join(60)
    assert whole.exitcode == 0
    calls = int(calls_of(tmp_path).read_text())
    assert everything(lab.pool) == before

    ended = []
    for _ in range(kills):
        process = begin(walk_in(lab, tmp_path, ADDRESSES, chance.randint(1, calls)))
        process.join(60)
        ended.append(process.exitcode)
    for address in site.xen_pool.static_addresses:
        assert not is_claimed(site.catalog.claims, claim_of(address))
    last = begin(walk_in(lab, tmp_path, ADDRESSES))
    last.join(60)
    with site.xen_pool.open() as xen:
        swept = sweep_snapshots(xen, site.installations, lambda _: False)

    assert last.exitcode == 0  # whatever died before it: there was an address for it
    assert ended.count(-signal.SIGKILL) >= kills * 3 // 4  # what is polled is polled more or less
    assert [each.problem for each in swept if each.problem] == []
    assert everything(lab.pool) == before


def kill_a_delegate(scene: Scene, job: BaseProcess, it_is_time: Callable[[], bool]) -> bool:
    """Its machine, or all that runs in it, at once; say whether there was one.

    The job ends by itself.
    """
    wait_until(lambda: it_is_time() or not job.is_alive(), "the moment comes")
    alive = dict(scene.pool.guests.running)
    for ref, guest in list(alive.items())[:1]:
        listens = "vm-data/assigned-ip" in scene.pool.db.get("VM", ref, "xenstore_data")
        if listens and guest.process and (job.pid or 0) % 2:
            guest.process.kill()
        else:
            with scene.site.xen_pool.open() as xen, suppress(LikenessError):  # it has just gone
                xen.call("VM.hard_shutdown", ref)
    job.join(HANG_SECONDS)
    assert job.exitcode is not None
    return bool(alive)


def kill_job(scene: Scene, job: BaseProcess, it_is_time: Callable[[], bool]) -> bool:
    """The controller's process; say whether it was still at work."""
    del scene
    return kill_when(job, it_is_time)


@pytest.mark.prefect
@pytest.mark.smb
@pytest.mark.timeout(14_400)
@pytest.mark.parametrize(
    ("kills", "seed"),
    [(2, 0), *(pytest.param(20, seed, marks=pytest.mark.torture) for seed in range(1, 11))],
)
def test_of_a_killed_job_or_delegate_nothing_is_left_after_the_sweep(
    prefect_server: None, tmp_path: Path, kills: int, seed: int
) -> None:
    from flows.sweep import sweep

    server, chance, hit = SmbServer(), random.Random(seed), 0
    server.start()
    vms = {name: [noise(name, 2 * MIB)] for name in ("web", "db")}
    groups = [AddressGroup(addresses=["127.62.7.11-127.62.7.12"])]
    try:
        with delegate_scene(tmp_path, server, vms, delegate_addresses=groups) as scene:
            for number in range(kills):
                moment = progress(scene) + chance.randint(40, 200)
                job = scene.job("web", "db", concurrency=2, source="enhanced")
                process = start("backup", job=job.model_dump(), site=scene.name)
                kill = kill_a_delegate if number % 2 else kill_job
                hit += kill(scene, process, at(scene, moment))
            print(f"{hit} of {kills} were killed at work")
            assert hit >= kills // 2 - 1  # some moments are behind the end
            wait_until(lambda: not asked_of(scene), "the pool has finished")
            sweep(site=scene.name)
            assert left(scene) == nothing(scene)
            for address in scene.site.xen_pool.static_addresses:
                assert not is_claimed(scene.site.catalog.claims, claim_of(address))
            assert scene.back_up("web", "db", source="enhanced").name == "Completed"
            assert left(scene) == nothing(scene)
    finally:
        server.remove()
