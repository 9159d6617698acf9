"""Heal: what is damaged is fetched from where it is whole, and proved in its new place.

Another copy in the store serves by itself as soon as it is proved; so what is left to do is to ask
the vault. What the vault does not have either, the next backup sends again if a disk still has it.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prefect import get_run_logger, task

from blocks import Site
from catalog.chunks import damaged_ids
from catalog.recording import record_packs
from likeness.clock import system_clock
from likeness.errors import ShareRefused, StoreMissing, TransientError, WrongKey
from likeness.model.ids import RunId
from likeness.stopping import StopToken
from likeness.store.data_store import DataStore, open_store_with_key_file
from likeness.store.healing import heal_chunks
from tasks.ages import age_limit
from tasks.proving import Prover, Validated
from tasks.retries import STEP


@dataclass(frozen=True, slots=True)
class Healed:
    """What became of the damage.

    Attributes:
        wanted: Damaged data blocks there were.
        found: How many the vault gave back.
        validated: What proving them in their new place showed.
        problem: Why the vault could not be asked; empty if it could.
    """

    wanted: int = 0
    found: int = 0
    validated: Validated = field(default_factory=Validated)
    problem: str = ""


@task(task_run_name="heal from the vault", **STEP)
def heal_damage(this: RunId, *, site: Site, stop: StopToken) -> Healed:
    """Fetch damaged data blocks from the vault into new packs, and prove these.

    Safe to repeat: what was healed is not damaged any more. Versions turn green with the proof of
    the new packs, all in one transaction, and never before.
    """
    wanted = damaged_ids(site.catalog.file)
    if not wanted or site.vault is None:
        return Healed(len(wanted))
    try:
        healed = _heal(wanted, this, site, stop)
    except (StoreMissing, WrongKey, ShareRefused, TransientError) as cause:
        healed = Healed(len(wanted), problem=str(cause))
    if healed.problem:
        get_run_logger().warning("the vault could not be asked: %s", healed.problem)
    else:
        get_run_logger().info("%d of %d from the vault", healed.found, healed.wanted)
    return healed


def _heal(wanted: set[bytes], this: RunId, site: Site, stop: StopToken) -> Healed:
    log = get_run_logger()
    with site.data_store.open() as store, _opened_vault(site) as vault:
        healing = heal_chunks(
            store,
            vault,
            wanted,
            run=this,
            clock=system_clock,
            stop=stop,
            problem=lambda said: log.warning("the vault too: %s", said),
        )
        record_packs(site.catalog.file, healing.packs, system_clock())
        prover = Prover(
            site.catalog.file,
            store,
            site.data_store.open,
            age_limit(site.revalidate_after),
            system_clock,
            stop,
        )
        proved = prover.prove([pack.pack for pack in healing.packs])
    return Healed(len(wanted), len(healing.found), proved)


@contextmanager
def _opened_vault(site: Site) -> Generator[DataStore, None, None]:
    if site.vault is None:
        raise StoreMissing("this site has no vault")
    transport = site.vault.connect()
    try:
        yield open_store_with_key_file(transport, Path(site.data_store.key_file))
    finally:
        transport.close()
