"""`likeness recover`: a lost installation, back from its data store or its vault."""

import sys
from collections import Counter
from functools import partial

from pydantic import SecretStr

from blocks import DataStoreShare, Vault, XenPool
from flows.recovering import Recovered, recover
from flows.set_up import confirmed
from likeness.cli.opening import key_options, opened_at, place_options
from likeness.cli.options import PATH, Option, Options, verb
from likeness.cli.running import run_alone
from likeness.cli.terminal import ask_secret, say, secret_in
from likeness.errors import BadInput
from likeness.model.sizes import counted
from likeness.stopping import StopToken
from likeness.transport.place import needs_account

__all__ = ["Recovered", "recover"]
_LEAST_DIGITS = 8


def run(options: Options, _stop: StopToken) -> int:
    """Ask for what is not given, and recover, or rehearse it."""
    options.folder = options.folder.absolute()
    found = recover(
        options.name,
        open_with=partial(opened_at, options=options),
        pool=_pool(options),
        data_store=_data_store(options),
        folder=options.folder,
        vault=_vault(options),
        expected_head=_expected_head(options),
        dry_run=options.dry_run,
    )
    say(_told(options, found))
    return 1 if found.left_out else 0


COMMAND = verb(
    "recover",
    "Bring a lost installation back on an empty machine. Its data store is taken over, a key file"
    " and the catalog are made, and the Prefect blocks of a site are saved. The installation that"
    " owned the store is refused from then on. Passwords are asked for: the pool's, the share's,"
    " the vault's, then what opens the store.",
    run,
    [
        Option("--name", default="main", help="what flows will be given (main)"),
        Option(
            "--pool",
            default="",
            metavar="URL",
            help="such as https://xen1.example; without, as kept in the store",
        ),
        Option("--account", default="root", help="of the pool (root)"),
        Option("--fingerprint", default="", help="SHA-256 of the pool's certificate"),
        Option("--vault", default="", metavar="PLACE", help="a second folder or share"),
        Option("--vault-account", default="", help="of the second share"),
        Option(
            "--folder",
            type=PATH,
            default="/var/lib/likeness",
            metavar="FOLDER",
            help="for the catalog and the key file, on a local disk (/var/lib/likeness)",
        ),
        Option(
            "--head",
            nargs=2,
            metavar="NUMBER DIGITS",
            help="the head in the last report, such as 4711 a1b2c3d4: refuse a store that was set"
            " back",
        ),
        Option(
            "--dry-run",
            is_flag=True,
            help="a rehearsal: open the store, make the catalog and compare, and change nothing",
        ),
        *place_options(of_a_site=False),
        *key_options(),
    ],
)


def _expected_head(options: Options) -> tuple[int, str] | None:
    if not options.head:
        return None
    number, digits = options.head
    if not (number.isascii() and number.isdigit() and len(digits) >= _LEAST_DIGITS):
        raise BadInput("--head takes a number and at least eight digits, as the last report has it")
    return int(number), digits.lower()


def _pool(options: Options) -> XenPool | None:
    if not options.pool:
        return None
    return XenPool(
        url=options.pool,
        username=options.account,
        fingerprint=options.fingerprint or confirmed(options.pool),
        password=SecretStr(ask_secret(f"Password of {options.account} at {options.pool}")),
    )


def _data_store(options: Options) -> DataStoreShare:
    password, user = "", options.user or ""
    if needs_account(options.store):
        file, question = options.password_file, f"Password of {user} at {options.store}"
        password = secret_in(file) if file else ask_secret(question)
    return DataStoreShare(
        place=options.store,
        username=user,
        password=SecretStr(password),
        encrypt=not options.signed_only,
        key_file=str(options.folder / "store.key"),
        endpoint=options.endpoint,
        region=options.region,
        ca_file=options.ca_file,
    )


def _vault(options: Options) -> Vault | None:
    if not options.vault:
        return None
    user, password = options.vault_account, ""
    if needs_account(options.vault):
        password = ask_secret(f"Password of {user} at {options.vault}")
    return Vault(place=options.vault, username=user, password=SecretStr(password))


def _told(options: Options, found: Recovered) -> str:
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
        if options.dry_run
        else f"RECOVERED as site {options.name}. This installation owns the store now."
    )
    return "\n".join(
        (
            done,
            f"  data store    {found.store[:8]} at {options.store}, {found.head}",
            f"  owner before  {before}",
            f"  catalog       {found.memory}; {counted(found.added, 'version')} added",
            f"  versions      {len(found.versions)}, unchecked until they are validated",
            *(f"    {vm}: {count}" for vm, count in sorted(by_vm.items())),
            *(f"  left out      {each}" for each in found.left_out),
            "  jobs that ran:",
            *(jobs or ["    none known"]),
            f"  deployments   {len(found.deployments)} kept"
            f"{'' if options.dry_run else ', and made again'}",
            *(f"    {each}" for each in found.deployments),
            *(() if found.kept else ("  logins        none kept; enter them again",)),
        )
    )


if __name__ == "__main__":
    sys.exit(run_alone(COMMAND))
