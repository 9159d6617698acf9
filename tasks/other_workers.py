"""Proving by other workers: packs are handed out, findings are handed back and recorded here.

A worker elsewhere needs the site's blocks, the store and its key file; it never opens the catalog.
What a worker calls damaged or missing is looked at again here before anybody believes it; what it
does not hand back, because it died or never began, is proved here.
"""

from collections import deque
from collections.abc import Collection, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

import msgspec
from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.states import Cancelling

from blocks import Site
from likeness.clock import system_clock
from likeness.errors import LikenessError
from likeness.model.ids import PackId
from likeness.model.sizes import counted
from likeness.stopping import StopToken
from likeness.store.check.proving import Finding, PackProof, prove_packs
from likeness.store.format.data_store import DataStore
from tasks import handing_out
from tasks.handing_out import HandedOut

PROVING_FLOW = "prove-packs"
PACKS_AT_ONCE = 512
"""So many packs are handed to a worker in one run: about 8 GiB, so that beginning costs little."""


def prove_for_others(
    packs: Collection[PackId], run: UUID, *, site: Site, stop: StopToken
) -> list[PackProof]:
    """What a worker elsewhere does: read, open and hash, and hand the findings back.

    While it does, it shows every few seconds that it is alive; nothing is written down here.

    Raises:
        ShareUnreachable, WrongKey: The store cannot be opened from here.
        Exception: The server does not take the findings; the packs are proved again.
    """
    found: list[PackProof] = []
    with handing_out.handing_back(run, lambda: f"{len(found)} proved") as hand_back:
        with site.data_store.open() as store:
            for proof in prove_packs(store, packs, clock=system_clock, stop=stop):
                found.append(proof)
        hand_back(msgspec.json.encode(found).decode())
    return found


def _handed_back(client: SyncPrefectClient, work: HandedOut) -> list[PackProof]:
    """Findings of a run; none if it left none that can be read."""
    with suppress(msgspec.MsgspecError):
        return msgspec.json.decode(handing_out.taken_back(client, work), type=list[PackProof])
    return []


@dataclass
class _Batch:
    """Packs that were handed out.

    Attributes:
        work: The run that has them.
        packs: Which.
        again: Whether they were handed out before, to a worker that died.
    """

    work: HandedOut
    packs: tuple[PackId, ...]
    again: bool


@dataclass
class OtherWorkers:
    """Workers that prove for a site, as many runs at once as its settings say.

    Attributes:
        site: The installation.
        at_once: How many runs.
        stop: Looked at while they are waited for.
    """

    site: Site
    at_once: int
    stop: StopToken

    def prove(self, store: DataStore, packs: Collection[PackId]) -> Iterator[PackProof]:
        """One proof for each of the packs, in the order in which they come back.

        Args:
            store: For a second look, and for what nobody hands back.
            packs: Which.
        """
        left = dict.fromkeys(packs)  # whatever no other worker proved, in order
        try:
            for proof in self._from_others(packs):
                if proof.finding is Finding.PROVED and proof.pack in left:
                    del left[proof.pack]
                    yield proof
        except LikenessError:
            raise
        except Exception as cause:  # noqa: BLE001  # whatever ails the server, the packs are read
            get_run_logger().warning("no other worker proves now (%s); it is done here", cause)
        if left:
            yield from prove_packs(store, left, clock=system_clock, stop=self.stop)

    def _from_others(self, packs: Collection[PackId]) -> Iterator[PackProof]:
        all_of_them, most = tuple(packs), -(-len(packs) // self.at_once)
        size = max(min(PACKS_AT_ONCE, most), 1)
        slices = range(0, len(packs), size)
        waiting = deque((all_of_them[at : at + size], False) for at in slices)
        under_way: list[_Batch] = []
        short: list[tuple[PackId, ...]] = []  # what somebody was to prove who died
        somebody_proves = False
        with get_client(sync_client=True) as client:
            deployment = handing_out.deployment_for(client, PROVING_FLOW, self.site.name)
            try:
                while waiting or under_way:
                    while waiting and len(under_way) < self.at_once:
                        batch, again = waiting.popleft()
                        wanted = {"site": self.site.name, "packs": list(batch)}
                        work = handing_out.hand_out(client, deployment, wanted)
                        under_way.append(_Batch(work, batch, again))
                    for each in self._over(client, under_way):
                        under_way.remove(each)
                        left = yield from self._findings(client, each)
                        somebody_proves = somebody_proves or len(left) < len(each.packs)
                        short += [left] if left and not each.again else []
                    if somebody_proves:
                        waiting.extend((each, True) for each in short)
                        short.clear()
                    if self.stop.wait(handing_out.LOOK_EVERY_SECONDS):
                        self.stop.check()
            finally:
                for each in under_way:  # nobody waits for them any more
                    with suppress(Exception):
                        client.set_flow_run_state(each.work.run, Cancelling())

    def _over(self, client: SyncPrefectClient, under_way: list[_Batch]) -> list[_Batch]:
        return [batch for batch in under_way if handing_out.is_over(client, batch.work)]

    def _findings(
        self, client: SyncPrefectClient, batch: _Batch
    ) -> Generator[PackProof, None, tuple[PackId, ...]]:
        """Proofs that came back; of which packs none did."""
        meant = dict.fromkeys(batch.packs)
        for proof in _handed_back(client, batch.work):
            if proof.pack in meant:
                del meant[proof.pack]
                yield proof
        if meant:
            get_run_logger().warning(
                "%s came back from no worker; proved by another one, or here",
                counted(len(meant), "pack"),
            )
        return tuple(meant)
