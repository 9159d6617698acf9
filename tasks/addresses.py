"""Addresses of delegates: each serves one at a time, whoever dies and however many ask.

A lease is a claim on this machine, which the kernel drops when its process dies, and the address in
the delegate's own record in the pool, which stays as long as that VM does. Both have to be free: a
delegate that outlived its run keeps its address until it is gone, and whoever gets the claim of
such an address removes that delegate first.
"""

import hashlib
import json
import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

from prefect import get_run_logger

from blocks import Site
from catalog.at_work import list_work
from likeness.claims import Claimed, claim, said_by_claim
from likeness.clock import stopwatch
from likeness.errors import HostBusy, LikenessError
from likeness.model.addresses import StaticAddress
from likeness.model.ids import RunId
from likeness.model.sizes import readable_age
from likeness.stopping import StopToken
from likeness.xen.delegate_network import addresses_in_use
from likeness.xen.delegates import destroy_delegate
from likeness.xen.inventory import XenVm
from tasks.progress import vm_at

LOOK_SECONDS = 0.2
POOL_SECONDS = 5.0
"""How long an address is left alone that a VM of the pool has and nobody here has claimed."""
SAID_EVERY_SECONDS = 15.0


@contextmanager
def leased_address(
    vm: XenVm, *, run: RunId, site: Site, stop: StopToken
) -> Generator[StaticAddress | None, None, None]:
    """A static address for one delegate, as long as the `with` lasts; none where DHCP gives them.

    Waits for one and says for what; of those who wait in this process the first is served first.

    Raises:
        HostBusy: None became free in time.
        HostUnreachable, HostRefused: The pool did not say which are in use.
        Stopped: On request.
    """
    if not site.xen_pool.delegate_addresses:
        yield None
        return
    with ExitStack() as held:
        wait = _Wait(vm, run, site, stop, site.xen_pool.static_addresses)
        with _queue.joined(wait):
            address = wait.until_leased(held)
        get_run_logger().info("%s: its delegate gets address %s", vm.name, address.address)
        yield address


@dataclass(eq=False)
class _Wait:
    """One VM that needs an address."""

    vm: XenVm
    run: RunId
    site: Site
    stop: StopToken
    addresses: Sequence[StaticAddress]
    _begun: float = field(default_factory=stopwatch)
    _say_at: float = 0.0
    _left_alone: dict[str, float] = field(default_factory=dict)

    def until_leased(self, held: ExitStack) -> StaticAddress:
        """Wait until there is one; the claim is held by `held`."""
        while True:
            self.stop.check()
            if _queue.before(self) == 0 and (found := self._free(held)) is not None:
                return found
            self._say()
            self.stop.wait(LOOK_SECONDS)

    def _free(self, held: ExitStack) -> StaticAddress | None:
        now, note = stopwatch(), json.dumps({"run": self.run, "vm": self.vm.vm})
        for each in self.addresses:
            if self._left_alone.get(each.address, 0.0) > now:
                continue
            with ExitStack() as mine, suppress(Claimed):
                claims = self.site.catalog.claims
                mine.enter_context(claim(claims, claim_of(each), says=note))
                if self._is_free_in_pool(each):
                    held.push(mine.pop_all())
                    return each
                self._left_alone[each.address] = now + POOL_SECONDS
        return None

    def _is_free_in_pool(self, address: StaticAddress) -> bool:
        """Whether no VM has it; a delegate of ours that nobody holds the claim of is removed."""
        with self.site.xen_pool.open(stop=self.stop) as xen:
            ref, owner = addresses_in_use(xen).get(address.address, ("", None))
            if ref and owner and owner.installation in self.site.installations:
                destroy_delegate(xen, ref)
                return True
            return not ref

    def _say(self) -> None:
        waited = stopwatch() - self._begun
        minutes = self.site.xen_pool.delegate_wait_minutes
        reason = self.reason() if waited >= self._say_at or waited > minutes * 60 else ""
        if waited > minutes * 60:
            raise HostBusy(f"{self.vm.name} waited {minutes} min for an address: {reason}")
        if reason:
            self._say_at = waited + SAID_EVERY_SECONDS
            get_run_logger().info("%s waits: %s", self.vm.name, reason)
            vm_at(self.run, self.vm.vm, "address", reason)

    def reason(self) -> str:
        """What it waits for, in words."""
        many, before = len(self.addresses), _queue.before(self)
        said = f"no free ABD address in pool {self.vm.pool}: {many} of {many} in use"
        if before:
            said += f", {before} waiting before it"
        left = sorted(self._seconds_left())
        if not left:
            return said
        after = left[min(before, len(left) - 1)]
        soon = "less than a minute" if after < 60 else f"about {_age(after)}"
        return f"{said}, next expected in {soon}"

    def _seconds_left(self) -> list[float]:
        """Of the transfers through delegates that have these addresses, as far as they can tell."""
        claims, at = self.site.catalog.claims, set()
        for each in self.addresses:
            with suppress(ValueError, KeyError, TypeError):
                holder = json.loads(said_by_claim(claims, claim_of(each)))
                at.add((holder["run"], holder["vm"]))
        try:
            work = list_work(self.site.catalog.file)
        except LikenessError:
            return []
        return [
            each.seconds_left
            for each in work
            if (each.run, each.item) in at and each.step == "transfer" and each.seconds_left
        ]


class _WaitingQueue:
    """Those of this process who wait, by site, first come first served."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Wait] = []

    @contextmanager
    def joined(self, wait: _Wait) -> Generator[None, None, None]:
        with self._lock:
            self._waiting.append(wait)
        try:
            yield
        finally:
            with self._lock:
                self._waiting.remove(wait)

    def before(self, wait: _Wait) -> int:
        """How many of the same site came before."""
        with self._lock:
            earlier = self._waiting[: self._waiting.index(wait)]
            return sum(each.site.name == wait.site.name for each in earlier)


_queue = _WaitingQueue()


def claim_of(address: StaticAddress) -> str:
    """The name of the claim of an address, whichever pool it is in."""
    return f"address-{hashlib.blake2b(address.address.encode(), digest_size=16).hexdigest()}"


def _age(seconds: float) -> str:
    return readable_age(timedelta(seconds=seconds))
