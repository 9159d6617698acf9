"""Serve: a version's disks at once, over NBD, without restoring them first."""

from typing import Annotated, Any

from prefect.client.schemas.objects import State
from pydantic import Field

from blocks import Site
from flows.forms import SiteName, VersionWords, refused_in_words, titled
from flows.runs import our_flow, this_run
from likeness.stopping import StopToken
from tasks.claims import run_claimed
from tasks.outcomes import served_state
from tasks.restore_sources import choose_version
from tasks.serve import serve_version


@our_flow("serve {version}")
def serve(
    version: VersionWords = "",
    vm: Annotated[str, refused_in_words("give a VM's name or uuid"), titled("VM")] = "",
    minutes: Annotated[
        float,
        Field(gt=0, le=10_080),
        refused_in_words("give minutes, up to 10080"),
        titled("Minutes"),
    ] = 60,
    port: Annotated[
        int, Field(ge=0, le=65_535), refused_in_words("give a port"), titled("Port")
    ] = 10_809,
    writable: Annotated[bool, titled("Writable")] = False,
    site: SiteName = "main",
    from_vault: Annotated[bool, titled("From the vault")] = False,
) -> State[Any]:
    """Give a version's disks to programs on the worker's machine, such as qemu-nbd, for a while.

    Each data block is proved before it is given. Cancel the run to end it earlier.

    Args:
        version: With a VM, words such as "last good before 2026-11-20" (UTC), or empty for the last
            good one; without one, "web, last good", or four digits or more of an id.
        vm: Name or uuid of the VM; needed where the version does not say.
        minutes: How long to serve.
        port: On 127.0.0.1 of the worker's machine; 0 for any free one, which the run's page names.
        writable: Let programs write; what they write is thrown away at the end.
        site: Name of the Site block.
        from_vault: Read from the vault instead of the data store.
    """
    here, run, stop = Site.named(site), this_run(), StopToken()
    try:
        with here.session(), run_claimed(here, run):
            served = serve_version(
                choose_version(vm, version, site=here),
                seconds=60.0 * minutes,
                port=port,
                writable=writable,
                from_vault=from_vault,
                run=run,
                site=here,
                stop=stop,
            )
    except BaseException:
        stop.stop()
        raise
    return served_state(served)
