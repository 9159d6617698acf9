"""A vault that becomes the data store, since the one it was filled from is gone."""

import msgspec

from likeness.codec.documents import MAX_DOCUMENT_BYTES, Frame
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore, set_aside
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.vaults import format_document, signed_by_store


def as_data_store(vault: DataStore) -> DataStore:
    """Make a vault the data store; one that is no vault stays as it is. Safe to repeat.

    What the vault signed itself is signed by the store from now on, its heads are set aside, and
    the format documents, which say that it is a vault, are written anew at the end.

    Raises:
        ShareUnreachable: Nobody knows how far it came; repeat.
    """
    if not vault.facts.vault:
        return vault
    for folder in layout.VAULTS_OWN:
        for entry in list(vault.transport.entries(folder)):
            if layout.is_known(entry.name):
                _sign_anew(vault, entry.name)
    for entry in list(vault.transport.entries(layout.KEYS)):
        if layout.is_vault_keys(entry.name):
            set_aside(vault, entry.name)
    facts = msgspec.structs.replace(vault.facts, vault="")
    store = DataStore(vault.transport, facts, vault.keys, fence=vault.fence, past=vault.past)
    data = format_document(store)
    for name in reversed(layout.FORMAT_COPIES):
        set_aside(store, name)
        store.for_writing().create(name, [data])
    return store


def _sign_anew(vault: DataStore, name: str) -> None:
    """One document, unless the store signed it, or it is of no use to anybody."""
    try:
        data = vault.transport.read(name, 0, MAX_DOCUMENT_BYTES + 1)
        frame = Frame.parse(data, name=name)
        if not frame.by_vault:
            return
        frame.require_signature(layout.kind_of(name), vault.verifier(frame))
    except UNREADABLE:
        return  # an audit tells of it
    signed = signed_by_store(vault, name, data)
    set_aside(vault, name)
    if signed:
        vault.for_writing().create(name, [signed])
