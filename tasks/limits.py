"""Global limits: how many VMs of all jobs may be in flight at once on a host, a storage, a share.

They are Prefect's global concurrency limits, so the UI shows and changes them; one that nobody made
limits nothing. A slot is a lease: that of a process that died is free again after a minute.
"""

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from math import inf
from urllib.parse import urlsplit
from uuid import UUID

from httpx import HTTPStatusError
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLeaseHolder

from blocks import Site
from likeness.clock import stopwatch
from likeness.errors import LikenessError
from likeness.model.ids import RunId, as_uuid
from likeness.stopping import StopToken
from likeness.xen.inventory import XenVm
from tasks.progress import every_few_seconds

_LEASE_SECONDS = 60.0
_RENEW_SECONDS = 20.0
_LOOK_SECONDS = 2.0
_NO_SLOT_FREE = 423
_PAGE = 200
_SEEN_FOR_SECONDS = 5.0
_seen_by: dict[RunId, tuple[float, set[str]]] = {}
"""Which limits the run saw that asked last, and when."""
_BANNED = re.compile(r"[/%&<>]")  # by Prefect, in names


def limits_of(vm: object, site: Site) -> list[str]:
    """Names of all limits that count a VM, whether or not there are such limits."""
    names = [f"share {_share_of(site)}"]
    if isinstance(vm, XenVm):
        names += [f"pool {vm.pool}", *([f"host {vm.host}"] if vm.host else [])]
        names += dict.fromkeys(f"storage {disk.storage}" for disk in vm.disks)
    return [_BANNED.sub("-", name) for name in names]


def _share_of(site: Site) -> str:
    """The server or bucket of the data store; a folder's is this machine."""
    return urlsplit(site.place_of("data_store")).hostname or "here"


@contextmanager
def slots_held(
    vm: object, name: str, *, run: RunId, site: Site, stop: StopToken
) -> Generator[None, None, None]:
    """Hold a slot of each limit that counts a VM; without any, wait for one.

    Where the server is away the VM is backed up all the same.

    Raises:
        Stopped: Somebody asked to stop while it waited.
    """
    lease = _lease(vm, name, run, site, stop)
    if lease is None:
        yield
        return
    renewed = [stopwatch()]

    def renew() -> None:
        if stopwatch() - renewed[0] > _RENEW_SECONDS:
            renewed[0] = stopwatch()
            with suppress(Exception), get_client(sync_client=True) as client:
                client.renew_concurrency_lease(lease, _LEASE_SECONDS)

    try:
        with every_few_seconds(renew, "slots"):
            yield
    finally:
        with suppress(Exception), get_client(sync_client=True) as client:
            client.release_concurrency_slots_with_lease(lease)


def _lease(vm: object, name: str, run: RunId, site: Site, stop: StopToken) -> UUID | None:
    """A slot of each limit; none where there is no limit, or the server is away."""
    said = False
    try:
        there = _there(run)
        wanted = [each for each in limits_of(vm, site) if each in there]
        while wanted:
            lease = _asked_for(wanted, run)
            if lease is not None:
                return lease
            if not said:
                told = ", ".join(wanted)
                get_run_logger().info("%s waits: no slot is free of %s", name, told)
                said = True
            if stop.wait(_LOOK_SECONDS):
                stop.check()
    except LikenessError:
        raise
    except Exception as cause:  # noqa: BLE001  # no trouble of the server keeps a VM from its backup
        get_run_logger().warning("%s goes without the global limits: %s", name, cause)
    return None


def _there(run: RunId) -> set[str]:
    """Names of the limits that there are, and that are switched on; asked for every few seconds."""
    at, there = _seen_by.get(run, (-inf, set[str]()))
    if stopwatch() - at < _SEEN_FOR_SECONDS:
        return there
    found: set[str] = set()
    with get_client(sync_client=True) as client:
        for offset in count(0, _PAGE):  # each deployment that is limited has one of its own
            page = client.read_global_concurrency_limits(limit=_PAGE, offset=offset)
            found |= {each.name for each in page if each.active}
            if len(page) < _PAGE:
                break
    _seen_by.clear()
    _seen_by[run] = stopwatch(), found
    return found


def _asked_for(names: Sequence[str], run: RunId) -> UUID | None:
    holder = ConcurrencyLeaseHolder(type="flow_run", id=UUID(as_uuid(run)))
    with get_client(sync_client=True) as client:
        try:
            answer = client.increment_concurrency_slots_with_lease(
                list(names), 1, "concurrency", _LEASE_SECONDS, holder
            )
        except HTTPStatusError as problem:
            if problem.response.status_code == _NO_SLOT_FREE:
                return None
            raise
    return UUID(answer.json()["lease_id"])
