"""A job's plan: what it would do and cannot, and what came of it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from flows.plan import plan
from tasks.job_plan import kept_plan
from tests.flows.scene import MIB, Scene, noise
from tests.flows.test_telling import page

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


def test_a_plan_says_what_a_job_would_do_and_is_held_against_what_it_did(
    new_site: Callable[..., Scene],
) -> None:
    site = new_site({"web": [noise("web", 2 * MIB)], "db": [noise("db", MIB)]})

    guessed: Any = plan(site.job("web", "db"), site=site.name, return_state=True)
    assert guessed.name == "Completed"
    assert guessed.message.startswith("2 VMs, about 3.0 MiB to read and 1.8 MiB to send, over at ")
    assert "(a guess)" in page(site, "plan-nightly")
    assert site.left_in_the_pool() == {"snapshots": 0, "frozen disks": 0}
    assert site.listed() == []

    ended: Any = site.back_up("web", "db")
    assert ended.name == "Completed"
    run = site.newest("db").run
    kept = kept_plan(run, site=site.site)
    assert kept is not None
    assert [vm.name for vm in kept.vms] == ["web", "db"]
    assert "(a guess)" in page(site, "plan-nightly"), "a job writes no page of its own for that"
    said, table = page(site, "job-nightly").rsplit("\n", 1)
    assert "Planned: about 3.0 MiB to read and 1.8 MiB to send until " in said
    assert "It was 3.0 MiB and " in said
    web, _db = json.loads(table)
    assert (web["VM"], web["read"]) == ("web", "2.0 MiB")
    assert web["planned"] == "read 2.0 MiB, send 1.2 MiB, 0 s"

    wrong: Any = plan(site.job("web", "nowhere"), site=site.name, return_state=True)
    assert wrong.name == "Failed"
    assert "nowhere: there is no VM" in wrong.message
    known: Any = plan(site.job("web"), site=site.name, return_state=True)
    assert known.message.startswith("1 VM, about 2.0 MiB to read")
    assert "(a guess)" not in page(site, "plan-nightly")
