"""Heal: what is damaged is fetched from where it is whole, and proved in its new place.

Another copy in the store serves by itself as soon as it is proved; so what is left to do is to ask
the vault. What the vault does not have either, the next backup sends again if a disk still has it;
records and block maps are in no disk, and stay as they are.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prefect import get_run_logger

from blocks import Site
from catalog.audits import open_troubles, troubles_over
from catalog.chunks import damaged_ids, whole_in_damaged_packs
from catalog.planning import DocumentsDue, documents_to_heal
from catalog.reconciling import versions_are_back
from catalog.recording_packs import record_packs
from likeness.clock import system_clock
from likeness.errors import (
    Damaged,
    ShareFull,
    ShareRefused,
    StoreMissing,
    TransientError,
    WrongKey,
)
from likeness.model.ids import RunId
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.repair.healing import heal_chunks
from likeness.store.repair.healing_documents import STATEMENTS, DocumentHealer
from likeness.store.write.needs_listing import has_needs_lists
from tasks.ages import age_limit
from tasks.claims import store_claimed, store_gate
from tasks.proving import Prover, Validated
from tasks.retries import STEP, task
from tasks.transfer import scratch_folder

_INDEX = f"{layout.INDEX}/"
_NOT_THIS_TIME = (StoreMissing, WrongKey, ShareRefused, ShareFull, Damaged, TransientError)


@dataclass(frozen=True, slots=True)
class Healed:
    """What became of the damage.

    Attributes:
        wanted: Damaged data blocks there were.
        found: How many the vault gave back.
        broken: Versions whose record or block maps were not whole.
        documents: How many records, block maps, index segments and statements were put back.
        validated: What proving all of it in its new place showed.
        problem: Why the vault could not be asked; empty if it could.
    """

    wanted: int = 0
    found: int = 0
    broken: int = 0
    documents: int = 0
    validated: Validated = field(default_factory=Validated)
    problem: str = ""


@task(task_run_name="heal from the vault", **STEP)
def heal_damage(this: RunId, *, site: Site, stop: StopToken) -> Healed:
    """Fetch what is damaged from the vault, and prove it in its new place.

    Data blocks go into new packs; records, block maps, index segments and statements under their
    own names, after what lies there was set aside. Safe to repeat: what was healed is not damaged
    any more. Versions turn green with the proof, all in one transaction, and never before.
    """
    log = get_run_logger()
    chunks = damaged_ids(site.catalog.file)
    documents = documents_to_heal(site.catalog.file, system_clock())
    troubled = [trouble.name for trouble in open_troubles(site.catalog.file)]
    segments = [name for name in troubled if name.startswith(_INDEX)]
    statements = [n for each in STATEMENTS for n in troubled if n.startswith(f"{each}/")]
    if not (chunks or documents or segments or statements) or site.vault is None:
        return Healed(len(chunks), broken=len(documents))
    try:
        with site.data_store.open() as store, _opened_vault(site) as vault:
            healer = _Healer(site, store, vault, this, stop)
            put_back, proved = healer.documents(documents, segments, statements)
            found, proved_too = healer.chunks(chunks)
    except _NOT_THIS_TIME as cause:
        log.warning("nothing could be put back from the vault: %s", cause)
        return Healed(len(chunks), broken=len(documents), problem=str(cause))
    log.info("from the vault: %d of %d data blocks", found, len(chunks))
    log.info("from the vault: %d documents", len(put_back))
    return Healed(len(chunks), found, len(documents), len(put_back), proved.and_then(proved_too))


@task(task_run_name="leave damaged packs", **STEP)
def leave_damaged_packs(this: RunId, *, site: Site, stop: StopToken) -> int:
    """Seal what versions need of damaged packs anew, so that they need none of those any more.

    Only where needs lists are written: who holds no key copies whole packs alone. What is damaged
    itself waits for the vault or the next backup. Safe to repeat.

    Returns:
        How many data blocks are proved in new packs.
    """
    with site.data_store.open() as store:
        wanted = whole_in_damaged_packs(site.catalog.file) if has_needs_lists(store) else set()
        if not wanted:
            return 0
        found, _ = _Healer(site, store, store, this, stop).chunks(wanted)
    get_run_logger().info("%d data blocks left damaged packs for new ones", found)
    return found


@dataclass(frozen=True, slots=True)
class _Healer:
    site: Site
    store: DataStore
    vault: DataStore
    run: RunId
    stop: StopToken

    def documents(
        self,
        broken: Sequence[DocumentsDue],
        segments: Sequence[str],
        statements: Sequence[str],
    ) -> tuple[list[str], Validated]:
        """Put documents back; their names, and what proving them showed."""
        healer = DocumentHealer(self.store, self.vault, self.stop, problem=_say)
        for each in broken:
            healer.heal_version(each.record)
        for name in segments:
            healer.heal_segment(name)
        for name in statements:
            with store_claimed(self.site), store_gate(self.site):
                healer.heal_statement(name)
        if not healer.healed:
            return [], Validated()
        troubles_over(self.site.catalog.file, healer.healed, system_clock())
        versions = [each.version for each in broken]
        back = [each.version for each in broken if each.record in healer.healed]
        versions_are_back(self.site.catalog.file, back, system_clock())
        with scratch_folder(self.site, self.run) as scratch:
            checks = self._prover().documents(versions, scratch, all_of_them=True)
        return healer.healed, self._prover().judge(versions, checks)

    def chunks(self, wanted: set[bytes]) -> tuple[int, Validated]:
        """Put data blocks into new packs; how many, and what proving them showed."""
        if not wanted:
            return 0, Validated()
        healing = heal_chunks(
            self.store,
            self.vault,
            wanted,
            run=self.run,
            clock=system_clock,
            stop=self.stop,
            problem=_say,
        )
        record_packs(self.site.catalog.file, healing.packs, system_clock())
        return len(healing.found), self._prover().prove([pack.pack for pack in healing.packs])

    def _prover(self) -> Prover:
        return Prover(
            self.site.catalog.file,
            self.store,
            age_limit(self.site.revalidate_after),
            system_clock,
            self.stop,
        )


def _say(problem: str) -> None:
    get_run_logger().warning("there too: %s", problem)


@contextmanager
def _opened_vault(site: Site) -> Generator[DataStore, None, None]:
    if site.vault is None:
        raise StoreMissing("this site has no vault")
    transport = site.vault.connect()
    try:
        yield open_store_with_key_file(transport, Path(site.data_store.key_file))
    finally:
        transport.close()
