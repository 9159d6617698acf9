"""Proving by other workers: packs are handed out, findings are handed back and recorded here.

A worker elsewhere needs the site's blocks, the store and its key file; it never opens the catalog.
What a worker calls damaged or missing is looked at again here before anybody believes it; what it
does not hand back, because it died or never began, is proved here.
"""

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from uuid import UUID

import msgspec
from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact, State
from prefect.states import Cancelled, Cancelling

from blocks import Site
from likeness.clock import stopwatch, system_clock
from likeness.errors import LikenessError
from likeness.model.ids import PackId
from likeness.model.sizes import counted
from likeness.stopping import StopToken
from likeness.store.check.proving import Finding, PackProof, prove_packs
from likeness.store.format.data_store import DataStore
from tasks.overdue_jobs import deployed
from tasks.progress import every_few_seconds

PROVING_FLOW = "prove-packs"
PACKS_AT_ONCE = 64
"""So many packs are handed to a worker in one run: about a GiB."""
_KIND = "findings"
_LOOK_EVERY_SECONDS = 1.0
_BEGIN_WITHIN_SECONDS = 180.0
_SILENT_SECONDS = 60.0  # without a sign of life: its worker is gone


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
    with get_client(sync_client=True) as client:
        mine = client.create_artifact(ArtifactCreate(type=_KIND, data="", flow_run_id=run)).id

    def alive() -> None:
        with suppress(Exception), get_client(sync_client=True) as client:
            client.update_artifact(mine, ArtifactUpdate(description=f"{len(found)} proved"))

    with every_few_seconds(alive, "findings"), site.data_store.open() as store:
        for proof in prove_packs(store, packs, clock=system_clock, stop=stop):
            found.append(proof)
    text = msgspec.json.encode(found).decode()
    with get_client(sync_client=True) as client:
        client.update_artifact(mine, ArtifactUpdate(data=text))
    return found


def _left_by(client: SyncPrefectClient, run: UUID) -> Artifact | None:
    """What a run has left at the server so far."""
    mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    return next((e for e in client.read_artifacts(artifact_filter=mine) if e.type == _KIND), None)


def _handed_back(client: SyncPrefectClient, run: UUID) -> list[PackProof]:
    """Findings of a run, taken from the server; none if it left none that can be read."""
    left = _left_by(client, run)
    if left is None:
        return []
    with suppress(Exception):
        client.delete_artifact(left.id)
    with suppress(msgspec.MsgspecError):
        return msgspec.json.decode(str(left.data), type=list[PackProof])
    return []


@dataclass
class _Batch:
    """Packs that were handed out.

    Attributes:
        sign: Of life, the last that was seen.
        since: When that was.
    """

    run: UUID
    packs: tuple[PackId, ...]
    sign: object = None
    since: float = field(default_factory=stopwatch)


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
        waiting, under_way = iter(packs), list[_Batch]()
        size = min(PACKS_AT_ONCE, -(-len(packs) // (2 * self.at_once)))
        with get_client(sync_client=True) as client:
            deployment = self._deployment(client)
            try:
                while True:
                    while len(under_way) < self.at_once:
                        if not (batch := tuple(islice(waiting, size))):
                            break
                        under_way.append(self._handed_out(client, deployment, batch))
                    if not under_way:
                        return
                    for each in [each for each in under_way if self._is_over(client, each)]:
                        under_way.remove(each)
                        yield from self._findings(client, each)
                    self.stop.check()
                    if self.stop.wait(_LOOK_EVERY_SECONDS):
                        self.stop.check()
            finally:
                for each in under_way:  # nobody waits for them any more
                    with suppress(Exception):
                        client.set_flow_run_state(each.run, Cancelling())

    def _findings(self, client: SyncPrefectClient, batch: _Batch) -> Iterator[PackProof]:
        meant = set(batch.packs)
        for proof in _handed_back(client, batch.run):
            if proof.pack in meant:
                meant.discard(proof.pack)
                yield proof
        if meant:
            get_run_logger().warning(
                "%s came back from no worker; proved here", counted(len(meant), "pack")
            )

    def _deployment(self, client: SyncPrefectClient) -> UUID:
        for each in deployed(client):
            of = each.deployment.parameters.get("site", "main")
            if each.flow == PROVING_FLOW and of == self.site.name:
                return each.deployment.id
        raise LookupError(f"there is no deployment of {PROVING_FLOW} for site {self.site.name}")

    def _handed_out(
        self, client: SyncPrefectClient, deployment: UUID, packs: tuple[PackId, ...]
    ) -> _Batch:
        parameters = {"site": self.site.name, "packs": list(packs)}
        run = client.create_flow_run_from_deployment(deployment, parameters=parameters)
        return _Batch(run.id, packs)

    def _is_over(self, client: SyncPrefectClient, batch: _Batch) -> bool:
        """Whether nothing more is to be waited for; a run that hangs is given up."""
        state = client.read_flow_run(batch.run).state
        if state is None or state.is_final():
            return True
        left = _left_by(client, batch.run)
        sign = left.updated if left is not None else None
        if sign != batch.sign:
            batch.sign, batch.since = sign, stopwatch()
        patience = _SILENT_SECONDS if sign is not None else _BEGIN_WITHIN_SECONDS
        if stopwatch() - batch.since < patience:
            return False
        with suppress(Exception):
            gone: State[Any] = Cancelled(message="no sign of life; its packs are proved by others")
            client.set_flow_run_state(batch.run, gone, force=True)
        return True
