"""`likeness pull`: a machine beside the vault that fetches its copies itself.

It has an account that may only read the data store, and a vault of its own; nothing at the source
can change or delete what lies there. In place of a key it has a vault file, which opens nothing; a
copy of the key file will do, too.
"""

import sys
from pathlib import Path

from pydantic import SecretStr

from blocks import CatalogFile, DataStoreShare, Site, SiteBlock, Vault
from flows.new_site import BegunSite, require_prefect, try_vault
from likeness.cli.options import PATH, Option, Options, verb
from likeness.cli.running import run_alone
from likeness.cli.terminal import ask_secret, say
from likeness.clock import system_clock
from likeness.errors import BadInput
from likeness.stopping import StopToken
from likeness.store.format.public_view import PublicStore
from likeness.store.format.vault_file import require_own_documents
from likeness.transport.place import needs_account

NO_POOL = "no-pool"
"""Stands in the Site block for a pool: such a site backs nothing up."""


def set_up_pull(name: str, *, data_store: DataStoreShare, vault: Vault, folder: Path) -> Site:
    """Save the blocks of a site that only fills a vault; safe to repeat for another vault.

    Args:
        name: Of the site.
        data_store: With an account that may read, and a vault file, or a key file, that is there.
        vault: Where the copies go; written to once.
        folder: For the catalog of this machine.

    Raises:
        BadInput: Prefect does not answer or has a site of that name, or there is no such file.
        WrongKey, StoreMissing, ShareUnreachable: The data store does not open.
        NoVault: The vault is the data store.
    """
    catalog = CatalogFile(folder=str(folder.absolute()))
    require_prefect(name, BegunSite(folder.absolute() / "set-up", name, data_store))
    if not Path(data_store.key_file).is_file():
        raise BadInput(
            f"there is no {data_store.key_file}; make a vault file with likeness vault-file where"
            " the data store's jobs run, and copy it there"
        )
    reading = data_store.model_copy(update={"read_only": True})
    with reading.look() as store:
        try_vault(vault, store.transport)
        if isinstance(store, PublicStore):
            require_own_documents(reading.vault_file(), store)
    catalog.ready(system_clock)
    reading.save(f"{name}-data-store", overwrite=True)
    vault.save(f"{name}-vault", overwrite=True)
    catalog.save(f"{name}-catalog", overwrite=True)
    SiteBlock(
        xen_pool=NO_POOL,
        data_store=f"{name}-data-store",
        catalog=f"{name}-catalog",
        vault=f"{name}-vault",
    ).save(name, overwrite=True)
    return Site.named(name)


def run(options: Options, _stop: StopToken) -> int:
    """Ask for what is not given, and save the blocks."""
    store = DataStoreShare(
        place=options.store,
        username=options.store_account,
        password=_password(options.store, options.store_account),
        key_file=str(_one_file(options).absolute()),
    )
    vault = Vault(
        place=options.vault,
        username=options.vault_account,
        password=_password(options.vault, options.vault_account),
    )
    set_up_pull(options.name, data_store=store, vault=vault, folder=options.folder.absolute())
    say(f"Saved as site {options.name}: schedule the deployments vault and check-vault for it.")
    return 0


def _one_file(options: Options) -> Path:
    """The vault file, or the key file.

    Raises:
        BadInput: Neither is given, or both.
    """
    given = [each for each in (options.vault_file, options.key_file) if each is not None]
    if len(given) != 1:
        raise BadInput(
            "give --vault-file FILE, as likeness vault-file made it where the jobs run; or"
            " --key-file FILE, on a machine that may open what it copies"
        )
    return Path(given[0])


def _password(place: str, account: str) -> SecretStr:
    return SecretStr(
        ask_secret(f"Password of {account} at {place}") if needs_account(place) else ""
    )


COMMAND = verb(
    "pull",
    "Let this machine fetch copies of a data store into a vault of its own, with an account that"
    " may only read. Passwords are asked for: the data store's, then the vault's.",
    run,
    [
        Option("--name", default="main", help="of the site here (main)"),
        Option(
            "--store", required=True, metavar="PLACE", help="the data store, such as smb://nas/ads"
        ),
        Option("--store-account", default="", help="an account that may only read"),
        Option(
            "--vault-file",
            type=PATH,
            metavar="FILE",
            help="as likeness vault-file made it where the jobs run; it opens nothing",
        ),
        Option(
            "--key-file",
            type=PATH,
            metavar="FILE",
            help="in its place: a copy of the key file, for a machine that may open what it copies",
        ),
        Option("--vault", required=True, metavar="PLACE", help="a folder or share of this side"),
        Option("--vault-account", default="", help="of that share"),
        Option(
            "--folder",
            type=PATH,
            default="/var/lib/likeness",
            metavar="FOLDER",
            help="for the catalog, on a local disk (/var/lib/likeness)",
        ),
    ],
)

if __name__ == "__main__":
    sys.exit(run_alone(COMMAND))
