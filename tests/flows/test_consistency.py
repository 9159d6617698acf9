"""How a VM is held while its snapshot is taken: what was asked for, what it got, and why."""

from collections.abc import Callable

import pytest

from likeness.model.outcome import VmState
from tests.flows.scene import MIB, NOTHING_LEFT, Scene, noise, outcomes

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


def test_an_old_host_quiesces_what_can_be_and_says_why_the_rest_is_not(
    new_site: Callable[..., Scene],
) -> None:
    site = new_site(
        {"able": [noise("able", MIB), MIB], "halted": [noise("halted", MIB)]}, old_host=True
    )
    site.pool.db.put("VM", site.pool.vm("halted"), power_state="Halted")
    held = site.disks("able")[:1]

    ended = site.back_up("able", "halted", consistency="quiesced", exclude_disks={"able": ["1"]})

    able, halted = (outcomes(ended)[name] for name in ("able", "halted"))
    assert (able.state, halted.state) == (VmState.DONE, VmState.DONE)
    row = site.newest("able")
    assert (row.consistency_asked, row.consistency) == ("quiesced", "quiesced")
    assert "disk 1 was frozen with the others and is not backed up" in able.sentence
    assert len(site.pool.journal.entries("Async.VM.snapshot_with_quiesce")) == 1
    row = site.newest("halted")
    assert (row.consistency_asked, row.consistency) == ("quiesced", "standard")
    assert "quiesced snapshot is not possible" in halted.sentence
    assert site.read_back(next(v for v in site.stored() if v.record.vm_name == "able")) == held
    assert site.left_in_the_pool() == NOTHING_LEFT

    strict = site.back_up("halted", consistency="quiesced", strict=True)

    (outcome,) = outcomes(strict).values()
    assert outcome.state is VmState.FAILED
    assert outcome.sentence.startswith("snapshot of VM halted: a quiesced snapshot is not possible")
    assert len(site.listed("halted")) == 1
    assert site.left_in_the_pool() == NOTHING_LEFT
