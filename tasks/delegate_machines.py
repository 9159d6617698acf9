"""Machines of delegates: started for a VM, kept for the next one where that is wished, removed.

A delegate that is kept stays its run's, with its address: whatever happens to the process, the
sweep knows it, and it ends with the run at the latest.
"""

import secrets
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import asyncssh
from prefect import get_run_logger

from blocks import Site
from likeness.agent.protocol import PROTOCOL
from likeness.agent.remote import Address
from likeness.errors import LikenessError
from likeness.model.addresses import StaticAddress
from likeness.model.ids import RunId
from likeness.stopping import StopToken
from likeness.xen.delegate_network import AddressTaken
from likeness.xen.delegates import (
    DelegateWish,
    XenDelegate,
    destroy_delegate,
    goes_on,
    start_delegate,
    unplug_disks,
)
from likeness.xen.inventory import XenVm
from likeness.xen.owner import Owner
from tasks.addresses import leased_address
from tasks.progress import vm_at


@dataclass(eq=False)
class Machine:
    """A delegate that runs.

    Attributes:
        delegate: The VM.
        address: Where its agent is started.
        lease: Of its address; let go of when the VM is gone.
    """

    delegate: XenDelegate
    address: Address = field(repr=False)
    lease: ExitStack = field(repr=False)
    timer: threading.Timer | None = None


class _Kept:
    """The machines of one run that wait for their next VM."""

    def __init__(self, owner: Owner, site: Site) -> None:
        self._owner, self._site, self._log = owner, site, get_run_logger()
        self._lock = threading.Lock()
        self._idle: list[Machine] = []
        self._over = False

    def take(self) -> Machine | None:
        with self._lock:
            machine = self._idle.pop() if self._idle else None
        if machine is not None and machine.timer is not None:
            machine.timer.cancel()
        return machine

    def give(self, machine: Machine) -> bool:
        """Keep a machine for a while; whether it is kept."""
        with self._lock:
            if self._over:
                return False
            self._idle.append(machine)
            seconds = self._site.xen_pool.delegate_idle_seconds
            machine.timer = threading.Timer(seconds, self._expire, [machine])
            machine.timer.daemon = True
            machine.timer.start()
        return True

    def end(self) -> None:
        """Remove what is idle, and keep nothing from now on."""
        with self._lock:
            self._over = True
        while (machine := self.take()) is not None:
            self.remove(machine)

    def _expire(self, machine: Machine) -> None:
        with self._lock:
            if machine not in self._idle:
                return
            self._idle.remove(machine)
        self.remove(machine)

    def remove(self, machine: Machine) -> None:
        """Take a machine away; what cannot be taken away now the sweep removes."""
        with machine.lease:
            try:
                with self._site.xen_pool.open(owner=self._owner) as xen:
                    destroy_delegate(xen, machine.delegate.ref)
            except Exception as cause:  # noqa: BLE001  # whatever it is, the sweep comes
                name = machine.delegate.name
                self._log.warning("%s stays for the next sweep: %s", name, cause)


_runs: dict[RunId, _Kept] = {}


@contextmanager
def machines_kept(run: RunId, site: Site) -> Generator[None, None, None]:
    """Delegates may go on with a run's next VM while the `with` lasts; none is left after it."""
    kept = _runs[run] = _Kept(Owner(site.installation, run), site)
    try:
        yield
    finally:
        del _runs[run]
        kept.end()


@contextmanager
def machine_for(
    vm: XenVm, run: RunId, site: Site, stop: StopToken
) -> Generator[Machine, None, None]:
    """A machine for one VM: one that is kept and can see its disks, or a new one.

    Raises:
        BadInput: There is no template or network for it.
        HostBusy, HostRefused, HostUnreachable: None can be had, or none answers.
        Stopped: On request.
    """
    owner = Owner(site.installation, run)
    kept = _runs.get(run) or _Kept(owner, site)
    machine = _goes_on(kept, vm, owner, site, stop) or _started(vm, owner, site, stop)
    again = False
    try:
        yield machine
        again = run in _runs and bool(site.xen_pool.delegate_idle_seconds)
    finally:
        if not (again and _emptied(machine, owner, site) and kept.give(machine)):
            kept.remove(machine)


def _goes_on(kept: _Kept, vm: XenVm, owner: Owner, site: Site, stop: StopToken) -> Machine | None:
    """One that is kept, for this VM; those that are of no use to it make room."""
    while (machine := kept.take()) is not None:
        try:
            with site.xen_pool.open(stop=stop, owner=owner) as xen:
                found = goes_on(xen, machine.delegate, vm_name=vm.name, vm_ref=vm.ref, owner=owner)
            if found is not None:
                get_run_logger().info("%s: %s goes on with it", vm.name, machine.delegate.name)
                machine.delegate = found
                return machine
        except BaseException:
            kept.remove(machine)
            raise
        kept.remove(machine)
    return None


def _emptied(machine: Machine, owner: Owner, site: Site) -> bool:
    try:
        with site.xen_pool.open(owner=owner) as xen:
            unplug_disks(xen, machine.delegate)
    except LikenessError:
        return False
    return True


def _started(vm: XenVm, owner: Owner, site: Site, stop: StopToken) -> Machine:
    """A new one; its lease ends after it was taken away."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    public = key.export_public_key().decode().strip()
    with ExitStack() as lease:
        while True:
            static = lease.enter_context(leased_address(vm, run=owner.run, site=site, stop=stop))
            vm_at(owner.run, vm.vm, "delegate", f"ABD {static.address}" if static else "")
            try:
                made = _made(vm, static, owner, public, site, stop)
                break
            except AddressTaken as cause:  # another installation was at it in the same moment
                get_run_logger().info("%s: %s", vm.name, cause)
                lease.close()
                stop.wait(secrets.randbelow(1000) / 500)
        private = key.export_private_key().decode()
        address = Address(made.address, made.port, made.host_key, private)
        return Machine(made, address, lease.pop_all())


def _made(
    vm: XenVm,
    address: StaticAddress | None,
    owner: Owner,
    public_key: str,
    site: Site,
    stop: StopToken,
) -> XenDelegate:
    with site.xen_pool.open(stop=stop, owner=owner) as xen:
        return start_delegate(
            xen,
            wish_of(site, address),
            vm_name=vm.name,
            vm_ref=vm.ref,
            owner=owner,
            public_key=public_key,
            stop=stop,
            say=get_run_logger().info,
        )


def wish_of(site: Site, address: StaticAddress | None) -> DelegateWish:
    """What a delegate of a site shall be like."""
    pool = site.xen_pool
    return DelegateWish(
        pool.delegate_template,
        pool.delegate_network,
        address,
        protocol=PROTOCOL,
        boot_seconds=pool.delegate_boot_seconds,
    )
