"""Orders for agents, and the processes that carry them out."""

import asyncio
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from likeness.agent.protocol import PROTOCOL, Header, OrderedDisk
from likeness.agent.remote import AgentFigures, Order, RemoteDisk
from likeness.codec.keys import STORE_SCOPE
from likeness.model.disk import DiskFacts, Skips, VmFacts
from likeness.model.ids import RunId, VmId, random_name
from likeness.stopping import StopToken
from likeness.store.format.maps import FlatMap, positions_of
from likeness.store.format.pack_log import PackLog
from likeness.store.format.relied_on import ReliedOn
from likeness.store.write.receipts import DiskReceipt, TransferReceipt
from likeness.transport.local import LocalTransport
from tests.unit.workshop import PACK, Workshop

AGENT = (sys.executable, "-m", "likeness.agent")


def place_of(workshop: Workshop) -> str:
    assert isinstance(workshop.transport, LocalTransport)
    return str(workshop.transport.root)


@dataclass
class Ordered:
    """One VM whose disks an agent shall send."""

    workshop: Workshop
    paths: Sequence[Path]
    run: RunId
    vm: VmId
    log: PackLog

    @classmethod
    def of(cls, workshop: Workshop, *disks: bytes | Path, vm: VmId | None = None) -> "Ordered":
        run = RunId(random_name())
        paths = [workshop.path_of(disk) for disk in disks]
        log = PackLog(workshop.folder / f"{run}.packs")
        return cls(workshop, paths, run, vm or VmId(random_name()), log)

    def attempt(
        self,
        *,
        stop: StopToken | None = None,
        skips: Skips | None = None,
        known: Path | None = None,
        passed: Callable[[int], None] = lambda _: None,
        command: Sequence[str] = AGENT,
        paths: Mapping[str, str] = MappingProxyType({}),
        **changed: Any,
    ) -> "Attempt":
        shop, disks, told, facts = self.workshop, [], [], []
        for at, path in enumerate(self.paths):
            disk, size = shop.disk_ids[self.vm, at], path.stat().st_size
            previous = shop.previous_map(self.vm, disk)
            new = FlatMap(
                shop.folder / f"{random_name()}.map", positions_of(size, shop.store.chunk_bytes)
            )
            disks.append(RemoteDisk(new, previous, skips if previous else None))
            facts.append(DiskFacts(disk, f"disk {at}", str(at), size))
            told.append(
                OrderedDisk(
                    disk=disk,
                    name=f"disk {at}",
                    position=str(at),
                    path=paths.get(str(path), str(path)),
                    size_bytes=size,
                    previous=previous is not None,
                )
            )
        settings: dict[str, Any] = {
            "protocol": PROTOCOL,
            "run": self.run,
            "store": shop.store.store_id,
            "box": shop.store.keys.public().box.hex(),
            "chunk_id_key": shop.store.keys.chunk_id_key.hex(),
            "scope": STORE_SCOPE.hex(),
            "chunk_bytes": shop.store.chunk_bytes,
            "suite": int(shop.store.suite),
            "level": 1,
            "seed": secrets.token_hex(32),
            "pack_bytes": PACK,
            "workers": 2,
            "place": place_of(shop),
            "username": "",
            "password": "",
            "encrypt": True,
            "disks": tuple(told),
        }
        header = Header(**(settings | changed))
        relied_on = ReliedOn(shop.folder / f"{random_name()}.relied")
        order = Order(
            header,
            disks,
            self.log,
            stop=stop or StopToken(),
            known=known,
            relied_on=relied_on,
            passed=passed,
        )
        return Attempt(self, order, disks, facts, command, relied_on=relied_on)


@dataclass
class Attempt:
    """One agent that carries the order out."""

    ordered: Ordered
    order: Order
    disks: list[RemoteDisk]
    facts: list[DiskFacts]
    command: Sequence[str] = AGENT
    code: int | None = None
    relied_on: ReliedOn | None = None

    def run(
        self, meddle: Callable[[asyncio.subprocess.Process], None] = lambda _: None
    ) -> AgentFigures:
        return asyncio.run(asyncio.wait_for(self._run(meddle), 120))

    async def _run(self, meddle: Callable[[asyncio.subprocess.Process], None]) -> AgentFigures:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*self.command, stdin=pipe, stdout=pipe)
        try:
            assert process.stdout is not None
            assert process.stdin is not None
            meddle(process)
            return await self.order.converse(process.stdout, process.stdin)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            self.code = await asyncio.wait_for(process.wait(), 30)

    def receipt(self, done: AgentFigures) -> TransferReceipt:
        return TransferReceipt(
            run=self.ordered.run,
            job="nightly",
            vm=VmFacts(self.ordered.vm, "web", '{"memory": 1}'),
            taken_at=self.ordered.workshop.clock(),
            consistency="standard",
            consistency_asked="standard",
            note="",
            disks=tuple(
                DiskReceipt(facts, disk.chunk_map, disk.previous)
                for facts, disk in zip(self.facts, self.disks, strict=True)
            ),
            packs=self.ordered.log,
            counts=done.counts,
            from_agent=True,
            relied_on=self.relied_on,
        )
