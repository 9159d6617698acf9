"""A vault's identity: a key of its own, which the store's key vouches for.

A vault holds copies of what the data store signed, and what it wrote itself: heads and statements
where it keeps by rules of its own, index segments of packs that it mended. Those are signed with
the vault's key and count in that vault alone: whoever gets hold of that key can forge nothing that
the data store, or another vault, takes for its own.
"""

from contextlib import suppress
from dataclasses import dataclass

import msgspec

from likeness.clock import Clock
from likeness.codec.documents import MAX_DOCUMENT_BYTES, Frame, Kind, write_document
from likeness.codec.keys import FIRST_EPOCH
from likeness.errors import Damaged, NoVault, ObjectMissing, ObjectUnreadable
from likeness.model.ids import random_name
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore, set_aside, signed_part
from likeness.store.format.documents import FormatDocument, VaultKeysDocument, encode
from likeness.store.format.guard import require_writer
from likeness.store.format.observations import UNREADABLE
from likeness.transport.base import Transport


@dataclass(frozen=True, slots=True)
class WholeFormat:
    """A copy of a format document that this store signed."""

    facts: FormatDocument
    data: bytes


def whole_format(store: DataStore, place: Transport, copy: str) -> WholeFormat | None:
    """What a copy of the format document at a place says; none if it is not whole.

    Raises:
        DocumentForged: It is whole, and another store's.
        StoreTooNew: It is whole, and this release may not write there.
    """
    try:
        data = place.read(copy, 0, MAX_DOCUMENT_BYTES + 1)
        frame = Frame.parse(data, name=layout.FORMAT_COPIES[0])
    except (Damaged, ObjectMissing, ObjectUnreadable):
        return None
    frame.require_signature(Kind.FORMAT, store.keys.public(max(frame.epoch, FIRST_EPOCH)))
    facts = signed_part(frame.clear, FormatDocument, name=copy)
    require_writer(facts)
    return WholeFormat(facts, data)


def format_document(store: DataStore) -> bytes:
    """What `store` is, signed; all copies are equal."""
    return write_document(
        Kind.FORMAT,
        layout.FORMAT_COPIES[0],
        encode(store.facts),
        keys=store.keys,
        suite=store.suite,
        owner=store.past.owner_now(store),
    )


def vault_at(store: DataStore, place: Transport, *, unfinished: bool = True) -> DataStore:
    """The vault of a store at a place, for whoever reads there, or finds nothing yet.

    What it has signed itself is believed; a place that is no vault signs nothing.
    """
    facts = msgspec.structs.replace(store.facts, vault=_name_at(store, place))
    return DataStore(place, facts, store.keys, unfinished=unfinished)


def made_vault_at(store: DataStore, place: Transport, *, clock: Clock) -> DataStore:
    """The same, for whoever fills it: a place that is no vault yet becomes one.

    Its format document is written last, so until then its keys say which vault it is.

    Raises:
        NoVault: There is a data store already.
    """
    vault = vault_at(store, place)
    if not vault.facts.vault:
        if any(whole_format(store, place, copy) for copy in layout.FORMAT_COPIES):
            raise NoVault(
                f"{place} holds a data store itself, and is no vault; choose another place for the"
                " vault, or empty this one"
            )
        facts = msgspec.structs.replace(store.facts, vault=random_name())
        vault = DataStore(place, facts, store.keys, unfinished=True)
    _require_keys(vault, clock)
    return DataStore(place, vault.facts, store.keys, unfinished=True)  # its owner comes next


def signed_by_store(vault: DataStore, name: str, data: bytes) -> bytes:
    """What of an object goes from a vault into a data store; empty: nothing.

    What the vault signed itself is signed by the store, since whoever does this has its keys; its
    heads tell of the vault and are left there.

    Args:
        vault: Where it is from.
        name: Of the object.
        data: Its bytes, which were verified.
    """
    if name.partition("/")[0] not in layout.VAULTS_OWN:
        return data
    frame = Frame.parse(data, name=name)
    if not frame.by_vault:
        return data
    if frame.kind == Kind.HEAD:
        return b""
    return write_document(
        Kind(frame.kind),
        name,
        frame.clear,
        frame.unseal(vault.keys) if frame.sealed else b"",
        keys=vault.keys,
        suite=vault.suite,
        owner=frame.owner,
    )


def _name_at(store: DataStore, place: Transport) -> str:
    """Which vault a place is; empty if it is none."""
    for copy in layout.FORMAT_COPIES:
        if found := whole_format(store, place, copy):
            return found.facts.vault
    view = DataStore(place, store.facts, store.keys, unfinished=True)
    for entry in place.entries(layout.KEYS):
        if layout.is_vault_keys(entry.name):
            with suppress(*UNREADABLE):
                said, _ = view.read_surely(entry.name, Kind.VAULT_KEYS, VaultKeysDocument)
                return said.vault
    return ""


def _require_keys(vault: DataStore, clock: Clock) -> None:
    """See that the keys of the present epoch are there, for whoever has no key but the public."""
    keys = vault.keys
    name = layout.vault_keys(keys.epoch)
    document = VaultKeysDocument(
        store=vault.store_id,
        epoch=keys.epoch,
        vault=vault.facts.vault,
        verify=keys.public(vault=vault.facts.vault).verify.hex(),
        made_at=clock().isoformat(),
    )
    try:
        said, _ = vault.read_surely(name, Kind.VAULT_KEYS, VaultKeysDocument)
        if (said.vault, said.verify) == (document.vault, document.verify):
            return
        set_aside(vault, name)
    except ObjectMissing:
        pass
    except Damaged:
        set_aside(vault, name)
    except ObjectUnreadable:
        return
    vault.write(name, Kind.VAULT_KEYS, document)
