"""The global deduplication: what another VM has already is kept once, as soon as that is proved."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from catalog.values import Verdict
from likeness.errors import CatalogBusy
from likeness.store.read.versions import Version
from likeness.store.write.commit import commit_version
from tests.flows.background import InTheBackground
from tests.flows.scene import MIB, Scene, noise, outcomes

pytestmark = [pytest.mark.prefect, pytest.mark.lab]
GOLDEN = noise("golden image", 3 * MIB)
CLONES = [f"clone{number}" for number in range(4)]
GROWN = [f"grown{number}" for number in range(4)]
SHAPE = 64 << 10
"""Of one more empty disk."""


def kept(site: Scene) -> int:
    return sum(path.stat().st_size for path in site.packs())


def test_what_another_vm_has_is_kept_once_and_not_sent_again(
    new_site: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = {name: [GOLDEN + bytes(MIB), SHAPE] for name in GROWN}
    same = {name: [GOLDEN] for name in ("first", "second", "elsewhere", *CLONES)}
    site = new_site({**same, **grown})
    _a_clones_data_is_dropped_after_validation_and_both_restore(site)
    _clones_of_a_proved_vm_send_nothing_whatever_their_shape(site)
    _without_a_list_of_what_is_there_clones_send_all_and_it_is_dropped_once(site, monkeypatch)
    _a_vm_that_is_renamed_moved_and_grown_sends_what_is_new_alone(site)


def _a_clones_data_is_dropped_after_validation_and_both_restore(site: Scene) -> None:
    before = outcomes(site.back_up("first", "second"))
    assert len(site.packs()) == 2
    assert all(each.freed_bytes == 0 for each in before.values())
    site.validate()

    assert len(site.packs()) == 1
    assert site.verdicts() == [Verdict.GOOD, Verdict.GOOD]
    for vm in ("first", "second"):
        assert site.restore(site.newest(vm).version) == site.disks(vm)


def _clones_of_a_proved_vm_send_nothing_whatever_their_shape(site: Scene) -> None:
    one = kept(site)

    ended = site.back_up(*GROWN, concurrency=len(GROWN), validated=True)

    assert ended.name == "Completed", ended.message
    assert kept(site) == one
    for outcome in outcomes(ended).values():
        assert (outcome.sent_bytes, outcome.known_bytes) == (0, len(GOLDEN))
        told = outcome.sentence.partition("most of what the store had already is of VM ")[2]
        assert told.startswith(("'first'", "'second'"))
    assert set(site.verdicts()) == {Verdict.GOOD}
    for name in GROWN[:2]:
        assert site.restore(site.newest(name).version) == site.disks(name)


def _without_a_list_of_what_is_there_clones_send_all_and_it_is_dropped_once(
    site: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = kept(site)

    def busy(*_told: Any) -> int:
        raise CatalogBusy("somebody else holds it")

    shutil.rmtree(site.site.catalog.scratch.parent / "known ids")
    with monkeypatch.context() as patch:
        patch.setattr("tasks.known_ids.write_known_ids", busy)
        ended = site.back_up(*CLONES, concurrency=len(CLONES))

    assert ended.name == "Completed", ended.message
    assert kept(site) == one
    for outcome in outcomes(ended).values():
        assert outcome.sent_bytes > 3 * MIB
        assert 3 * MIB < outcome.dropped_bytes <= outcome.sent_bytes
        assert outcome.freed_bytes <= outcome.sent_bytes
    freed = [outcome.freed_bytes for outcome in outcomes(ended).values()]
    assert sum(freed) == sum(outcome.sent_bytes for outcome in outcomes(ended).values())


def _a_vm_that_is_renamed_moved_and_grown_sends_what_is_new_alone(site: Scene) -> None:
    site.validate()
    db, vm = site.pool.db, site.pool.vm("first")
    db.put("VM", vm, name_label="renamed")
    (mine, its) = (db.get("VM", each, "VBDs") for each in (vm, site.pool.vm("elsewhere")))
    before, moved = (db.get("VBD", vbds[0], "VDI") for vbds in (mine, its))
    db.put("VBD", mine[0], VDI=moved)  # as one that was copied to another storage
    site.pool.disk_of("renamed", 0).grow(4 * MIB)
    db.put("VDI", moved, virtual_size=4 * MIB)

    ended = site.back_up("renamed")

    assert before != moved
    outcome = outcomes(ended)["renamed"]
    assert (outcome.sent_bytes, outcome.known_bytes) == (0, 3 * MIB), ended.message
    assert site.restore(site.newest("renamed").version) == site.disks("renamed")


def test_a_list_that_is_out_of_date_harms_nothing_nor_does_a_loss_before_the_commit(
    new_site: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = new_site({name: [GOLDEN] for name in ("first", "second", "third")})
    site.back_up("first", validated=True)
    _no_job_waits_for_the_list_and_one_that_is_out_of_date_harms_nothing(site, monkeypatch)
    site.validate()
    _what_a_clone_relied_on_is_read_again_where_it_is_lost_before_the_commit(site, monkeypatch)


def _no_job_waits_for_the_list_and_one_that_is_out_of_date_harms_nothing(
    site: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written by the validation; a job only looks into it, whatever is gone since."""
    for pack in site.packs():
        pack.unlink()

    def asked(*_told: Any) -> int:
        raise AssertionError("the list was written while a job waited")

    with monkeypatch.context() as patch:
        patch.setattr("tasks.known_ids.write_known_ids", asked)
        ended = site.back_up("second")

    assert outcomes(ended)["second"].sent_bytes > 3 * MIB, ended.message
    assert site.restore(site.newest("second").version) == site.disks("second")


def _what_a_clone_relied_on_is_read_again_where_it_is_lost_before_the_commit(
    site: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three VMs need the same."""
    (lost,) = site.packs()

    def commit_after_the_loss(*told: Any, **more: Any) -> Version:
        lost.unlink(missing_ok=True)
        return commit_version(*told, **more)

    with monkeypatch.context() as patch:
        patch.setattr("tasks.commit.commit", commit_after_the_loss)
        ended = site.back_up("third")

    assert ended.name == "Completed", ended.message
    assert outcomes(ended)["third"].sent_bytes > 3 * MIB
    assert site.restore(site.newest("third").version) == site.disks("third")
    site.validate()
    assert site.verdicts() == [Verdict.GOOD] * 3
    assert site.restore(site.newest("first").version) == site.disks("first")


def test_jobs_that_end_at_the_same_moment_do_not_trip_over_each_other(
    new_site: Callable[..., Scene],
) -> None:
    site = new_site({name: [noise(name, 300_000)] for name in CLONES})

    jobs = [InTheBackground(site, name, name=f"job of {name}", validated=True) for name in CLONES]
    ended = [job.ended() for job in jobs]

    assert [(state.name, state.message) for state in ended] == [
        ("Completed", "1 VM backed up")
    ] * len(CLONES)
    assert set(site.verdicts()) == {Verdict.GOOD}
