"""A new site: looked at whole before anything is made; a try that was cut short is gone on with."""

import json
import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from httpx import HTTPError, HTTPStatusError
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from blocks import CatalogFile, DataStoreShare, Guest, Site, SiteBlock, Vault, XenPool
from blocks.loading import one_client
from catalog import schema
from likeness.clock import system_clock
from likeness.errors import BadInput
from likeness.store.format.data_store import DataStore
from likeness.store.format.opening import create_store, require_empty
from likeness.store.keys.half_made import finish_store, try_out
from likeness.store.repair.second_place import require_second_place
from likeness.transport.base import Transport

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MAX_NAME = 60


@dataclass(frozen=True, slots=True)
class NewSite:
    """A site just made.

    Attributes:
        site: Saved under its name.
        recovery_words: What opens the store when everything else is lost; kept nowhere.
        fingerprint: Of the store's public key, for the recovery sheet.
    """

    site: Site
    recovery_words: str = field(repr=False)
    fingerprint: str


@one_client()
def set_up_site(
    name: str,
    *,
    pool: XenPool,
    data_store: DataStoreShare,
    folder: Path,
    vault: Vault | None = None,
) -> NewSite:
    """Make an empty store and its key file, a catalog, and save the blocks under `name`.

    Everything is looked at before anything is made. What a try left that was cut short, a second
    one for the same name and places goes on with; the recovery words it gives are new.

    Args:
        name: What flows will be given: lower-case letters, digits and dashes.
        pool: Where the VMs are; logged in to once, to see that it answers.
        data_store: An empty place, and a key file that does not exist yet.
        folder: For the catalog, on a local disk; must not hold one yet.
        vault: A second place, if there is one; written to once.

    Raises:
        BadInput: The name, the folder or the key file cannot be, or Prefect does not answer;
            nothing was made.
        LoginRefused, HostUnreachable: The pool does not let us in; nothing was made.
        StoreExists: The place is not empty; nothing was made.
        ShareRefused: The place or the vault takes nothing, or they are one; nothing was made.
    """
    catalog = CatalogFile(folder=str(folder.absolute()))
    blocks = {"xen-pool": pool, "data-store": data_store, "catalog": catalog, "vault": vault}
    begun = BegunSite(folder.absolute() / "set-up", name, data_store)
    require_folders(begun, catalog, data_store)
    with pool.open():
        pass
    require_prefect(name, begun)
    with connected(data_store) as place:
        if not begun.before:
            require_empty(place)
        try_out(place)
        try_vault(vault, place)
        begun.note()
        store, words = _store(begun, place, data_store, catalog)
    catalog.ready(system_clock)
    save_site(name, blocks)
    begun.over()
    return NewSite(Site.named(name), words, store.keys.public().fingerprint)


class BegunSite:
    """A note beside the catalog that a site is being made: for which name, and where."""

    def __init__(self, path: Path, name: str, data_store: DataStoreShare) -> None:
        self.path = path
        self._text = json.dumps([name, data_store.place, data_store.key_file]) + "\n"
        self.before = path.is_file() and path.read_text(errors="replace") == self._text

    def note(self) -> None:
        """Write it down, before anything is made."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.write_text(self._text)

    def over(self) -> None:
        """Everything is made."""
        self.path.unlink()


def require_folders(begun: BegunSite, catalog: CatalogFile, data_store: DataStoreShare) -> None:
    """See that the catalog and the key file can be written, and that none is there.

    Raises:
        BadInput: They cannot; nothing was made.
    """
    folder, key_file = Path(catalog.folder), Path(data_store.key_file)
    if not begun.before:
        if schema.exists(catalog.file):
            raise BadInput(
                f"{folder} holds a catalog already; choose another folder for a new site"
            )
        if key_file.exists():
            raise BadInput(
                f"{key_file} exists already, and may open another store; choose another key file"
            )
    for wanted in (folder, key_file.parent):
        there = next(each for each in (wanted, *wanted.parents) if each.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise BadInput(
                f"{wanted} cannot be written: {there} is no folder, or not this user's; correct"
                " that, or choose another folder"
            )


def require_prefect(name: str, begun: BegunSite) -> None:
    """Ask Prefect before anything is made, also for the types of all blocks.

    Raises:
        BadInput: It does not answer, would not take the name, or has a site of it.
    """
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
        raise BadInput(
            f"a site cannot be called {name!r}; use lower-case letters, digits and single dashes,"
            f" {_MAX_NAME} at most"
        )
    try:
        for kind in (XenPool, DataStoreShare, CatalogFile, Vault, Guest, SiteBlock):
            kind.register_type_and_schema()
        taken = _is_saved(name)
    except HTTPStatusError as cause:
        raise BadInput(
            f"Prefect at {PREFECT_API_URL.value()} refuses this ({cause.response.status_code}), so"
            " nothing was made; see PREFECT_API_AUTH_STRING, which must be the server's"
        ) from cause
    except (HTTPError, RuntimeError) as cause:
        raise BadInput(
            f"Prefect does not answer at {PREFECT_API_URL.value() or 'its own port'}, so nothing"
            " was made; start it with `prefect server start`, or correct PREFECT_API_URL"
        ) from cause
    if taken and not begun.before:
        raise BadInput(
            f"there is a site {name!r} already, and nothing was made; choose another name, or"
            " change that one with likeness settings"
        )


def _is_saved(name: str) -> bool:
    with get_client(sync_client=True) as client:
        try:
            client.read_block_document_by_name(name, SiteBlock.get_block_type_slug())
        except ObjectNotFound:
            return False
    return True


@contextmanager
def connected(share: DataStoreShare | Vault) -> Generator[Transport, None, None]:
    """The place, without opening a store there, for as long as the `with` lasts."""
    transport = share.connect()
    try:
        yield transport
    finally:
        transport.close()


def try_vault(vault: Vault | None, place: Transport) -> None:
    """Log in to the vault, write there, and see that it is not the data store by another path."""
    if vault is not None:
        with connected(vault) as second:
            try_out(second)
            require_second_place(place, second)


def _store(
    begun: BegunSite, place: Transport, data_store: DataStoreShare, catalog: CatalogFile
) -> tuple[DataStore, str]:
    """The new store, or the one that an earlier try made, and its recovery words."""
    key_file = Path(data_store.key_file)
    if begun.before and (found := finish_store(place, key_file)):
        return found
    made = create_store(
        place,
        key_file=key_file,
        clock=system_clock,
        installation=catalog.installation(lambda: ""),
    )
    return made.store, made.recovery_words


def save_site(
    name: str, blocks: Mapping[str, Block | None], settings: Mapping[str, Any] | None = None
) -> None:
    """Save the blocks of a site, by role, and the Site block that names them."""
    for role, block in blocks.items():
        if block is not None:
            block.save(f"{name}-{role}", overwrite=True)
    SiteBlock(
        xen_pool=f"{name}-xen-pool",
        data_store=f"{name}-data-store",
        catalog=f"{name}-catalog",
        vault=f"{name}-vault" if blocks["vault"] else "",
        mail=f"{name}-mail" if blocks.get("mail") else "",
        **(settings or {}),
    ).save(name, overwrite=True)
