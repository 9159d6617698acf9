"""A drill restores the VM that waited longest, starts it, hears its verdict, and leaves nothing."""

from pathlib import Path

import pytest

from catalog.drills import last_drills, last_good_drills
from flows.drill import drill
from flows.restore_vm import restore_vm
from flows.sweep import sweep
from likeness.clock import system_clock
from likeness.model.ids import VmId, from_uuid
from likeness.xen.drilling import start_drill
from likeness.xen.owner import Owner
from likeness.xen.restoring import RestoredVm
from tasks.page import page_facts
from tasks.reporting import show_versions
from tests.flows.scene import Scene

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


def vm_of(site: Scene, name: str) -> VmId:
    return VmId(from_uuid(site.pool.db.get("VM", site.pool.vm(name), "uuid")))


def in_the_pool(site: Scene) -> tuple[int, int]:
    db = site.pool.db
    return db.count("VM"), len(db.where("VDI", managed=True))


def test_each_vm_has_its_turn_its_verdict_is_kept_and_nothing_stays(site: Scene) -> None:
    site.back_up("web", "db", validated=True)
    before, cards = in_the_pool(site), site.pool.db.count("VIF")
    program = site.folder / "here" / "drills" / "looks-well"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\necho "$LIKENESS_VM_NAME is fine"; test -z "$PREFECT_API_URL"; exit $?\n'
    )

    missing = drill(script="../../bin/sh", site=site.name, return_state=True)
    assert "no program '../../bin/sh' judges drills here" in str(missing.message)
    first = drill(site=site.name, return_state=True)
    assert first.name == "Completed", first.message
    assert "was restored and came up: its guest answered: Lab Linux" in str(first.message)
    program.chmod(0o700)
    second = drill(script="looks-well", site=site.name, return_state=True)
    assert second.name == "Completed", second.message
    assert "(drill) is fine" in str(second.message)

    assert set(last_good_drills(site.site.catalog.file)) == {vm_of(site, "web"), vm_of(site, "db")}
    assert (in_the_pool(site), site.pool.db.count("VIF")) == (before, cards)
    page = page_facts(site.site, "").above
    assert "| last drill |" in page
    assert page.count(f"| {system_clock():%Y-%m-%d} |") == 2
    _what_a_dead_drill_left_running_is_swept(site)
    _a_guest_that_is_silent_is_a_failure_and_is_taken_away_too(site)


def _what_a_dead_drill_left_running_is_swept(site: Scene) -> None:
    before = in_the_pool(site)
    restore_vm("db", new_name="left", site=site.name)
    vm = site.pool.vm("left")
    left = RestoredVm(vm, site.pool.db.get("VM", vm, "uuid"), "left", (), ())
    owner = Owner(site.site.installation, VmId("0" * 32))  # type: ignore[arg-type]
    with site.site.xen_pool.open() as xen:
        start_drill(xen, left, owner=owner)
    assert site.pool.db.get("VM", vm, "power_state") == "Running"

    report = sweep(site=site.name)

    assert [each.what for each in report.snapshots] == ["unfinished VM"]  # type: ignore[attr-defined]
    assert in_the_pool(site)[0] == before[0]
    show_versions(site=site.site)
    assert Path(site.place).is_dir()


def _a_guest_that_is_silent_is_a_failure_and_is_taken_away_too(site: Scene) -> None:
    db = site.pool.db
    vm = site.pool.vm("db")
    db.put("VM", vm, other_config=db.get("VM", vm, "other_config") | {"lab:no-tools": "true"})
    site.back_up("db", validated=True)
    before, good = in_the_pool(site), last_good_drills(site.site.catalog.file)

    silent = drill("db", minutes=0.01, site=site.name, return_state=True)

    assert silent.is_failed()
    assert "its guest tools said nothing within 0.01 minutes" in str(silent.message)
    last = last_drills(site.site.catalog.file)[vm_of(site, "db")]
    assert not last.well
    assert last_good_drills(site.site.catalog.file) == good, "of an earlier day"
    assert in_the_pool(site) == before
