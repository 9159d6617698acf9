"""A lost installation brought back: its key, its memory, its ownership and its blocks.

Whatever can go wrong is looked for first. A try that was cut short is gone on with by the next one
for the same name and places: each step is safe to repeat.
"""

import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from prefect.blocks.core import Block
from pydantic import ValidationError

from blocks import CatalogFile, DataStoreShare, Site, Vault, XenPool
from catalog import schema
from catalog.connection import make_room
from catalog.reconciling import doubt_everything
from catalog.runs import last_runs
from catalog.session import catalog_session
from catalog.staging import private_folder
from catalog.values import VersionRow
from catalog.versions import list_versions
from flows.new_site import (
    BegunSite,
    connected,
    require_folders,
    require_prefect,
    save_site,
    try_vault,
)
from likeness.clock import system_clock
from likeness.errors import BadInput, LikenessError, StoreSetBack, WrongKey
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import OwnerDocument
from likeness.store.format.opening import claimed_store, open_store_with_key_file
from likeness.store.format.owning import newest_owner, owners, take_over
from likeness.store.keys.keyring import add_key_file
from likeness.store.repair.vault_taken import as_data_store
from likeness.store.write.heads import read_head_state, write_head
from likeness.store.write.history import expect_head, read_history
from likeness.store.write.kept_installation import newest_installation
from likeness.transport.base import Transport
from tasks.catch_up import bring_together
from tasks.installation import KeptInstallation, deploy_again, save_mail_account, save_webhook
from tasks.mend_catalog import WHAT_THE_STORE_SAYS, newest_copy

Opener = Callable[[Transport], DataStore]
"""Opens the store at a place with what is at hand: words, a key file, a passphrase."""

