"""A vault that becomes the data store, since the one it was filled from is gone."""

from contextlib import suppress

import msgspec

from likeness.codec.documents import MAX_DOCUMENT_BYTES, Frame, Kind
from likeness.errors import NameTaken
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore, set_aside
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.vaults import format_document, signed_by_store

_STATEMENTS = {
    layout.kind_of(layout.numbered(folder, 1)): folder
    for folder in (layout.SWEPT, layout.FORGETS, layout.HOLDS, layout.CONDEMNED)
}
"""Folders of those documents that tell their own name."""


def as_data_store(vault: DataStore) -> DataStore:
    """Make a vault the data store; one that is no vault stays as it is. Safe to repeat.

    What the vault signed itself is signed by the store from now on, its heads are set aside, and
    the format documents, which say that it is a vault, are written anew at the end.

    Raises:
        ShareUnreachable: Nobody knows how far it came; repeat.
    """
    if not vault.facts.vault:
        return vault
    _finish_statements(vault)
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


class _Numbered(msgspec.Struct):
    number: int


def _finish_statements(vault: DataStore) -> None:
    """Sign what a try that died had set aside, and had not yet written anew under its name."""
    for entry in list(vault.transport.entries(layout.QUARANTINE)):
        with suppress(*UNREADABLE, msgspec.DecodeError, ValueError):  # it is none of ours
            data = vault.transport.read(entry.name, 0, MAX_DOCUMENT_BYTES + 1)
            frame = Frame.parse(data, name=entry.name)
            folder = _STATEMENTS.get(Kind(frame.kind))
            if not frame.by_vault or folder is None:
                continue
            said = msgspec.json.decode(frame.clear, type=_Numbered)
            name = layout.numbered(folder, said.number)
            frame = Frame.parse(data, name=name)
            frame.require_signature(layout.kind_of(name), vault.verifier(frame))
            with suppress(NameTaken):
                vault.for_writing().create(name, [signed_by_store(vault, name, data)])


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
