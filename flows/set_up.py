"""`likeness set-up`: a new site in one go: its store, its keys, its catalog, its blocks."""

import socket
import sys

from pydantic import SecretStr

from blocks import DataStoreShare, Vault, XenPool
from flows.new_site import NewSite, set_up_site
from likeness.cli.options import PATH, Option, Options, verb
from likeness.cli.running import run_alone
from likeness.cli.terminal import ask, ask_secret, say, tell
from likeness.errors import CertificateRefused, StoreExists
from likeness.stopping import StopToken
from likeness.transport.place import needs_account
from likeness.xen.endpoints import fingerprint_to_confirm

__all__ = ["NewSite", "set_up_site"]


def run(options: Options, _stop: StopToken) -> int:
    """Ask for what is not given, and set up a site."""
    options.folder = options.folder.absolute()
    try:
        made = set_up_site(
            options.name,
            pool=XenPool(
                url=options.pool,
                username=options.account,
                fingerprint=options.fingerprint or confirmed(options.pool),
                password=_password(options.account, options.pool),
            ),
            data_store=DataStoreShare(
                place=options.store,
                username=options.store_account,
                password=_share_password(options.store, options.store_account),
                key_file=str(options.folder / "store.key"),
                endpoint=options.store_endpoint,
                region=options.store_region,
                ca_file=options.store_ca_file,
            ),
            folder=options.folder,
            vault=_vault(options),
        )
    except StoreExists as problem:
        raise StoreExists(
            f"{problem}. A new site needs an empty place; to use this store, save its blocks in the"
            " Prefect UI, with the key file it was made with"
        ) from problem
    say(sheet(options.store, made))
    return 0


def confirmed(pool: str) -> str:
    """The fingerprint of a pool's own certificate, once a person has said that it is the right one.

    Raises:
        CertificateRefused: They did not; nothing was sent to the host but the handshake.
    """
    shown = fingerprint_to_confirm(pool)
    if not shown:
        return ""
    tell(
        f"{pool} shows a certificate that no authority vouches for. SHA-256 fingerprint:\n"
        f"  {shown}\n"
        "Compare it with what the host itself says:\n"
        "  openssl x509 -noout -fingerprint -sha256 -in /etc/xensource/xapi-ssl.pem"
    )
    if ask("Is it the same? Then write yes").strip().lower() != "yes":
        raise CertificateRefused(
            f"the certificate of {pool} was not confirmed, so nothing was made; find out who"
            " answers there, then run this again",
            fingerprint=shown,
        )
    return shown


def _place_options(place: str) -> list[Option]:
    return [
        Option(f"--{place}-account", default="", help="of the share; the access key of a bucket"),
        Option(f"--{place}-endpoint", default="", help="the server of a bucket; empty: AWS"),
        Option(f"--{place}-region", default="us-east-1", help="of a bucket (us-east-1)"),
        Option(
            f"--{place}-ca-file", default="", help="certificates to trust for a bucket's server"
        ),
    ]


COMMAND = verb(
    "set-up",
    "Make a new data store, its keys and catalog, and save the Prefect blocks of a site. Passwords"
    " are asked for. A running Prefect server is used if PREFECT_API_URL says where. `likeness"
    " apply` does the same and more from a file.",
    run,
    [
        Option("--name", default="main", help="what flows will be given (main)"),
        Option("--pool", required=True, metavar="URL", help="such as https://xen1.example"),
        Option("--account", default="root", help="of the pool (root)"),
        Option(
            "--fingerprint",
            default="",
            help="SHA-256 of the pool's certificate; shown and asked for where it is needed",
        ),
        Option(
            "--store",
            required=True,
            metavar="PLACE",
            help="an empty folder, smb://server/share/folder, or s3://bucket/folder",
        ),
        Option("--vault", default="", metavar="PLACE", help="a second folder, share or bucket"),
        *_place_options("store"),
        *_place_options("vault"),
        Option(
            "--folder",
            type=PATH,
            default="/var/lib/likeness",
            metavar="FOLDER",
            help="for the catalog and the key file, on a local disk (/var/lib/likeness)",
        ),
    ],
)


def _vault(options: Options) -> Vault | None:
    if not options.vault:
        return None
    password = _share_password(options.vault, options.vault_account)
    return Vault(
        place=options.vault,
        username=options.vault_account,
        password=password,
        endpoint=options.vault_endpoint,
        region=options.vault_region,
        ca_file=options.vault_ca_file,
    )


def _share_password(place: str, account: str) -> SecretStr:
    return _password(account, place) if needs_account(place) else SecretStr("")


def _password(account: str, place: str) -> SecretStr:
    return SecretStr(ask_secret(f"Password of {account} at {place}"))


def sheet(place: str, made: NewSite) -> str:
    """What a person keeps on paper: the words are shown this once."""
    words = made.recovery_words.split()
    lines = [" ".join(words[at : at + 6]) for at in range(0, len(words), 6)]
    return "\n".join(
        (
            "RECOVERY SHEET: write this on paper, and keep it away from this machine.",
            f"  data store   {place}",
            f"  fingerprint  {made.fingerprint}",
            "  recovery words, in this order:",
            *(f"    {line}" for line in lines),
            f"Made by {socket.gethostname()}. The words are kept nowhere: without them and without"
            f" {made.site.data_store.key_file}, nobody can read a backup.",
        )
    )


if __name__ == "__main__":
    sys.exit(run_alone(COMMAND))
