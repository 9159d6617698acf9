"""Leases of addresses: never doubled, never leaked, waited for with a reason."""

import json
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from blocks import Site
from catalog.at_work import Work, list_work, note_work
from lab.pool import Pool
from lab.serving import LabServer
from likeness.claims import claim
from likeness.clock import system_clock
from likeness.errors import HostBusy, Stopped
from likeness.model.ids import RunId, random_name
from likeness.stopping import StopToken
from likeness.xen.delegate_network import AddressTaken
from likeness.xen.delegates import DelegateWish, own_disks, start_delegate
from likeness.xen.inventory import XenVm, find_vm
from likeness.xen.marks import DELEGATE, Owner, label_of, put_marks
from tasks.addresses import claim_of, leased_address
from tasks.progress import Board, board
from tests.flows.delegate_walk import lab_without_guests, site_of, walk_in
from tests.flows.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("_outside_of_runs")]
ADDRESSES = ["127.61.8.11", "127.61.8.12", "127.61.8.13"]


@pytest.fixture
def _outside_of_runs() -> Generator[None, None, None]:
    with disable_run_logger():
        yield


@dataclass
class Scene:
    """A pool, and a site of unsaved blocks."""

    lab: LabServer
    site: Site

    @property
    def pool(self) -> Pool:
        return self.lab.pool

    def vms(self) -> set[str]:
        return set(self.pool.db.refs("VM"))


@pytest.fixture
def scene(tmp_path: Path) -> Generator[Scene, None, None]:
    with lab_without_guests(tmp_path) as lab:
        site = site_of(walk_in(lab, tmp_path, ADDRESSES))
        site.catalog.ready(system_clock)
        site.catalog.installation(lambda: "")
        yield Scene(lab, site)


def in_the_pool(scene: Scene) -> XenVm:
    with scene.site.xen_pool.open() as xen:
        return find_vm(xen, "web")


def lease(scene: Scene, held: ExitStack, *, stop: StopToken | None = None) -> str:
    run, vm = RunId(random_name()), in_the_pool(scene)
    found = held.enter_context(
        leased_address(vm, run=run, site=scene.site, stop=stop or StopToken())
    )
    assert found
    return found.address


def wait_for(scene: Scene, vm: XenVm, run: RunId, stop: StopToken) -> None:
    with suppress(Stopped), leased_address(vm, run=run, site=scene.site, stop=stop):
        pass


def delegate_with(scene: Scene, address: str, owner: Owner | None, *, start: bool = False) -> str:
    """A clone of the template that has an address, made by a run or by somebody else."""
    with scene.site.xen_pool.open() as xen:
        (template,) = scene.pool.db.where("VM", name_label="abd")
        ref = str(xen.call("VM.clone", template, label_of(owner, "ABD for x") if owner else "own"))
        xen.call("VM.provision", ref)
        if owner:
            put_marks(xen, "VM", ref, owner=owner, kind=DELEGATE)
            for disk in own_disks(xen, ref):
                put_marks(xen, "VDI", disk, owner=owner, kind=DELEGATE)
        xen.call("VM.set_xenstore_data", ref, {"vm-data/ip": address})
        if start:
            xen.call("VM.start", ref, False, False)  # noqa: FBT003  # as XAPI has it
    return ref


def saved(scene: Scene, on: Board) -> Work:
    on.save(scene.site)
    return next(each for each in list_work(scene.site.catalog.file) if each.run == on.run)


HOLD = (
    "import sys; from pathlib import Path; from likeness.claims import claim\n"
    "with claim(Path(sys.argv[1]), sys.argv[2]): print(flush=True); sys.stdin.read()"
)


