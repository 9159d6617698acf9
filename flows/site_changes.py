"""What of a site differs from what its file says: blocks, work pools, queues and limits."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker
from pydantic import BaseModel, SecretStr

from blocks import SiteBlock
from blocks.site import SiteSettings
from flows.site_file import UNKNOWN, SiteFile, WorkPool
from likeness.errors import BadInput


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs.

    Attributes:
        kind: Such as ``block`` or ``deployment``.
        name: Which.
        what: ``new``, ``changed`` or ``removed``.
        differences: What differs, in words; no secret is ever in them.
        do: Makes it as the file says.
    """

    kind: str
    name: str
    what: str
    differences: tuple[str, ...]
    do: Callable[[], object]

    def lines(self) -> Iterator[str]:
        """For a person."""
        sign = {"new": "+", "removed": "-"}.get(self.what, "~")
        yield f"{sign} {self.kind} {self.name}: {self.what}"
        yield from (f"      {each}" for each in self.differences)


def block_changes(blocks: Mapping[str, Block]) -> Iterator[Change]:
    """Blocks that are not saved, or saved otherwise; in the order in which they can be saved."""
    for name, wanted in blocks.items():
        kind = type(wanted)
        saved = _saved(kind, name)
        what = f"{kind.get_block_type_name()} block"
        if saved is None:
            unknown = tuple(f"{each}: to be asked for" for each in unknown_secrets(wanted))
            yield Change(what, name, "new", unknown, partial(_save, wanted, name))
            continue
        for field in kind.model_fields:
            if _secret(getattr(wanted, field)) == UNKNOWN:
                setattr(wanted, field, getattr(saved, field))
        if differences := tuple(_differences(saved, wanted)):
            yield Change(what, name, "changed", differences, partial(_save, wanted, name))


def site_block(said: SiteFile, blocks: Mapping[str, Block]) -> SiteBlock:
    """The Site block that names the others.

    Raises:
        BadInput: A setting cannot be.
    """
    name = said.site
    roles: dict[str, Any] = {
        "xen_pool": f"{name}-xen-pool",
        "data_store": f"{name}-data-store",
        "catalog": f"{name}-catalog",
        "vault": f"{name}-vault" if f"{name}-vault" in blocks else "",
        "mail": f"{name}-mail" if f"{name}-mail" in blocks else "",
    }
    try:
        SiteSettings(**said.settings)
        return SiteBlock(**roles, **said.settings)
    except ValueError as cause:
        raise BadInput(f"settings cannot be: {cause}; correct them") from cause


def _saved(kind: type[Block], name: str) -> Block | None:
    try:
        found = kind.load(name, validate=False)
    except ValueError:
        return None
    if not isinstance(found, kind):
        raise TypeError("a site is applied from a program that is not async")
    return found


def _save(block: Block, name: str) -> None:
    if unknown := unknown_secrets(block):
        raise BadInput(f"the {unknown[0]} of {name} is not known; run again at a terminal")
    type(block).register_type_and_schema()
    block.save(name, overwrite=True)


def unknown_secrets(block: Block) -> list[str]:
    """Fields of a block whose secrets nobody was asked for."""
    return [f for f in type(block).model_fields if _secret(getattr(block, f, None)) == UNKNOWN]


def _differences(saved: BaseModel, wanted: BaseModel) -> Iterator[str]:
    for name in type(wanted).model_fields:
        if name.startswith("_"):
            continue
        before, after = getattr(saved, name, None), getattr(wanted, name)
        if isinstance(after, SecretStr) or isinstance(before, SecretStr):
            if _secret(before) != _secret(after):
                yield f"{name}: another secret"
        elif before != after:
            yield f"{name}: {before!r} → {after!r}"


def _secret(value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def pool_changes(client: SyncPrefectClient, pools: Mapping[str, WorkPool]) -> Iterator[Change]:
    """Work pools and queues that are not there, or otherwise."""
    for name, wanted in pools.items():
        try:
            found = client.read_work_pool(name)
        except ObjectNotFound:
            yield Change("work pool", name, "new", (), partial(_make, client, name, wanted))
            continue
        if found.concurrency_limit != wanted.concurrency:
            said = f"concurrency: {found.concurrency_limit} → {wanted.concurrency}"
            yield Change(
                "work pool", name, "changed", (said,), partial(_limit, client, name, wanted)
            )
        yield from _queue_changes(client, name, wanted)


def _make(client: SyncPrefectClient, name: str, wanted: WorkPool) -> None:
    client.create_work_pool(
        WorkPoolCreate(
            name=name,
            type="process",
            base_job_template=ProcessWorker.get_default_base_job_template(),
            concurrency_limit=wanted.concurrency,
        )
    )
    for change in _queue_changes(client, name, wanted):
        change.do()


def _limit(client: SyncPrefectClient, name: str, wanted: WorkPool) -> None:
    client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=wanted.concurrency))


def _queue_changes(client: SyncPrefectClient, pool: str, wanted: WorkPool) -> Iterator[Change]:
    there = {each.name: each for each in client.read_work_queues(work_pool_name=pool)}
    for name, priority in wanted.queues.items():
        found, said = there.get(name), f"priority {priority}"
        if found is None:
            yield Change(
                "queue",
                f"{pool}/{name}",
                "new",
                (said,),
                partial(client.create_work_queue, name, priority=priority, work_pool_name=pool),
            )
        elif found.priority != priority:
            yield Change(
                "queue",
                f"{pool}/{name}",
                "changed",
                (f"priority: {found.priority} → {priority}",),
                partial(client.update_work_queue, found.id, priority=priority),
            )


def limit_changes(client: SyncPrefectClient, limits: Mapping[str, int]) -> Iterator[Change]:
    """Global concurrency limits that are not there, or otherwise."""
    for name, slots in limits.items():
        try:
            found = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            made = GlobalConcurrencyLimitCreate(name=name, limit=slots)
            yield Change(
                "limit",
                name,
                "new",
                (f"{slots} at once",),
                partial(client.create_global_concurrency_limit, made),
            )
            continue
        if found.limit != slots:
            new = GlobalConcurrencyLimitUpdate(limit=slots)
            yield Change(
                "limit",
                name,
                "changed",
                (f"{found.limit} → {slots} at once",),
                partial(client.update_global_concurrency_limit, name, new),
            )
