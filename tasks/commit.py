"""Commit: what a transfer brought becomes a version, on the share first, then in the catalog."""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice

from prefect import get_run_logger
from prefect.runtime import task_run

from blocks import Site
from catalog.chunks import closest_vm
from catalog.reconciling import highest_sequence
from catalog.values import VersionRow
from catalog.versions import list_versions
from likeness.clock import system_clock
from likeness.errors import LikenessError
from likeness.model.ids import PackId, RunId, VmId
from likeness.store.read.versions import Version
from likeness.store.write.commit import commit_version as commit
from likeness.store.write.free_text import cut_texts
from likeness.store.write.receipts import TransferReceipt
from tasks.claims import store_gate
from tasks.known_ids import copies_of
from tasks.remember import remember_received, remember_version
from tasks.retries import STEP, task

_LINE = 1 << 16
"""Characters of one message in the log; Prefect drops those of a million bytes."""
_ASKED = 64
"""Data blocks that are asked for to learn which VM a new one is like."""


@dataclass(frozen=True, slots=True)
class Committed:
    """A new version.

    Attributes:
        version: As the store has it.
        packs: What it brought.
        receipt: What it was made of; none if an earlier attempt of the run had made another
            already, which was given back.
    """

    version: Version
    packs: tuple[PackId, ...]
    receipt: TransferReceipt | None


@task(task_run_name="commit {receipt.vm.name}", **STEP)
def commit_version(receipt: TransferReceipt, *, site: Site) -> Committed:
    """Make a transfer permanent, in the store; from then on the VM is done, whatever follows.

    Raises:
        ShareUnreachable: The store went away; tried again.
        SharedDataGone: What was not sent is not there any more; transfer it again.
        CatalogBusy: Another process holds the catalog, which knows the highest number ever given.
    """
    for what, whole in cut_texts(receipt):
        _log_whole(receipt.vm.name[:80], what, whole)
    with site.data_store.open() as store:
        above = highest_sequence(site.catalog.file, receipt.vm.vm)
        again = (task_run.run_count or 1) > 1  # what the first attempt left must be seen
        version = commit(
            store,
            receipt,
            clock=system_clock,
            above=above,
            gate=partial(store_gate, site),
            copies=partial(copies_of, site),
            listed=None if again else receipt.listed,
        )
    packs = tuple(pack.pack for pack in receipt.packs)
    get_run_logger().info("%s: version %s", receipt.vm.name, version.version[:8])
    mine = version.taken_at == receipt.taken_at
    return Committed(version, packs, receipt if mine else None)


@task(task_run_name="record {committed.version.record.vm_name} in the catalog", **STEP)
def record_committed(committed: Committed, *, site: Site) -> str:
    """Tell the catalog of a version; if that fails, the next run catches up from the store.

    Returns:
        Which VM a new VM is most like, in words, if the store had data of it; else nothing.

    The order matters. The store is the truth and the catalog can be rebuilt from it, so a crash
    between the two loses nothing.

    Raises:
        ShareUnreachable: The store went away; tried again.
        CatalogBusy: Another process holds the catalog; tried again.
    """
    if committed.receipt is not None:
        remember_received(site, committed.version, committed.receipt)
        return _closest_vm(committed.receipt, site)
    with site.data_store.open() as store:
        remember_version(site, store, committed.version)
    return ""


def _closest_vm(receipt: TransferReceipt, site: Site) -> str:
    """From a few of the data blocks that a first version had no need to send."""
    shared = receipt.relied_on
    if receipt.last is not None or shared is None or not shared.chunks:
        return ""
    some = islice(shared, 0, None, max(shared.chunks // _ASKED, 1))
    with suppress(LikenessError):  # the version is recorded
        if name := closest_vm(site.catalog.file, some, receipt.vm.vm):
            return f"most of what the store had already is of VM {name!r}"
    return ""


def made_by_this_run(run: RunId, *, site: Site) -> dict[VmId, VersionRow]:
    """The versions that an earlier attempt of a run has made, by VM."""
    return {row.vm: row for row in list_versions(site.catalog.file, system_clock(), None, run=run)}


def _log_whole(vm: str, what: str, whole: str) -> None:
    """Keep what a version record is too short for."""
    log = get_run_logger()
    log.warning("%s: its %s is too long for the version and stands cut there; in full:", vm, what)
    for start in range(0, len(whole), _LINE):
        log.warning("%s", whole[start : start + _LINE].encode(errors="replace").decode())
