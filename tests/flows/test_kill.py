"""kill -9 at any moment: nothing acknowledged is lost, nothing wrong is restored, nothing stays."""

import os
import random
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import pytest

from catalog.reconciling import known_packs_by_state
from catalog.values import Verdict
from flows.sweep import sweep
from flows.vault import vault
from likeness.store.format import layout
from likeness.store.read.index import read_segment
from tests.flows.killing import kill_when, start
from tests.flows.scene import MIB, NOTHING_LEFT, Scene, noise
from tests.flows.waiting import wait_until

pytestmark = [pytest.mark.prefect, pytest.mark.lab, pytest.mark.timeout(900)]
VMS = ["web", "db"]
CHUNK = 256 << 10


class Ledger:
    """What each run had to find on the disks, to compare with what versions give back."""

    def __init__(self, site: Scene, seed: int) -> None:
        self.site, self.chance = site, random.Random(seed)
        self.truth: dict[str, dict[str, list[str]]] = {}
        self.acknowledged: set[str] = set()
        self.compared: set[str] = set()

    def guests_write(self) -> dict[str, list[str]]:
        """Change some of each disk; what the disks hold from now on."""
        for vm in VMS:
            at = self.chance.randrange(0, 2 * MIB // CHUNK) * CHUNK
            self.site.pool.write(vm, disk=0, offset=at, data=self.chance.randbytes(CHUNK))
        return {vm: self.site.disks(vm) for vm in VMS}

    def compare(self, held: dict[str, list[str]]) -> None:
        """Every version there is gives back what the disks held in its run; none has gone."""
        stored = self.site.stored(but_begun=True)  # by a run that was killed meanwhile
        names = {version.name for version in stored}
        assert self.acknowledged <= names, "an acknowledged version is gone"
        for version in stored:
            vm = version.record.vm_name
            truth = self.truth.setdefault(version.record.run, held)[vm]
            if version.name not in self.compared:
                assert self.site.read_back(version) == truth, f"{vm} is not what it was"
                self.compared.add(version.name)
        self.acknowledged |= names


def kills(seed: int, count: int) -> list[float]:
    """Moments to kill at, as parts of a whole run: spread over it, and beyond every guess."""
    chance = random.Random(seed)
    return [(number + chance.random()) / count for number in range(count)]


def survive(site: Scene, moments: list[float], seed: int) -> None:
    ledger = Ledger(site, seed)
    held = ledger.guests_write()
    before = progress(site)
    process = start("backup", job=site.job(*VMS, concurrency=2).model_dump(), site=site.name)
    assert not kill_when(process, lambda: False)
    whole = progress(site) - before
    assert len(site.stored()) == 2
    ledger.compare(held)

    killed = 0
    for moment in moments:
        held = ledger.guests_write()
        before = progress(site)
        process = start("backup", job=site.job(*VMS, concurrency=2).model_dump(), site=site.name)
        killed += kill_when(process, at(site, before + int(moment * whole)))
        wait_until(lambda: not asked_of(site), "the pool has finished what the dead run asked for")
        ledger.compare(held)
    assert killed >= len(moments) // 2, "most runs ended before they were killed"

    sweep(site=site.name)
    nothing_is_left(site)
    held = {vm: site.disks(vm) for vm in VMS}
    assert site.back_up(*VMS).name == "Completed"
    ledger.compare(held)
    site.validate()
    catalog_equals_store(site)


def survive_all(site: Scene, seed: int, *, backups: int, validations: int, vaultings: int) -> None:
    """Kill runs of three flows, in any order, at any moment; then sweep, and look at everything."""
    ledger = Ledger(site, seed)
    chance = random.Random(seed)
    held = ledger.guests_write()
    whole = {flow: uninterrupted(site, flow) for flow in ("backup", "validate", "vault")}
    ledger.compare(held)
    plan = ["backup"] * backups + ["validate"] * validations + ["vault"] * vaultings
    chance.shuffle(plan)
    killed = dict.fromkeys(whole, 0)
    for flow in plan:
        calls, seconds = whole[flow]
        if flow == "backup":
            held = ledger.guests_write()
        moment, before = chance.random(), progress(site)
        process = begun(site, flow)
        by_time = after(moment * seconds)
        by_calls = at(site, before + int(moment * calls))
        killed[flow] += kill_when(process, by_calls if flow == "backup" else by_time)
        wait_until(lambda: not asked_of(site), "the pool has finished what the dead run asked for")
        if flow == "backup":
            ledger.compare(held)
        assert Verdict.BAD not in site.verdicts(), "nothing was damaged"
    assert all(killed.values()), "a flow was never killed"

    sweep(site=site.name)
    nothing_is_left(site)
    held = {vm: site.disks(vm) for vm in VMS}
    assert site.back_up(*VMS).name == "Completed"
    ledger.compare(held)
    assert site.validate().is_completed()
    assert vault(site=site.name, return_state=True).is_completed()
    catalog_equals_store(site)
    for version in site.stored():
        assert site.read_back(version, place=site.folder / "vault") == site.read_back(version)


def begun(site: Scene, flow: str) -> BaseProcess:
    if flow == "backup":
        return start(flow, job=site.job(*VMS, concurrency=2).model_dump(), site=site.name)
    return start(flow, site=site.name)


def uninterrupted(site: Scene, flow: str) -> tuple[int, float]:
    """What a whole run does, in calls and objects, and in seconds."""
    before, begun_at = progress(site), time.monotonic()
    assert not kill_when(begun(site, flow), lambda: False)
    return progress(site) - before, time.monotonic() - begun_at


def nothing_is_left(site: Scene) -> None:
    assert site.left_in_the_pool() == NOTHING_LEFT
    assert list(site.site.catalog.scratch.glob("*")) == []
    assert list(site.site.catalog.file.scratch.glob("*")) == []
    assert [path for path in (site.place / "in").rglob("*") if path.is_file()] == []
    assert [path for path in (site.folder / "vault" / "in").rglob("*") if path.is_file()] == []


def catalog_equals_store(site: Scene) -> None:
    """Every version is in both, and green; the catalog knows what they brought, and no more.

    A run that died between index and record leaves packs that no version names; either may know
    them.
    """
    stored = site.stored()
    with site.store() as store:
        brought = {
            pack.pack
            for version in stored
            for name in version.clear.objects
            if name.startswith(layout.INDEX)
            for pack in read_segment(store, name)
        }
        there = {e.name.rpartition("/")[2] for e in store.transport.entries(layout.PACKS)}
    states = known_packs_by_state(site.site.catalog.file)
    live = {pack for pack, state in states.items() if state == "live"}
    assert brought <= states.keys()
    assert brought & there <= live <= there
    assert {row.version for row in site.listed()} == {each.version for each in stored}
    assert set(site.verdicts()) == {Verdict.GOOD}


def progress(site: Scene) -> int:
    calls = sum(site.pool.journal.counts().values())
    # `os.walk` passes over folders that go while it looks; `Path.rglob` does not.
    return calls + sum(len(files) for _, _, files in os.walk(site.place))


def asked_of(site: Scene) -> list[str]:
    """What the pool is still at work on; a task that a dead client made for itself never ends."""
    db = site.pool.db
    pending = [
        str(db.get("task", each, "name_label")) for each in db.where("task", status="pending")
    ]
    return [name for name in pending if name.startswith("Async.")]


def at(site: Scene, count: int) -> Callable[[], bool]:
    return lambda: progress(site) >= count


def after(seconds: float) -> Callable[[], bool]:
    over_at = time.monotonic() + seconds
    return lambda: time.monotonic() >= over_at


def small_vms(new_site: Callable[..., Scene]) -> Scene:
    return new_site({vm: [noise(vm, 2 * MIB), 512 << 10] for vm in VMS})


def test_a_backup_may_be_killed_at_any_moment(new_site: Callable[..., Scene]) -> None:
    survive(small_vms(new_site), kills(seed=20, count=8), seed=21)


@pytest.mark.torture
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(10))
def test_a_backup_may_be_killed_again_and_again(new_site: Callable[..., Scene], seed: int) -> None:
    survive(small_vms(new_site), kills(seed=100 + seed, count=40), seed=seed)


def test_backups_validations_and_vaultings_may_be_killed(new_site: Callable[..., Scene]) -> None:
    survive_all(small_vms(new_site), 30, backups=3, validations=3, vaultings=2)


@pytest.mark.torture
@pytest.mark.timeout(7200)
def test_a_hundred_and_ten_runs_of_three_flows_may_be_killed(
    new_site: Callable[..., Scene],
) -> None:
    survive_all(small_vms(new_site), 31, backups=60, validations=30, vaultings=20)
