"""Validate: read back what is new or due, prove it, heal what can be healed, and say so."""

from typing import Annotated, Any

from prefect.client.schemas.objects import State

from blocks import Site
from catalog.incidents import list_incidents
from flows.forms import Gib, SiteName, titled
from flows.runs import our_flow, this_run
from likeness.stopping import StopToken
from tasks.afterwards import Afterwards
from tasks.catch_up import catch_up_and_list
from tasks.claims import run_claimed
from tasks.dedup import drop_duplicates
from tasks.heal import heal_damage, leave_damaged_packs
from tasks.known_ids import renew_known_ids
from tasks.notify import tell_people
from tasks.protect_catalog import copy_catalog
from tasks.reporting import show_changed_versions, show_validation, validation_state
from tasks.validate import (
    ProofAttempts,
    asked_for,
    audit_presence,
    backup_run,
    judge_disks,
    prove_due,
)

NEXT = "the next run does it"
NOT_DEDUPLICATED = ("what other VMs have too was not dropped", NEXT)
NOT_COPIED = ("no copy of the catalog was made", NEXT)
NOT_LEFT = ("versions still need damaged packs", NEXT)
NOT_LISTED = ("what need not be sent again was not listed", "the next job does it")
NOT_SHOWN = ("the pages were not written", NEXT)


@our_flow("validate {site}")
def validate(
    site: SiteName = "main",
    run: Annotated[str, titled("Only what this backup run brought in")] = "",
    most_gib: Annotated[Gib, titled("Validate again at most, GiB")] = 0,
    everything: Annotated[bool, titled("Check everything now, whatever its age")] = False,
    vm: Annotated[str, titled("Check this VM now, whatever the age")] = "",
) -> State[Any]:
    """Read back and prove the data blocks a run brought in, or all that are new or due.

    Data validated before is passed over until its age is up. Whatever is damaged turns every
    version of every VM that needs it red, people are told once, and what the vault has whole is
    put back; what cannot be read says nothing about a version.

    Args:
        site: Name of the Site block.
        run: The id of the backup run whose versions to validate; all versions if empty.
        most_gib: Read at most so many GiB of what was validated before; 0 is as many as needed.
        everything: Read all data and all documents, also what was proved a moment ago.
        vm: The name or uuid of a VM of which to read all versions, also what was proved a moment
            ago; empty if none is meant.
    """
    here, this, stop = Site.named(site), this_run(), StopToken()
    after = Afterwards()
    with here.session(), run_claimed(here, this):
        seen = catch_up_and_list(site=here)
        of_run = backup_run(run, site=here) if run else None
        asked = asked_for(everything=everything, vm=vm, site=here)
        tell_people(site=here)  # of what a run found that died before it could tell
        try:
            there = audit_presence(
                this,
                site=here,
                stop=stop,
                daily=not of_run,
                everything=everything,
                seen=seen,
            )
            found = there.and_then(
                prove_due(
                    of_run,
                    this,
                    max(most_gib, 0) << 30 or None,
                    site=here,
                    stop=stop,
                    attempts=ProofAttempts(),
                    asked=asked,
                )
            )
            tell_people(site=here)
            healed = heal_damage(this, site=here, stop=stop)
        except BaseException:
            stop.stop()
            raise
        told = tell_people(site=here)
        after.attempt(*NOT_LEFT, leave_damaged_packs, this, site=here, stop=stop)
        after.attempt(*NOT_DEDUPLICATED, drop_duplicates, None, site=here)
        after.attempt(*NOT_LISTED, renew_known_ids, this, site=here)
        after.attempt(*NOT_COPIED, copy_catalog, this, site=here)
        if of_run:
            judge_disks(of_run, site=here)
        after.attempt(*NOT_SHOWN, show_validation, found, healed, site=here)
        after.attempt(*NOT_SHOWN, show_changed_versions, site=here)
        opened = list_incidents(here.catalog.file)
    return validation_state(found, healed, told, opened, after.warnings)
