"""A job, from the pool to a version that is proved, and back."""

import pytest

from catalog.copies import import_copy
from catalog.values import Verdict
from catalog.versions import list_versions
from likeness.clock import system_clock
from likeness.store.write.catalog_copies import fetch_newest
from tests.flows.scene import MIB, NOTHING_LEFT, Scene, noise, outcomes

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


def test_from_the_pool_to_a_proved_version_and_back_until_the_catalog_is_lost(
    site: Scene,
) -> None:
    ended = site.back_up("web", "db", validated=True, concurrency=2)

    assert (ended.name, ended.message) == ("Completed", "2 VMs backed up")
    assert site.verdicts() == [Verdict.GOOD, Verdict.GOOD]
    for vm in ("web", "db"):
        assert site.restore(site.newest(vm).version) == site.disks(vm)
    assert site.left_in_the_pool() == NOTHING_LEFT
    assert site.records_of_changes() == 3
    _the_copy_of_the_catalog_can_be_taken_in(site)
    _the_next_job_sends_only_what_changed_and_all_versions_stay_whole(site)
    _a_lost_catalog_catches_up_and_believes_nothing_unread(site)


def _the_copy_of_the_catalog_can_be_taken_in(site: Scene) -> None:
    folder = site.folder / "fetched"
    folder.mkdir()

    with site.store() as store:
        fetch_newest(store, folder)
    other = site.site.catalog.file.__class__(site.folder / "elsewhere" / "catalog.duckdb")
    import_copy(folder, other, system_clock())

    assert [(row.version, row.digest) for row in list_versions(other, system_clock(), None)] == [
        (row.version, row.digest) for row in site.listed()
    ]


def _the_next_job_sends_only_what_changed_and_all_versions_stay_whole(site: Scene) -> None:
    before = site.disks("web")
    site.pool.write("web", disk=0, offset=MIB, data=noise("new", 256 << 10))
    after = site.disks("web")

    (second,) = outcomes(site.back_up("web")).values()
    (third,) = outcomes(site.back_up("web")).values()

    assert second.new_bytes == 256 << 10
    assert second.sent_bytes < 300 << 10
    assert (third.new_bytes, third.sent_bytes) == (0, 0)
    assert site.records_of_changes() == 3
    newest, middle, oldest = site.listed("web")
    assert site.restore(oldest.version) == before
    assert site.restore(middle.version) == site.restore(newest.version) == after


def _a_lost_catalog_catches_up_and_believes_nothing_unread(site: Scene) -> None:
    known = {row.version for row in site.listed()}
    site.forget_catalog()

    site.back_up("db")

    assert known < {row.version for row in site.listed()}
    assert set(site.verdicts()) == {Verdict.UNCHECKED}
    site.validate()
    assert set(site.verdicts()) == {Verdict.GOOD}
