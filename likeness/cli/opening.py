"""Getting to a store: its place, the account for a share, and one of its keys."""

import argparse
from pathlib import Path

from likeness.cli.terminal import ask_secret, ask_words, secret_in, words_in
from likeness.codec import slots
from likeness.codec.slots import SlotKind
from likeness.errors import BadInput
from likeness.store.data_store import DataStore, open_store
from likeness.store.keyring import open_with_passphrase
from likeness.store.public_view import PublicStore, open_public, require_fingerprint
from likeness.transport.base import Transport
from likeness.transport.local import LocalTransport
from likeness.transport.place import BucketServer, needs_account, open_place, require_place


def add_place(parser: argparse.ArgumentParser) -> None:
    """Let a command be told where the store is."""
    group = parser.add_argument_group("where the data store is")
    group.add_argument(
        "--store",
        required=True,
        metavar="PLACE",
        help=r"a folder, a share: smb://server[:port]/share[/folder] or \\server\share[\folder],"
        " or a bucket: s3://bucket[/folder]",
    )
    group.add_argument(
        "--user",
        metavar="NAME",
        help="the share's account, DOMAIN\\name works too; or the access key of a bucket",
    )
    group.add_argument(
        "--password-file",
        type=Path,
        metavar="FILE",
        help="a file with the account's password or secret key, readable by you alone;"
        " without it you are asked, or it is the first line of standard input",
    )
    group.add_argument(
        "--signed-only",
        action="store_true",
        help="accept a server that signs SMB but does not encrypt it, or a bucket's without https",
    )
    group.add_argument(
        "--endpoint", default="", metavar="URL", help="the server of a bucket; AWS by default"
    )
    group.add_argument(
        "--region", default="us-east-1", metavar="NAME", help="of a bucket; us-east-1 by default"
    )
    group.add_argument(
        "--ca-file",
        default="",
        metavar="FILE",
        help="certificates to trust for a bucket's server; the system's by default",
    )


def add_keys(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Let a command be told what opens the store."""
    otherwise = "without any, none is used" if optional else "without any, you are asked for words"
    group = parser.add_argument_group("what opens it", otherwise)
    one = group.add_mutually_exclusive_group()
    one.add_argument("--key-file", type=Path, metavar="FILE", help="the key file")
    one.add_argument(
        "--words-file",
        type=Path,
        metavar="FILE",
        help="a file with the 24 recovery words, readable by you alone",
    )
    one.add_argument("--words", action="store_true", help="ask for the recovery words")
    one.add_argument(
        "--escrow-file", type=Path, metavar="FILE", help="the company's escrow key, private half"
    )
    one.add_argument("--passphrase", action="store_true", help="ask for a passphrase")


def transport_of(options: argparse.Namespace, *, make: bool = False) -> Transport:
    """Get to the store's place; a folder is made if asked.

    Raises:
        BadInput: It is no place, or the account is missing.
        StoreMissing: There is no such folder.
    """
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


def has_key(options: argparse.Namespace) -> bool:
    """Whether a way of opening the store was named."""
    by_file = (options.key_file, options.words_file, options.escrow_file)
    return any((*by_file, options.words, options.passphrase))


def opened(options: argparse.Namespace) -> DataStore:
    """Open the store with the key that was named, or else with recovery words.

    Raises:
        StoreMissing: There is no store.
        WrongKey: The key does not open it.
        ShareUnreachable: The share does not answer.
    """
    return opened_at(transport_of(options), options)


def opened_at(transport: Transport, options: argparse.Namespace) -> DataStore:
    """The same, over a transport that is there."""
    if options.key_file:
        return open_store(transport, slots.read_key_file(options.key_file), SlotKind.KEY_FILE)
    if options.escrow_file:
        return open_store(transport, slots.read_key_file(options.escrow_file), SlotKind.ESCROW)
    if options.passphrase:
        return open_with_passphrase(transport, ask_secret("Passphrase"))
    words = words_in(options.words_file) if options.words_file else ask_words("Recovery words")
    return open_store(transport, slots.from_words(words), SlotKind.RECOVERY_WORDS)


def viewed(options: argparse.Namespace) -> DataStore | PublicStore:
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