def test_no_address_is_had_twice_by_twenty_threads_and_a_process_that_is_killed(
    scene: Scene,
) -> None:
    static = scene.site.xen_pool.static_addresses
    command = [sys.executable, "-c", HOLD, str(scene.site.catalog.claims), claim_of(static[0])]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout
    other.stdout.readline()
    had: list[str] = []
    twice: list[str] = []
    now: set[str] = set()

    def use() -> None:
        with ExitStack() as held:
            address = lease(scene, held)
            twice.extend({address} & now)
            now.add(address)
            had.append(address)
            if len(had) == 12:
                other.kill()
            threading.Event().wait(0.02)
            now.discard(address)

    threads = [threading.Thread(target=use) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    other.communicate()

    assert len(had) == 20
    assert twice == []
    assert static[0].address not in had[:12]
    assert static[0].address in had


def test_a_delegate_that_outlived_its_run_gives_its_address_to_the_next(scene: Scene) -> None:
    (first, *_) = scene.site.xen_pool.static_addresses
    dead = Owner(scene.site.installation, RunId(random_name()))
    before = scene.vms()
    delegate_with(scene, first.address, dead, start=True)

    with ExitStack() as held:
        assert lease(scene, held) == first.address
        assert scene.vms() == before


def test_an_address_of_somebody_elses_vm_is_left_alone(scene: Scene) -> None:
    static = [each.address for each in scene.site.xen_pool.static_addresses]
    another = Owner("ab" * 16, RunId(random_name()))
    theirs = [
        delegate_with(scene, static[0], another),
        delegate_with(scene, static[1], None, start=True),
    ]
    delegate_with(scene, static[2], None)  # halted, and no delegate: nobody uses the address

    with ExitStack() as held:
        assert lease(scene, held) == static[2]
        scene.site.xen_pool.delegate_wait_minutes = 0
        with pytest.raises(HostBusy, match=r"no free ABD address in pool lab: 3 of 3 in use"):
            lease(scene, held)
    assert set(theirs) <= set(scene.pool.db.refs("VM"))


def test_what_another_pools_block_has_serves_none_of_this_one(scene: Scene, tmp_path: Path) -> None:
    scene.site.xen_pool.delegate_wait_minutes = 0
    (tmp_path / "other").mkdir()
    with lab_without_guests(tmp_path / "other") as lab, ExitStack() as held:
        other = Scene(lab, site_of(walk_in(lab, tmp_path, ["127.61.8.21"])))
        assert [lease(scene, held) for _ in ADDRESSES] == ADDRESSES
        with pytest.raises(HostBusy, match="3 of 3 in use"):
            lease(scene, held)
        assert lease(other, held) == "127.61.8.21"


def test_of_two_installations_that_take_one_address_at_once_none_keeps_it(scene: Scene) -> None:
    (first, *_) = scene.site.xen_pool.static_addresses
    delegate_with(scene, first.address, Owner("ab" * 16, RunId(random_name())))
    before, vm = scene.vms(), in_the_pool(scene)

    with scene.site.xen_pool.open() as xen, pytest.raises(AddressTaken, match="is VM ABD for x"):
        start_delegate(
            xen,
            DelegateWish(address=first),
            vm_name=vm.name,
            vm_ref=vm.ref,
            owner=Owner(scene.site.installation, RunId(random_name())),
            public_key="",
            stop=StopToken(),
        )

    assert scene.vms() == before


def test_the_wait_names_how_long_it_may_take(scene: Scene) -> None:
    vm, stop = in_the_pool(scene), StopToken()
    run, holder = RunId(random_name()), RunId(random_name())
    with ExitStack() as held:
        for each in scene.site.xen_pool.static_addresses:
            note = json.dumps({"run": holder, "vm": vm.vm})
            held.enter_context(claim(scene.site.catalog.claims, claim_of(each), says=note))
        transfer = Work(holder, "commit", vm.vm, "web", "transfer", seconds_left=250.0)
        note_work(scene.site.catalog.file, holder, [transfer], system_clock())
        waiting = threading.Thread(target=lambda: wait_for(scene, vm, run, stop))
        with board(run, "commit") as on:
            on.put(vm.vm, "web", "waiting")
            waiting.start()
            wait_until(lambda: saved(scene, on).step == "address", "it says that it waits")
        work = saved(scene, on)
        stop.stop()
        waiting.join(30)

    assert work.label == (
        "web, no free ABD address in pool lab: 3 of 3 in use, next expected in about 4 min"
    )