_STALE = timedelta(days=30)
_RUNS = 200


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a recovery found, and did if it was no rehearsal.

    Attributes:
        site: Saved under its name; none after a rehearsal.
        store: The store's id.
        versions: All of them, unchecked until they are validated.
        memory: Where the catalog comes from, in words.
        added: How many versions only the store knew.
        left_out: What could not be recorded, in words.
        owner: Who owned the store before; none if no document said so.
        head: The store's newest head when it was found, or why there is none to believe.
        jobs: Jobs that ran, with the VMs of their last run.
        deployments: What the newest copy of the catalog knew, and was made again.
        kept: Whether blocks and logins were found in the store.
    """

    site: Site | None
    store: str
    versions: tuple[VersionRow, ...]
    memory: str
    added: int
    left_out: tuple[str, ...]
    owner: OwnerDocument | None
    head: str
    jobs: dict[str, tuple[str, ...]]
    deployments: tuple[str, ...] = ()
    kept: bool = False


def recover(
    name: str,
    *,
    open_with: Opener,
    pool: XenPool | None = None,
    data_store: DataStoreShare,
    folder: Path,
    vault: Vault | None = None,
    expected_head: tuple[int, str] | None = None,
    dry_run: bool = False,
) -> Recovered:
    """Bring a lost installation back from its store, or from its vault, and take the store over.

    From then on the installation that owned it is refused whatever it wants to write, and its
    snapshots in the pool are this one's to use and to sweep.

    Args:
        name: Of the site: what flows will be given.
        open_with: Opens the store.
        pool: Where the VMs are; logged in to once. None: as it is kept in the store.
        data_store: Where the store is, or the vault; and a key file that does not exist yet.
        folder: For the catalog, on a local disk; must not hold one yet.
        vault: The second place, if there is one; written to once, unless it is a rehearsal. None:
            as it is kept in the store.
        expected_head: Number and first digits of a head, as the last report said; the store
            must still know it.
        dry_run: Do all of it that changes nothing: neither the store nor this machine.

    Raises:
        BadInput: The name, the folder or the key file cannot be, or Prefect does not answer;
            nothing was made.
        LoginRefused, HostUnreachable: The pool does not let us in; nothing was made.
        StoreMissing, WrongKey, ShareUnreachable: The store does not open; nothing was made.
        StoreTakenOver: Somebody else took the store over at the same moment.
        StoreSetBack: The store does not know the witness; nothing was made.
    """
    catalog = CatalogFile(folder=str(folder.absolute()))
    begun = BegunSite(folder.absolute() / "recovery", name, data_store)
    require_folders(begun, catalog, data_store)
    require_prefect(name, begun)
    with connected(data_store) as place:
        store = open_with(place)
        store.require_writable()
        _require_head(store, expected_head)
        kept = _kept(store)
        pool = pool or kept.block("xen_pool")
        if pool is None:
            raise BadInput("the store knows no login of a pool; give its address with --pool")
        with pool.open():
            pass
        vault = vault or _kept_vault(kept, data_store)
        if dry_run:
            with TemporaryDirectory(prefix="likeness-rehearsal-") as scratch:
                here = CatalogFile(folder=scratch)
                site = Site(xen_pool=pool, data_store=data_store, catalog=here)
                names = tuple(f"{each['flow']}/{each['name']}" for each in kept.deployments)
                found = _remembered(store, site)
                return replace(found, deployments=names, kept=bool(kept.blocks))
        try_vault(vault, place)
        begun.note()
        store = as_data_store(store)
        _make_key(store, Path(data_store.key_file))
        site = Site(name=name, xen_pool=pool, data_store=data_store, catalog=catalog)
        found = _remembered(store, site)
        _own(store, catalog)
    blocks: dict[str, Block | None] = {
        "xen-pool": pool,
        "data-store": _with_drop_box(data_store, kept),
        "catalog": catalog,
        "vault": vault,
    }
    if kept.mail_account and (mail := kept.block("mail")) is not None:
        blocks["mail"] = mail
        save_mail_account(kept, mail.server)
    no_webhook = save_webhook(kept)
    save_site(name, blocks, kept.settings)
    made, problems = deploy_again(kept, name)
    if vault is not None:
        _share_keys(data_store, vault)
    begun.over()
    return replace(
        found,
        site=Site.named(name),
        deployments=tuple(made),
        left_out=(*found.left_out, *filter(None, (no_webhook,)), *problems),
        kept=bool(kept.blocks),
    )


def _require_head(store: DataStore, expected_head: tuple[int, str] | None) -> None:
    if expected_head is None:
        return
    number, digits = expected_head
    for found in expect_head(read_history(store, whole=True), number, digits):
        raise StoreSetBack(
            f"head {number} {digits} of the last report is {found.cause}: this data store was set"
            " back, or is another; recover from the vault, or leave --head out to take it as it is"
        )


def _share_keys(data_store: DataStoreShare, vault: Vault) -> None:
    """Let the new key file open the vault, too; the next vaulting does the same."""
    with suppress(LikenessError), connected(data_store) as store, connected(vault) as second:
        if claimed_store(second) != claimed_store(store):
            return
        there = {entry.name for entry in second.entries(layout.KEYS)}
        for entry in store.entries(layout.KEYS):
            if layout.is_known(entry.name) and entry.name not in there:
                second.create(entry.name, [store.read(entry.name)])


def _with_drop_box(data_store: DataStoreShare, kept: KeptInstallation) -> DataStoreShare:
    """The place as it was given, and what else was known of it."""
    before = kept.block("data_store")
    if before is None or before.place != data_store.place:
        return data_store
    fields = ("drop_box_username", "drop_box_password")
    return data_store.model_copy(update={each: getattr(before, each) for each in fields})


def _kept(store: DataStore) -> KeptInstallation:
    """What the newest copy of the catalog says of the lost installation; empty if none does."""
    said = newest_installation(store)
    try:
        return KeptInstallation.model_validate_json(said) if said else KeptInstallation()
    except ValidationError:
        return KeptInstallation()


def _kept_vault(kept: KeptInstallation, data_store: DataStoreShare) -> Vault | None:
    """The vault there was, unless it is the store now."""
    vault = kept.block("vault")
    return vault if vault is not None and vault.place != data_store.place else None


def _make_key(store: DataStore, key_file: Path) -> None:
    """A slot and a key file for this machine; a file that an earlier try left may have no slot."""
    if key_file.exists():
        with suppress(WrongKey):
            open_store_with_key_file(store.transport, key_file)
            return
        key_file.unlink()
    key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    add_key_file(store, key_file)


def _remembered(store: DataStore, site: Site) -> Recovered:
    """Make the catalog: of the best copy that the store has, and what that does not know."""
    file = site.catalog.file
    memory = WHAT_THE_STORE_SAYS
    if not schema.exists(file):
        make_room(file)
        with private_folder(file) as folder:
            memory = newest_copy(store, folder, file) or memory
    site.catalog.ready(system_clock)
    doubt_everything(file, system_clock())
    with catalog_session(file):  # opened once for all versions
        added, left_out = bring_together(site, store)
    jobs: dict[str, tuple[str, ...]] = {}
    for run in last_runs(file, _RUNS):
        jobs.setdefault(run.job, tuple(each.name for each in run.vms))
    owner, _ = newest_owner(store)
    return Recovered(
        site=None,
        store=store.store_id,
        versions=tuple(list_versions(file, system_clock(), _STALE)),
        memory=memory,
        added=added,
        left_out=left_out,
        owner=owner,
        head=_head(store),
        jobs=jobs,
    )


def _head(store: DataStore) -> str:
    try:
        return read_head_state(store).short
    except LikenessError as cause:
        return f"no head to be believed: {cause}"


def _own(store: DataStore, catalog: CatalogFile) -> None:
    """Take the store over under a name of its own, so that whoever owned it is told apart."""
    before = [each.installation for each in owners(store)]
    mine = catalog.installation(lambda: "")
    catalog.note_predecessors(dict.fromkeys(each for each in before if each != mine))
    take_over(store, mine, host=socket.gethostname(), clock=system_clock)
    write_head(store, clock=system_clock)
