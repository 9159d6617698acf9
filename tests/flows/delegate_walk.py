"""One VM's way through a delegate, in a process that kills itself at a certain call to the pool.

All of the way that touches the pool, with the real lease, and without the agent: so that hundreds
of kills cost seconds.
"""

import os
import signal
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.flows.killing import FORKS


@dataclass(frozen=True)
class Walk:
    """What a process needs to know.

    Attributes:
        pool: Fields of the Xen Pool block; the password is worth nothing.
        folder: Holds the catalog's folder `here`.
        run: Of the walk.
        last_call: Which call to the pool is its last one; 0 for none.
    """

    pool: Mapping[str, Any]
    folder: Path
    run: str
    last_call: int = 0


def walk_in(lab: Any, folder: Path, addresses: Sequence[str], last_call: int = 0) -> Walk:
    """A walk in a pool of the lab."""
    from likeness.model.ids import random_name

    fields = {
        "url": lab.url,
        "username": lab.username,
        "password": lab.password,
        "delegate_addresses": [{"addresses": list(addresses)}],
        "delegate_wait_minutes": 1,
    }
    return Walk(fields, folder, random_name(), last_call)


@contextmanager
def lab_without_guests(folder: Path) -> Generator[Any, None, None]:
    """A pool with a VM and a template, whose clones tell where they are, and are nowhere."""
    from lab.pool import Pool
    from lab.serving import LabServer
    from lab.settings import Settings
    from likeness.xen.delegates import DEFAULT_TAG
    from tests.flows.scene import QUICK, image, noise

    pool = Pool(Settings(**QUICK, guest_tag="none"))
    pool.add_vm("web", [image(folder, "web", noise("web", 64 << 10)), 64 << 10])
    pool.add_template("abd", tag=DEFAULT_TAG)
    over = threading.Event()

    def boot() -> None:
        while not over.wait(0.01):
            for ref in pool.db.where("VM", power_state="Running", is_control_domain=False):
                with suppress(LookupError):
                    _tell(pool, ref)

    booting = threading.Thread(target=boot, daemon=True)
    with LabServer(pool) as server:
        booting.start()
        yield server
        over.set()
        booting.join(10)


def _tell(pool: Any, ref: str) -> None:
    data = pool.db.get("VM", ref, "xenstore_data")
    if "vm-data/ip" in data and "vm-data/assigned-ip" not in data:
        told = {"host-key": "ssh-ed25519 AAAA", "assigned-ip": data["vm-data/ip"]}
        for key, value in told.items():
            pool.machines.guest_writes_store(ref, f"vm-data/{key}", value)


def begin(walk: Walk) -> BaseProcess:
    """Start a process that goes that way."""
    process = FORKS.Process(target=go, args=(walk,))
    process.start()
    return process


def go(walk: Walk) -> None:
    """Lease, clone, snapshot, plug, unplug, drop, destroy, release."""
    from prefect.logging import disable_run_logger

    from likeness.model.ids import RunId
    from likeness.stopping import StopToken
    from likeness.xen.delegates import destroy_delegate, plug_disks, start_delegate, unplug_disks
    from likeness.xen.dropping import drop_snapshot
    from likeness.xen.inventory import find_vm
    from likeness.xen.owner import Owner
    from likeness.xen.session import XenSession
    from likeness.xen.snapshots import take_snapshot
    from tasks.addresses import leased_address
    from tasks.claims import run_claimed
    from tasks.delegate_machines import wish_of

    site, run, stop = site_of(walk), RunId(walk.run), StopToken()
    asked = _die_at(XenSession, walk.last_call)
    owner = Owner(site.installation, run)
    with disable_run_logger(), run_claimed(site, run), site.xen_pool.open(owner=owner) as xen:
        vm = find_vm(xen, "web")
        with leased_address(vm, run=run, site=site, stop=stop) as address:
            made = start_delegate(
                xen,
                wish_of(site, address),
                vm_name=vm.name,
                vm_ref=vm.ref,
                owner=owner,
                public_key="key",
                stop=stop,
            )
            snapshot = take_snapshot(xen, vm, owner=owner, label="web")
            plug_disks(xen, made, snapshot.disks)
            unplug_disks(xen, made)
            drop_snapshot(xen, snapshot)
            destroy_delegate(xen, made.ref)
    calls_of(walk.folder).write_text(str(asked[0]))


def calls_of(folder: Path) -> Path:
    """How many calls the last walk has made that came to its end."""
    return folder / "calls"


def site_of(walk: Walk) -> Any:
    """A site of unsaved blocks."""
    from blocks import CatalogFile, DataStoreShare, Site, XenPool

    folder = walk.folder
    return Site(
        name="walk",
        xen_pool=XenPool.model_validate(dict(walk.pool)),
        data_store=DataStoreShare(place=str(folder), key_file=str(folder / "store.key")),
        catalog=CatalogFile(folder=str(folder / "here")),
    )


def _die_at(session: Any, last_call: int) -> list[int]:
    """Before the answer to that call is read: what it did is done."""
    asked, real = [0], session.call

    def call(self: Any, method: str, *parameters: Any, **more: Any) -> Any:
        answer = real(self, method, *parameters, **more)
        asked[0] += 1
        if asked[0] == last_call:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    session.call = call
    return asked
