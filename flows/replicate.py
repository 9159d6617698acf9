"""Replicate: standbys in another pool, and failing over to one."""

from typing import Annotated, Any

from prefect.client.schemas.objects import State
from pydantic import Field

from blocks import Site
from flows.forms import SiteName, refused_in_words, titled
from flows.runs import our_flow, this_run
from likeness.errors import BadInput
from likeness.stopping import StopToken
from tasks.claims import run_claimed
from tasks.outcomes import failed_over_state, replicated_state
from tasks.replicate import Replication, failed_over, replicated_vm, show_replicated

_Text = refused_in_words("give a text")
_Pool = Annotated[
    str, refused_in_words("give the name of a Xen Pool block"), titled("Pool", minLength=1)
]
_Vm = Annotated[str, refused_in_words("give a VM's name or uuid"), titled("VM", minLength=1)]


@our_flow("replicate to {pool}")
def replicate(
    vms: Annotated[
        list[str],
        Field(min_length=1),
        refused_in_words("give names or uuids of VMs"),
        titled("VMs"),
    ],
    pool: _Pool,
    storage: Annotated[str, _Text, titled("Storage")] = "",
    networks: Annotated[
        dict[str, str] | None,
        refused_in_words("give names or uuids of networks, each with the one to use instead"),
        titled("Networks"),
    ] = None,
    site: SiteName = "main",
    from_vault: Annotated[bool, titled("From the vault")] = False,
) -> State[Any]:
    """Make VMs' standbys in another pool what their newest good versions are.

    A standby is made the first time; afterwards only what differs is written. It cannot be started
    until `fail-over` releases it. One VM that fails keeps no other from being replicated.

    Args:
        vms: Names or uuids.
        pool: Name of the Xen Pool block of the other pool.
        storage: Name or uuid of the storage for new standbys; empty for that pool's default.
        networks: Old network to that pool's network, by name or uuid, or to "none" to leave the
            card out.
        site: Name of the Site block.
        from_vault: Read from the vault instead of the data store.
    """
    here, run = Site.named(site), this_run()
    _require_pool(pool)
    wanted = Replication(pool, storage.strip(), networks or {}, from_vault)
    with here.session(), run_claimed(here, run):
        done = [replicated_vm(vm, wanted, run=run, site=here, stop=StopToken()) for vm in vms]
        show_replicated(done, pool, site=here)
    return replicated_state(done)


@our_flow("fail over {vm} to {pool}")
def fail_over(
    vm: _Vm,
    pool: _Pool,
    start: Annotated[bool, titled("Start it")] = True,
    though_running: Annotated[bool, titled("Though the VM itself runs")] = False,
    site: SiteName = "main",
) -> State[Any]:
    """Release a VM's standby and start it: from now on it is a VM like any other.

    Args:
        vm: Name or uuid of the VM that it stands in for.
        pool: Name of the Xen Pool block of the pool that the standby is in.
        start: Start it at once.
        though_running: Do it although the VM itself runs in its own pool.
        site: Name of the Site block.
    """
    here, run = Site.named(site), this_run()
    _require_pool(pool)
    with here.session(), run_claimed(here, run):
        done = failed_over(vm, pool, start=start, though_running=though_running, run=run, site=here)
    return failed_over_state(done)


def _require_pool(pool: str) -> None:
    if not pool.strip():
        raise BadInput("no pool was named; give the name of a Xen Pool block")
