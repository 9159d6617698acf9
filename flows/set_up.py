"""`python -m flows.set_up`: a new site in one go: its store, its keys, its catalog, its blocks."""

import argparse
import getpass
import socket
import sys
from pathlib import Path

from pydantic import SecretStr

from blocks import DataStoreShare, Vault, XenPool
from flows.new_site import NewSite, set_up_site
from likeness.cli.terminal import speak_any_encoding
from likeness.errors import CertificateRefused, LikenessError, StoreExists
from likeness.transport.place import needs_account
from likeness.xen.endpoints import fingerprint_to_confirm

__all__ = ["NewSite", "set_up_site"]


def main() -> int:
    """Ask for what is not given, and set up a site."""
    speak_any_encoding()  # the words are shown once, whatever the place is called
    arguments = _arguments()
    try:
        fingerprint = arguments.fingerprint or confirmed(arguments.pool)
        made = set_up_site(
            arguments.name,
            pool=XenPool(
                url=arguments.pool,
                username=arguments.account,
                password=_password(arguments.account, arguments.pool),
                fingerprint=fingerprint,
            ),
            data_store=DataStoreShare(
                place=arguments.store,
                username=arguments.store_account,
                password=_share_password(arguments.store, arguments.store_account),
                key_file=str(arguments.folder / "store.key"),
                endpoint=arguments.store_endpoint,
                region=arguments.store_region,
                ca_file=arguments.store_ca_file,
            ),
            folder=arguments.folder,
            vault=_vault(arguments),
        )
    except LikenessError as problem:
        print(f"{problem}{_next_step(problem)}", file=sys.stderr)
        return 2
    print(_sheet(arguments, made))
    return 0


def confirmed(pool: str) -> str:
    """The fingerprint of a pool's own certificate, once a person has said that it is the right one.

    Raises:
        CertificateRefused: They did not; nothing was sent to the host but the handshake.
    """
    shown = fingerprint_to_confirm(pool)
    if not shown:
        return ""
    print(
        f"{pool} shows a certificate that no authority vouches for. SHA-256 fingerprint:\n"
        f"  {shown}\n"
        "Compare it with what the host itself says:\n"
        "  openssl x509 -noout -fingerprint -sha256 -in /etc/xensource/xapi-ssl.pem"
    )
    if input("Is it the same? Then write yes: ").strip().lower() != "yes":
        raise CertificateRefused(
            f"the certificate of {pool} was not confirmed, so nothing was made; find out who"
            " answers there, then run this again",
            fingerprint=shown,
        )
    return shown


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m flows.set_up",
        description="Make a new data store, its keys and catalog, and save the Prefect blocks of a"
        " site. Passwords are asked for. A running Prefect server is used if PREFECT_API_URL says"
        " where.",
    )
    parser.add_argument("--name", default="main", help="what flows will be given (main)")
    parser.add_argument("--pool", required=True, help="such as https://xen1.example")
    parser.add_argument("--account", default="root", help="of the pool (root)")
    parser.add_argument(
        "--fingerprint",
        default="",
        help="SHA-256 of the pool's certificate; shown and asked for where it is needed",
    )
    parser.add_argument(
        "--store",
        required=True,
        help="an empty folder, smb://server/share/folder, or s3://bucket/folder",
    )
    parser.add_argument("--vault", default="", help="a second folder, share or bucket")
    for place in ("store", "vault"):
        parser.add_argument(
            f"--{place}-account", default="", help="of the share; the access key of a bucket"
        )
        parser.add_argument(
            f"--{place}-endpoint", default="", help="the server of a bucket; empty: AWS"
        )
        parser.add_argument(
            f"--{place}-region", default="us-east-1", help="of a bucket (us-east-1)"
        )
        parser.add_argument(
            f"--{place}-ca-file", default="", help="certificates to trust for a bucket's server"
        )
    parser.add_argument(
        "--folder",
        type=lambda text: Path(text).absolute(),
        default=Path("/var/lib/likeness"),
        help="for the catalog and the key file, on a local disk (/var/lib/likeness)",
    )
    return parser.parse_args()


def _vault(arguments: argparse.Namespace) -> Vault | None:
    if not arguments.vault:
        return None
    password = _share_password(arguments.vault, arguments.vault_account)
    return Vault(
        place=arguments.vault,
        username=arguments.vault_account,
        password=password,
        endpoint=arguments.vault_endpoint,
        region=arguments.vault_region,
        ca_file=arguments.vault_ca_file,
    )


def _share_password(place: str, account: str) -> SecretStr:
    return _password(account, place) if needs_account(place) else SecretStr("")


def _password(account: str, place: str) -> SecretStr:
    return SecretStr(getpass.getpass(f"Password of {account} at {place}: "))


def _next_step(problem: LikenessError) -> str:
    """What to do at this command about a problem that any part of the house may have met."""
    if isinstance(problem, StoreExists):
        return (
            "\nA new site needs an empty place. To use this store, save its blocks in the Prefect"
            " UI, with the key file it was made with."
        )
    return ""


def _sheet(arguments: argparse.Namespace, made: NewSite) -> str:
    words = made.recovery_words.split()
    lines = [" ".join(words[at : at + 6]) for at in range(0, len(words), 6)]
    return "\n".join(
        (
            "RECOVERY SHEET: write this on paper, and keep it away from this machine.",
            f"  data store   {arguments.store}",
            f"  fingerprint  {made.fingerprint}",
            "  recovery words, in this order:",
            *(f"    {line}" for line in lines),
            f"Made by {socket.gethostname()}. The words are kept nowhere: without them and without"
            f" {made.site.data_store.key_file}, nobody can read a backup.",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
