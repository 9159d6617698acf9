"""The vault's own retention: which versions it keeps, whatever the data store keeps.

A version that the vault gives up is forgotten there as in a data store: a signed statement, then
its record moves, and what only it needed goes later. A vault with rules of its own has a history of
its own, too: it writes its own heads and statements, and takes none of the data store's.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prefect import get_run_logger

from blocks import Site, Vault
from catalog.vaulting import record_vault_contents
from catalog.versions import list_versions
from likeness.clock import system_clock
from likeness.codec.documents import Kind
from likeness.errors import BadInput
from likeness.model.ids import RunId, VersionId, VmId
from likeness.model.retention import Point, Retention, judged, parse_policy
from likeness.model.sizes import counted
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import VersionClear
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.vaults import vault_at
from likeness.store.prune.reclaiming import Reclaim, Reclaimed
from likeness.store.read.index import known_packs
from likeness.store.write.forgetting import finish_moves, forget_versions, read_forgotten
from likeness.store.write.heads import write_head
from tasks.claims import vault_claimed
from tasks.retries import STEP, task
from tasks.transfer import scratch_folder
from tasks.vault import vault_of
from tasks.vault_without_key import require_no_rules

_REASON = "the vault's own rules keep it no longer"
_MAX_SHARE = 1.0
"""Rules that were just set may give up most of a vault, and a person has set them."""


@dataclass(frozen=True, slots=True)
class VaultKept:
    """What the vault's rules did.

    Attributes:
        forgotten: How many versions were given up there.
        kept: How many are there.
        waiting: How many packs wait to be deleted.
        freed_bytes: What went of versions that were given up earlier.
    """

    forgotten: int = 0
    kept: int = 0
    waiting: int = 0
    freed_bytes: int = 0


def rules_of(block: Vault) -> Retention | None:
    """The vault's rules; none where it keeps everything.

    Raises:
        BadInput: Its block says what is no rule.
    """
    if not block.keep.strip():
        return None
    try:
        rules = parse_policy(block.keep)
    except ValueError as cause:
        raise BadInput(f"the vault's block cannot say keep {block.keep[:40]!r}: {cause}") from cause
    return None if rules.keeps_everything else rules


@task(task_run_name="choose what the vault keeps", **STEP)
def wanted_there(*, site: Site) -> frozenset[VersionId] | None:
    """Versions of the data store that the vault is to have; none: all of them.

    What the vault gave up once it does not take again, whatever its rules say now.
    """
    block = vault_of(site)
    if site.data_store.without_key:
        require_no_rules(block.keep)
    rules = rules_of(block)
    if rules is None:
        return None
    points: dict[VmId, list[Point]] = defaultdict(list)
    for row in list_versions(site.catalog.file, system_clock(), None):
        points[row.vm].append(Point(row.version, row.taken_at))
    given_up = _given_up(site, block)
    kept = _kept(points.values(), rules)
    return frozenset(VersionId(each) for each in kept if each not in given_up)


def _given_up(site: Site, block: Vault) -> set[str]:
    transport = block.connect()
    try:
        with site.data_store.open() as store:
            said = read_forgotten(vault_at(store, transport))
            return {name.rpartition("-")[2] for name in said.now}
    finally:
        transport.close()


@task(task_run_name="keep by the vault's rules", **STEP)
def keep_by_rules(run: RunId, *, site: Site, stop: StopToken) -> VaultKept:
    """Forget at the vault what its rules keep no longer, and delete what waited long enough.

    Nothing that any version there needs goes: it is looked at once more before it is deleted.

    Raises:
        BadInput: The site has no vault, or its block says what is no rule.
        ReclaimStopped: Something at the vault is not as it should be; nothing more is deleted.
        ShareUnreachable: The vault does not answer; tried again.
    """
    block = vault_of(site)
    if site.data_store.without_key:
        require_no_rules(block.keep)
    rules = rules_of(block)
    if rules is None:
        return VaultKept()
    transport = block.connect()
    try:
        with (
            vault_claimed(site),
            site.data_store.open() as store,
            scratch_folder(site, run) as scratch,
        ):
            vault = vault_at(store, transport, unfinished=False)
            if not vault.facts.vault:
                return VaultKept()  # nothing was copied there yet
            if not store.read_only:  # whoever lost the data store deletes nothing there either
                vault.fence = lambda _: store.require_writable()
            finish_moves(vault)
            records = _records(vault)
            kept = _kept(([p for _, p in each] for each in records.values()), rules)
            of_all = [pair for each in records.values() for pair in each]
            going = [name for name, point in of_all if point.version not in kept]
            done = forget_versions(vault, going, reason=_REASON, clock=system_clock)
            write_head(vault, clock=system_clock)
            found = _reclaimed(vault, run, scratch, stop)
            write_head(vault, clock=system_clock)
    finally:
        transport.close()
    there = [VersionId(p.version) for name, p in of_all if name not in set(done.gone)]
    record_vault_contents(site.catalog.file, block.place, there, system_clock())
    for name, why in done.kept.items():
        get_run_logger().warning("%s stays in the vault: %s", name, why)
    get_run_logger().info("%s given up at the vault", counted(len(done.gone), "version"))
    return VaultKept(len(done.gone), len(there), len(found.waiting), found.freed_bytes)


def _kept(points: Iterable[list[Point]], rules: Retention) -> set[str]:
    now = system_clock()
    return {
        each.point.version
        for of_vm in points
        for each in judged(of_vm, rules, now=now, zone=UTC)
        if not each.goes
    }


def _records(vault: DataStore) -> dict[VmId, list[tuple[str, Point]]]:
    """Versions at the vault by VM, each with its record's name; what cannot be read stays."""
    found: dict[VmId, list[tuple[str, Point]]] = defaultdict(list)
    for entry in vault.transport.entries(layout.VERSIONS):
        if layout.is_known(entry.name):
            try:
                clear, _ = vault.read_surely(entry.name, Kind.VERSION, VersionClear)
            except UNREADABLE:
                continue
            point = Point(clear.version, datetime.fromisoformat(clear.taken_at))
            found[VmId(clear.vm)].append((entry.name, point))
    return found


def _reclaimed(vault: DataStore, run: RunId, scratch: Path, stop: StopToken) -> Reclaimed:
    work = Reclaim(
        vault,
        run,
        system_clock,
        scratch,
        stop=stop,
        most_share=_MAX_SHARE,
        many=sys.maxsize,  # its index is the data store's: what goes would be copied again
    )
    return work.work([pack.pack for pack in known_packs(vault, damaged=lambda _: None)])
