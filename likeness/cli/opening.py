"""Getting to a store: its place, the account for a share, and one of its keys."""

import importlib
from pathlib import Path
from typing import Protocol

import click

from likeness.cli.options import PATH, Option, Options
from likeness.cli.terminal import ask_secret, ask_words, secret_in, words_in
from likeness.codec import slots
from likeness.codec.slots import SlotKind
from likeness.errors import BadInput
from likeness.store.format.data_store import DataStore
from likeness.store.format.opening import open_store
from likeness.store.format.public_view import PublicStore, open_public, require_fingerprint
from likeness.store.keys.keyring import open_with_passphrase
from likeness.transport.base import Transport
from likeness.transport.local import LocalTransport
from likeness.transport.place import BucketServer, needs_account, open_place, require_place


def place_options(*, of_a_site: bool = True) -> list[click.Parameter]:
    """Where the store is; each can come from the environment instead.

    Args:
        of_a_site: Whether the name of a Site block can stand for place, account and key.
    """
    panel = "where the data store is"
    site = Option(
        "--site",
        panel=panel,
        is_eager=True,
        metavar="NAME",
        help="instead of all that follows: the store of this Site block, with its key file; needs"
        " the Prefect server",
    )
    return [
        *([site] if of_a_site else []),
        Option(
            "--store",
            panel=panel,
            callback=_needed,
            metavar="PLACE",
            envvar="LIKENESS_STORE",
            help="a folder, a share: smb://server[:port]/share[/folder] or"
            r" \\server\share[\folder], or a bucket: s3://bucket[/folder]",
        ),
        Option(
            "--user",
            panel=panel,
            metavar="NAME",
            envvar="LIKENESS_USER",
            help="the share's account, DOMAIN\\name works too; or the access key of a bucket",
        ),
        Option(
            "--password-file",
            panel=panel,
            type=PATH,
            metavar="FILE",
            envvar="LIKENESS_PASSWORD_FILE",
            help="a file with the account's password or secret key, readable by you alone;"
            " without it you are asked, or it is the first line of standard input",
        ),
        Option(
            "--signed-only",
            panel=panel,
            is_flag=True,
            help="accept a server that signs SMB but does not encrypt it, or a bucket's without"
            " https",
        ),
        Option(
            "--endpoint",
            panel=panel,
            default="",
            metavar="URL",
            envvar="LIKENESS_ENDPOINT",
            help="the server of a bucket; AWS by default",
        ),
        Option(
            "--region",
            panel=panel,
            default="us-east-1",
            metavar="NAME",
            envvar="LIKENESS_REGION",
            help="of a bucket; us-east-1 by default",
        ),
        Option(
            "--ca-file",
            panel=panel,
            default="",
            metavar="FILE",
            envvar="LIKENESS_CA_FILE",
            help="certificates to trust for a bucket's server; the system's by default",
        ),
    ]


def _needed(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is None and not ctx.params.get("site"):
        raise click.MissingParameter(ctx=ctx, param=option)
    return value


def key_options(*, optional: bool = False) -> list[click.Parameter]:
    """What opens the store."""
    otherwise = "none is used" if optional else "you are asked for the recovery words"
    panel, only = f"what opens it; without any, {otherwise}", "key"
    return [
        Option(
            "--key-file",
            panel=panel,
            instead_of=only,
            type=PATH,
            metavar="FILE",
            envvar="LIKENESS_KEY_FILE",
            help="the key file",
        ),
        Option(
            "--words-file",
            panel=panel,
            instead_of=only,
            type=PATH,
            metavar="FILE",
            help="a file with the 24 recovery words, readable by you alone",
        ),
        Option(
            "--words",
            panel=panel,
            instead_of=only,
            is_flag=True,
            help="ask for the recovery words",
        ),
        Option(
            "--escrow-file",
            panel=panel,
            instead_of=only,
            type=PATH,
            metavar="FILE",
            help="the company's escrow key, private half",
        ),
        Option(
            "--passphrase",
            panel=panel,
            instead_of=only,
            is_flag=True,
            help="ask for a passphrase",
        ),
    ]


def transport_of(options: Options, *, make: bool = False) -> Transport:
    """Get to the store's place; a folder is made if asked.

    Raises:
        BadInput: It is no place, or the account is missing.
        StoreMissing: There is no such folder.
    """
    if site := vars(options).get("site"):
        return _share_of(site).connect()
    place: str = options.store
    if not place.strip():
        raise BadInput("no place was named; give a folder, share or bucket after --store")
    if not needs_account(place):
        return LocalTransport(Path(place).absolute(), make=make)
    require_place(place)  # what is wrong with it is said before a password is asked for
    if not options.user:
        raise BadInput(f"which account may use {place}? name it with --user")
    password = (
        secret_in(options.password_file)
        if options.password_file
        else ask_secret(f"Password of {options.user} at {place}")
    )
    return open_place(
        place,
        username=options.user,
        password=password,
        encrypt=not options.signed_only,
        s3=BucketServer(options.endpoint, options.region, ca_file=options.ca_file),
    )


class _Share(Protocol):
    """A Data Store Share block, as far as it is needed here."""

    key_file: str

    def connect(self) -> Transport:
        """Connect to its place."""


def _share_of(site: str) -> _Share:
    """The data store's block of a site; only then is anything of Prefect imported.

    Raises:
        BadInput: There is no such site.
    """
    found: _Share = importlib.import_module("blocks").Site.named(site).data_store
    return found


def has_key(options: Options) -> bool:
    """Whether a way of opening the store was named, be it by its site."""
    return _names_a_key(options) or bool(vars(options).get("site"))


def _names_a_key(options: Options) -> bool:
    by_file = (options.key_file, options.words_file, options.escrow_file)
    return any((*by_file, options.words, options.passphrase))


def opened(options: Options) -> DataStore:
    """Open the store with the key that was named, or else with recovery words.

    Raises:
        StoreMissing: There is no store.
        WrongKey: The key does not open it.
        ShareUnreachable: The share does not answer.
    """
    return opened_at(transport_of(options), options)


def opened_at(transport: Transport, options: Options) -> DataStore:
    """The same, over a transport that is there."""
    if (site := vars(options).get("site")) and not _names_a_key(options):
        key = slots.read_key_file(Path(_share_of(site).key_file))
        return open_store(transport, key, SlotKind.KEY_FILE)
    if options.key_file:
        return open_store(transport, slots.read_key_file(options.key_file), SlotKind.KEY_FILE)
    if options.escrow_file:
        return open_store(transport, slots.read_key_file(options.escrow_file), SlotKind.ESCROW)
    if options.passphrase:
        return open_with_passphrase(transport, ask_secret("Passphrase"))
    words = words_in(options.words_file) if options.words_file else ask_words("Recovery words")
    return open_store(transport, slots.from_words(words), SlotKind.RECOVERY_WORDS)


def viewed(options: Options) -> DataStore | PublicStore:
    """The store with its keys if one was named, else with its public keys alone.

    Raises:
        WrongFingerprint: A fingerprint was given, and it is not this store's.
    """
    if has_key(options):
        store = opened(options)
        if options.fingerprint is not None:
            require_fingerprint(store, options.fingerprint)
        return store
    return open_public(transport_of(options), fingerprint=options.fingerprint)
