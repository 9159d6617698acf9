"""The global deduplication: what another VM has already is kept once, as soon as that is proved."""

from collections.abc import Callable
from typing import Any

import pytest

from catalog import dedup
from catalog.values import Dropped, Verdict
from tests.flows.background import InTheBackground
from tests.flows.scene import MIB, Scene, noise, outcomes

pytestmark = [pytest.mark.prefect, pytest.mark.lab]
GOLDEN = noise("golden image", 3 * MIB)
CLONES = [f"clone{number}" for number in range(4)]
SHAPE = 64 << 10
"""Of one more empty disk: so a clone is not of the same shape, and sends all that it has."""


def kept(site: Scene) -> int:
    return sum(path.stat().st_size for path in site.packs())


def test_a_clones_data_is_dropped_after_validation_and_both_restore(
    new_site: Callable[..., Scene],
) -> None:
    site = new_site({"first": [GOLDEN], "second": [GOLDEN]})

    before = outcomes(site.back_up("first", "second"))
    assert len(site.packs()) == 2
    assert all(each.freed_bytes == 0 for each in before.values())
    site.validate()

    assert len(site.packs()) == 1
    assert site.verdicts() == [Verdict.GOOD, Verdict.GOOD]
    for vm in ("first", "second"):
        assert site.restore(site.newest(vm).version) == site.disks(vm)


def test_clones_of_a_proved_vm_keep_nothing_and_each_is_counted_once(
    new_site: Callable[..., Scene],
) -> None:
    site = new_site({"first": [GOLDEN], **{name: [GOLDEN, SHAPE] for name in CLONES}})
    site.back_up("first", validated=True)
    one = kept(site)

    ended = site.back_up(*CLONES, concurrency=len(CLONES))

    assert ended.name == "Completed", ended.message
    assert kept(site) == one
    for outcome in outcomes(ended).values():
        assert outcome.sent_bytes > 3 * MIB
        assert 3 * MIB < outcome.dropped_bytes <= outcome.sent_bytes
        assert outcome.freed_bytes <= outcome.sent_bytes
    freed = [outcome.freed_bytes for outcome in outcomes(ended).values()]
    assert sum(freed) == sum(outcome.sent_bytes for outcome in outcomes(ended).values())
    for name in CLONES[:2]:
        assert site.restore(site.newest(name).version) == site.disks(name)


def test_a_clone_keeps_its_own_data_when_the_copy_it_would_rely_on_is_lost_meanwhile(
    new_site: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = new_site({"first": [GOLDEN], "second": [GOLDEN, SHAPE]})
    site.back_up("first", validated=True)
    (lost,) = site.packs()
    decide = dedup.drop_duplicates

    def decide_and_lose(*told: Any, **more: Any) -> Dropped:
        decided = decide(*told, **more)
        assert len(decided.redundant) == 1
        lost.unlink()
        return decided

    monkeypatch.setattr(dedup, "drop_duplicates", decide_and_lose)
    ended = site.back_up("second")
    monkeypatch.undo()

    assert ended.name == "Completed", ended.message
    assert outcomes(ended)["second"].freed_bytes == 0
    site.validate()
    assert site.verdicts() == [Verdict.GOOD, Verdict.GOOD]
    for vm in ("first", "second"):
        assert site.restore(site.newest(vm).version) == site.disks(vm)


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
