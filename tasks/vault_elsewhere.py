"""Vaulting by other workers: whose versions each of them copies, and how one does."""

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass

from blocks import Site
from likeness.clock import system_clock
from likeness.errors import ShareFull, ShareRefused
from likeness.model.ids import RunId, VersionId
from likeness.pacing import BandwidthCap
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.repair.copying import Manner, PauseHours, copy_to_vault
from tasks.ages import is_hour
from tasks.vault import vault_of
from tasks.vault_tally import VaultTally


@dataclass(frozen=True, slots=True)
class VersionsToVault:
    """Versions for one worker to copy, with what they need.

    Attributes:
        versions: Their ids.
        workers: How many share the speed that the Vault block allows.
    """

    versions: tuple[VersionId, ...]
    workers: int


@dataclass(frozen=True, slots=True)
class CopiedElsewhere:
    """What one worker copied; what it could not is for the catalog's host to tell."""

    objects: int
    copied_bytes: int
    pack_bytes: int
    versions: tuple[VersionId, ...]


def copy_for_host(
    wanted: VersionsToVault, run: RunId, site: Site, stop: StopToken
) -> CopiedElsewhere:
    """In the run elsewhere; the data store is only read, so no turn at writing to it is taken."""
    del run
    block, tally = vault_of(site), VaultTally()
    speed = block.most_mib_a_second * (1 << 20) / wanted.workers
    manner = Manner(
        cap=BandwidthCap(speed) if speed else None,
        may_go_on=lambda: is_hour(block.at_hours, system_clock()),
        only=frozenset(wanted.versions),
    )
    vault = block.connect()
    try:
        with (
            site.data_store.model_copy(update={"read_only": True}).open() as store,
            suppress(PauseHours, ShareFull, ShareRefused),
        ):
            for copied in copy_to_vault(store, vault, stop=stop, manner=manner):
                tally.add(copied)
    finally:
        vault.close()
    return CopiedElsewhere(
        tally.objects, tally.copied_bytes, tally.pack_bytes, tuple(tally.versions)
    )


def shares_to_copy(site: Site, workers: int) -> list[tuple[VersionId, ...]]:
    """What the vault lacks, for so many workers: a VM's versions share data, and stay together."""
    vault = vault_of(site).connect()
    try:
        there = {entry.name for entry in vault.entries(layout.VERSIONS)}
    finally:
        vault.close()
    lacking: dict[str, list[VersionId]] = defaultdict(list)
    with site.data_store.open() as store:
        for entry in store.transport.entries(layout.VERSIONS):
            if entry.name not in there and layout.is_known(entry.name):
                folder, _, version = entry.name.rpartition("-")
                lacking[folder.rpartition("/")[0]].append(VersionId(version))
    shares: list[list[VersionId]] = [[] for _ in range(workers)]
    for versions in sorted(lacking.values(), key=len, reverse=True):
        min(shares, key=len).extend(versions)
    return [tuple(share) for share in shares if share]
