"""A store that a storage snapshot set back: the next night is a night like any other."""

import shutil
from collections.abc import Callable

import pytest

from catalog.incidents import list_incidents
from catalog.messages import undelivered
from catalog.values import Verdict
from flows.sweep import sweep
from tests.flows.scene import MIB, Scene, noise

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


def test_jobs_validations_and_sweeps_go_on_after_the_store_was_set_back(
    new_site: Callable[..., Scene],
) -> None:
    site = new_site({"web": [noise("web", MIB)], "db": [noise("db", MIB)]})
    assert site.back_up("web", "db", validated=True).name == "Completed"
    past = site.folder / "past"
    shutil.copytree(site.place, past)
    site.pool.write("web", disk=0, offset=0, data=noise("night two", 300_000))
    assert site.back_up("web", validated=True).name == "Completed"
    lost = site.newest("web")
    shutil.rmtree(site.place)
    shutil.copytree(past, site.place)

    site.pool.write("web", disk=0, offset=512 << 10, data=noise("night three", 300_000))
    ended = site.back_up("web", "db")
    assert ended.name == "Completed", ended.message
    assert site.validate().is_completed()
    assert sweep(site=site.name, return_state=True).is_completed()

    assert set(site.verdicts()) == {Verdict.GOOD}
    assert [row.sequence for row in site.listed("web")] == [3, 1]  # 2 was used, and is lost
    assert lost.version not in {row.version for row in site.listed()}
    (incident,) = list_incidents(site.site.catalog.file)
    assert [each.version for each in incident.versions] == [lost.version]
    assert undelivered(site.site.catalog.file) == []  # nobody is to be told by mail here
    for vm in ("web", "db"):
        assert site.restore(site.newest(vm).version) == site.disks(vm)
