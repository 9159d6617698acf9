"""`python -m flows.recover`: a lost installation, back from its data store or its vault."""

import argparse
import sys
from collections import Counter
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from blocks import DataStoreShare, Vault, XenPool
from flows.recovering import Recovered, recover
from flows.set_up import confirmed
from likeness.cli.opening import add_keys, add_place, opened_at
from likeness.cli.terminal import ask_secret, say, secret_in, speak_any_encoding, tell
from likeness.errors import BadInput, LikenessError
from likeness.model.sizes import counted
from likeness.transport.place import needs_account

__all__ = ["Recovered", "recover"]
_LEAST_DIGITS = 8


def main() -> int:
    """Ask for what is not given, and recover, or rehearse it."""
    speak_any_encoding()
    arguments = _arguments()
    try:
        found = recover(
            arguments.name,
            open_with=partial(opened_at, options=arguments),
            pool=_pool(arguments),
            data_store=_data_store(arguments),
            folder=arguments.folder,
            vault=_vault(arguments),
            witness=_witness(arguments),
            dry_run=arguments.dry_run,
        )
    except LikenessError as problem:
        tell(str(problem))
        return 2
    say(_told(arguments, found))
    return 1 if found.left_out else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m flows.recover",
        description="Bring a lost installation back on an empty machine: take its data store over,"
        " make a key file and the catalog, and save the Prefect blocks of a site. The installation"
        " that owned the store is refused from then on. Passwords are asked for: the pool's, the"
        " share's, the vault's, then what opens the store.",
    )
    parser.add_argument("--name", default="main", help="what flows will be given (main)")
    parser.add_argument(
        "--pool", default="", help="such as https://xen1.example; without, as kept in the store"
    )
    parser.add_argument("--account", default="root", help="of the pool (root)")
    parser.add_argument("--fingerprint", default="", help="SHA-256 of the pool's certificate")
    add_place(parser)
    add_keys(parser)
    parser.add_argument("--vault", default="", help="a second folder or share")
    parser.add_argument("--vault-account", default="", help="of the second share")
    parser.add_argument(
        "--folder",
        type=lambda text: Path(text).absolute(),
        default=Path("/var/lib/likeness"),
        help="for the catalog and the key file, on a local disk (/var/lib/likeness)",
    )
    parser.add_argument(
        "--head",
        nargs=2,
        metavar=("NUMBER", "DIGITS"),
        help="the head in the last report, such as 4711 a1b2c3d4: refuse a store that was set back",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="a rehearsal: open the store, make the catalog and compare, and change nothing",
    )
    return parser.parse_args()


def _witness(arguments: argparse.Namespace) -> tuple[int, str] | None:
    if not arguments.head:
        return None
    number, digits = arguments.head
    if not (number.isascii() and number.isdigit() and len(digits) >= _LEAST_DIGITS):
        raise BadInput("--head takes a number and at least eight digits, as the last report has it")
    return int(number), digits.lower()


def _pool(arguments: argparse.Namespace) -> XenPool | None:
    if not arguments.pool:
        return None
    return XenPool(
        url=arguments.pool,
        username=arguments.account,
        fingerprint=arguments.fingerprint or confirmed(arguments.pool),
        password=SecretStr(ask_secret(f"Password of {arguments.account} at {arguments.pool}")),
    )


def _data_store(arguments: argparse.Namespace) -> DataStoreShare:
    password, user = "", arguments.user or ""
    if needs_account(arguments.store):
        file, question = arguments.password_file, f"Password of {user} at {arguments.store}"
        password = secret_in(file) if file else ask_secret(question)
    return DataStoreShare(
        place=arguments.store,
        username=user,
        password=SecretStr(password),
        encrypt=not arguments.signed_only,
        key_file=str(arguments.folder / "store.key"),
        endpoint=arguments.endpoint,
        region=arguments.region,
        ca_file=arguments.ca_file,
    )


def _vault(arguments: argparse.Namespace) -> Vault | None:
    if not arguments.vault:
        return None
    user, password = arguments.vault_account, ""
    if needs_account(arguments.vault):
        password = ask_secret(f"Password of {user} at {arguments.vault}")
    return Vault(place=arguments.vault, username=user, password=SecretStr(password))


def _told(arguments: argparse.Namespace, found: Recovered) -> str:
    """What was found and done, and what is left to do by hand."""
    by_vm = Counter(row.vm_name for row in found.versions)
    owner = found.owner
    before = (
        f"{owner.installation[:8]} {owner.host} since {owner.taken_at[:16]}" if owner else "unknown"
    )
    jobs = [f"    {job}: {', '.join(vms) or 'no VM'}" for job, vms in found.jobs.items()]
    done = (
        "REHEARSAL: nothing was changed. Without --dry-run the store is taken over: its owner is"
        " refused from then on."
        if arguments.dry_run
        else f"RECOVERED as site {arguments.name}. This installation owns the store now."
    )
    return "\n".join(
        (
            done,
            f"  data store    {found.store[:8]} at {arguments.store}, {found.head}",
            f"  owner before  {before}",
            f"  catalog       {found.memory}; {counted(found.added, 'version')} added",
            f"  versions      {len(found.versions)}, unchecked until they are validated",
            *(f"    {vm}: {count}" for vm, count in sorted(by_vm.items())),
            *(f"  left out      {each}" for each in found.left_out),
            "  jobs that ran:",
            *(jobs or ["    none known"]),
            f"  deployments   {len(found.deployments)} kept"
            f"{'' if arguments.dry_run else ', and made again'}",
            *(f"    {each}" for each in found.deployments),
            *(() if found.kept else ("  logins        none kept; enter them again",)),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
