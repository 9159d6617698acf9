"""`python -m flows.pull`: a machine beside the vault that fetches its copies itself.

It has an account that may only read the data store, a copy of the key file, and a vault of its
own; nothing at the source can change or delete what lies there.
"""

import argparse
import sys
from pathlib import Path

from pydantic import SecretStr

from blocks import CatalogFile, DataStoreShare, Site, SiteBlock, Vault
from flows.new_site import Begun, require_prefect, try_vault
from likeness.cli.terminal import ask_secret, say, speak_any_encoding, tell
from likeness.clock import system_clock
from likeness.errors import BadInput, LikenessError
from likeness.transport.place import needs_account

NO_POOL = "no-pool"
"""Stands in the Site block for a pool: such a site backs nothing up."""


def set_up_pull(name: str, *, data_store: DataStoreShare, vault: Vault, folder: Path) -> Site:
    """Save the blocks of a site that only fills a vault; safe to repeat for another vault.

    Args:
        name: Of the site.
        data_store: With an account that may read, and a key file that is there.
        vault: Where the copies go; written to once.
        folder: For the catalog of this machine.

    Raises:
        BadInput: Prefect does not answer or has a site of that name, or there is no key file.
        WrongKey, StoreMissing, ShareUnreachable: The data store does not open.
        NoVault: The vault is the data store.
    """
    catalog = CatalogFile(folder=str(folder.absolute()))
    require_prefect(name, Begun(folder.absolute() / "set-up", name, data_store))
    if not Path(data_store.key_file).is_file():
        raise BadInput(f"there is no {data_store.key_file}; copy the data store's key file there")
    reading = data_store.model_copy(update={"read_only": True})
    with reading.open() as store:
        try_vault(vault, store.transport)
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


def main() -> int:
    """Ask for what is not given, and save the blocks."""
    speak_any_encoding()
    arguments = _arguments()
    try:
        store = DataStoreShare(
            place=arguments.store,
            username=arguments.store_account,
            password=_password(arguments.store, arguments.store_account),
            key_file=str(arguments.key_file.absolute()),
        )
        vault = Vault(
            place=arguments.vault,
            username=arguments.vault_account,
            password=_password(arguments.vault, arguments.vault_account),
        )
        set_up_pull(arguments.name, data_store=store, vault=vault, folder=arguments.folder)
    except LikenessError as problem:
        tell(str(problem))
        return 2
    say(f"Saved as site {arguments.name}: schedule the deployments vault and check-vault for it.")
    return 0


def _password(place: str, account: str) -> SecretStr:
    return SecretStr(
        ask_secret(f"Password of {account} at {place}") if needs_account(place) else ""
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m flows.pull",
        description="Let this machine fetch copies of a data store into a vault of its own, with an"
        " account that may only read. Passwords are asked for: the data store's, then the vault's.",
    )
    parser.add_argument("--name", default="main", help="of the site here (main)")
    parser.add_argument("--store", required=True, help="the data store, such as smb://nas/ads")
    parser.add_argument("--store-account", default="", help="an account that may only read")
    parser.add_argument("--key-file", type=Path, required=True, help="a copy of the key file")
    parser.add_argument("--vault", required=True, help="a folder or share of this side")
    parser.add_argument("--vault-account", default="", help="of that share")
    parser.add_argument(
        "--folder",
        type=lambda text: Path(text).absolute(),
        default=Path("/var/lib/likeness"),
        help="for the catalog, on a local disk (/var/lib/likeness)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
