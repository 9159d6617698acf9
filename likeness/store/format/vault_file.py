"""Vault files: what the host of a vault is given in place of a key.

The owner of the data store makes one for each vault. It says which store and which vault, pins the
store's public keys, and holds the two documents of a vault that only the store can sign. There is
no secret in it: whoever has it can check copies, and open none.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from likeness.codec.documents import MAX_DOCUMENT_BYTES, Frame, Kind
from likeness.errors import (
    BadInput,
    Damaged,
    DocumentForged,
    LikenessError,
    NoVault,
    ObjectMissing,
    ObjectUnreadable,
)
from likeness.store.format import layout
from likeness.store.format.data_store import signed_document
from likeness.store.format.documents import FormatDocument, Hex32, VaultKeysDocument
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.public_view import PublicStore, open_public
from likeness.transport.base import Transport

_BEGINS = "likeness-vault-1: "
_MAX_BYTES = 1 << 20
_Bytes = Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{2})+\Z", max_length=1 << 18)]


class VaultFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is in such a file.

    Attributes:
        store: Id of the data store.
        vault: Id of the vault.
        fingerprint: Of the store's public keys, as on the recovery sheet.
        format: The vault's format document, as hex.
        epoch: Of the vault's keys.
        keys: The document with them, as hex.
    """

    store: Hex32
    vault: Hex32
    fingerprint: str
    format: _Bytes
    epoch: int
    keys: _Bytes


def write_vault_file(path: Path, said: VaultFile) -> None:
    """Make the file.

    Raises:
        BadInput: There is one of that name, or no folder for it.
    """
    try:
        with path.open("x", encoding="ascii") as file:
            file.write(f"{_BEGINS}{msgspec.json.encode(said).decode()}\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as cause:
        raise BadInput(f"there is a file {path} already; choose another name") from cause
    except OSError as cause:
        raise BadInput(f"cannot make {path}: {cause.strerror}; choose another place") from cause


def is_vault_file(path: Path) -> bool:
    """Whether a file is one; one that cannot be read is none."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(len(_BEGINS)) == _BEGINS.encode()
    return False


def read_vault_file(path: Path) -> VaultFile:
    """What a vault file says.

    Raises:
        BadInput: It cannot be read, or is none.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
    except OSError as cause:
        raise BadInput(f"the vault file {path} cannot be read: {cause.strerror}") from cause
    try:
        return msgspec.json.decode(data.removeprefix(_BEGINS.encode()), type=VaultFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as cause:
        raise BadInput(
            f"{path} is no vault file, or not all of it; copy it again from where the data store's"
            " jobs run, or make another one there with likeness vault-file"
        ) from cause


def open_without_key(transport: Transport, said: VaultFile) -> PublicStore:
    """The data store, or the vault, as seen without any secret, under the keys in a vault file.

    Raises:
        StoreMissing: There is none.
        WrongFingerprint: It has other keys, or is another store.
        Damaged: None of its public keys can be read.
    """
    return open_public(transport, fingerprint=said.fingerprint)


def require_own_documents(said: VaultFile, store: PublicStore) -> None:
    """See that the documents in a vault file are what the store signed for this vault.

    Raises:
        BadInput: They are not.
    """
    try:
        frame = Frame.parse(bytes.fromhex(said.format), name=layout.FORMAT_COPIES[0])
        frame.require_signature(Kind.FORMAT, store.verifier(frame))
        facts = msgspec.json.decode(frame.clear, type=FormatDocument)
        keys = Frame.parse(bytes.fromhex(said.keys), name=layout.vault_keys(said.epoch))
        keys.require_signature(Kind.VAULT_KEYS, store.verifier(keys))
        named = msgspec.json.decode(keys.clear, type=VaultKeysDocument).vault
    except (Damaged, msgspec.DecodeError) as cause:
        raise BadInput(
            f"the vault file does not belong to data store {store.store_id[:8]} ({cause}); make"
            " one with likeness vault-file where its jobs run"
        ) from cause
    if {facts.vault, named} != {said.vault} or facts.store != store.store_id:
        raise BadInput("the vault file speaks of several vaults; make another one")


def facts_of(view: PublicStore) -> FormatDocument:
    """What a place says it is, as the store signed it.

    Raises:
        Damaged, ObjectMissing: No copy of its format document is whole.
    """
    problem: LikenessError = ObjectMissing(f"{layout.FORMAT_COPIES[0]} is missing")
    for copy in layout.FORMAT_COPIES:
        try:
            data = view.transport.read(copy, 0, MAX_DOCUMENT_BYTES + 1)
            name = layout.FORMAT_COPIES[0]
            return signed_document(data, name, Kind.FORMAT, FormatDocument, view.verifier)[0]
        except UNREADABLE as cause:
            problem = cause
    raise problem


def vault_without_key(store: PublicStore, place: Transport, said: VaultFile) -> PublicStore:
    """The vault that a vault file speaks of, whether it is filled yet or not.

    Raises:
        NoVault: The place is another store's, another vault, or a data store itself.
    """
    view = PublicStore(place, store.store_id, store.keys, vault=said.vault, unfinished=True)
    for copy in layout.FORMAT_COPIES:
        try:
            data = place.read(copy, 0, MAX_DOCUMENT_BYTES + 1)
            facts = signed_document(
                data, layout.FORMAT_COPIES[0], Kind.FORMAT, FormatDocument, view.verifier
            )[0]
        except DocumentForged as cause:
            raise NoVault(
                f"the vault at {place!r} belongs to another data store; choose another place for"
                " this vault"
            ) from cause
        except (Damaged, ObjectMissing, ObjectUnreadable):
            continue
        if facts.vault != said.vault:
            raise NoVault(
                f"{place} holds {'another vault' if facts.vault else 'a data store itself'}, and"
                " not the vault of this vault file; choose another place, or the right file"
            )
    return view
