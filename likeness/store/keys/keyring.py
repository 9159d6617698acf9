"""Keyring: the ways of opening a store, and its epochs.

A *slot* holds the master key for one way of opening. Slots come and go; the master key never
changes, so whoever once opened a slot and kept the master key can open everything for ever: taking
a slot away shuts out those who know its passphrase and nothing else.

An *epoch* is a set of box, sign and meta keys. A new one is begun every year, or when somebody
leaves who may have known them. What older epochs made stays readable and valid; new packs are
sealed to the new box key and new documents signed with the new key.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from likeness.clock import Clock
from likeness.codec import slots
from likeness.codec.aead import KEY_BYTES
from likeness.codec.documents import Kind
from likeness.codec.keys import FIRST_EPOCH, StoreKeys
from likeness.codec.slots import Slot, SlotKind
from likeness.codec.typed import passphrase_bytes, passphrase_forms
from likeness.errors import BadInput, WrongKey
from likeness.model.ids import random_name
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore, set_aside
from likeness.store.format.documents import OwnerDocument
from likeness.store.format.observations import UNKNOWN, UNREADABLE, cause_of
from likeness.store.format.opening import add_slot, has_epoch, open_store, write_public_keys
from likeness.store.format.owning import newest_owner
from likeness.store.write.heads import write_head
from likeness.transport.base import Transport

SHORTEST_PASSPHRASE = 12
"""Characters. Whoever can read the share may try passphrases for as long as they like."""


@dataclass(frozen=True, slots=True)
class KeySlot:
    """One way of opening the store.

    Attributes:
        name: The object.
        kind: What opens it; none if that cannot be read.
        problem: Why it is not to be relied on; empty if it is whole and this store's own.
    """

    name: str
    kind: SlotKind | None
    problem: str = ""


def list_slots(store: DataStore) -> tuple[KeySlot, ...]:
    """Every slot, those that are damaged or forged too."""
    found = []
    for entry in store.transport.entries(layout.KEYS):
        if layout.is_known(entry.name) and "/slot-" in entry.name:
            try:
                slot, _ = store.read(entry.name, Kind.SLOT, Slot)
            except UNREADABLE as cause:
                found.append(KeySlot(entry.name, None, cause_of(cause)))
            else:
                found.append(KeySlot(entry.name, slot.kind))
    return tuple(found)


def add_passphrase(store: DataStore, passphrase: str) -> str:
    """Let a passphrase open the store from now on; return the slot's name.

    Raises:
        BadInput: It is too short.
    """
    kept = passphrase_bytes(passphrase)
    if len(kept.decode()) < SHORTEST_PASSPHRASE:
        raise BadInput(
            f"a passphrase needs at least {SHORTEST_PASSPHRASE} characters, since whoever can read"
            " the share can try it for years; choose several words"
        )
    return add_slot(store, kept, SlotKind.PASSPHRASE)


def open_with_passphrase(transport: Transport, passphrase: str) -> DataStore:
    """Open a store with a passphrase, in whatever Unicode form it is typed; see `open_store`."""
    *others, last = passphrase_forms(passphrase)
    for form in others:
        with suppress(WrongKey):
            return open_store(transport, form, SlotKind.PASSPHRASE)
    return open_store(transport, last, SlotKind.PASSPHRASE)


def add_recovery_words(store: DataStore) -> tuple[str, str]:
    """Make new recovery words; older ones go on working until their slot is removed.

    Returns:
        The slot's name, and 24 words that nobody keeps.
    """
    secret = slots.fresh_secret()
    return add_slot(store, secret, SlotKind.RECOVERY_WORDS), slots.as_words(secret)


def add_key_file(store: DataStore, path: Path) -> str:
    """Make a new key file for another machine; return the slot's name.

    Raises:
        BadInput: There is a file of that name.
    """
    secret = slots.fresh_secret()
    slots.write_key_file(path, secret)
    return add_slot(store, secret, SlotKind.KEY_FILE)


def add_escrow(store: DataStore, public: bytes) -> str:
    """Let the holder of an escrow key open the store; return the slot's name.

    Args:
        store: Where.
        public: The key's public half, 32 bytes; see `slots.escrow_public_key`.

    Raises:
        BadInput: It is no public key.
    """
    if len(public) != KEY_BYTES or not any(public):
        raise BadInput(f"an escrow key's public half has {KEY_BYTES} bytes, and not all are zero")
    return add_slot(store, public, SlotKind.ESCROW)


def remove_slot(store: DataStore, name: str) -> None:
    """Take a way of opening the store away; the last one that is whole stays.

    Args:
        store: Where.
        name: The slot's, as `list_slots` gives it.

    Raises:
        BadInput: There is no such slot, or it is the last one.
    """
    known = {slot.name: slot for slot in list_slots(store)}
    if name not in known:
        raise BadInput(f"{name!r} is no key slot of this store; list them and choose one")
    if all(slot.problem for slot in known.values() if slot.name != name):
        raise BadInput(
            f"{name} is the last key slot that is whole; without it nobody opens this store again,"
            " so add another way first"
        )
    store.for_writing().delete(name)


def begin_epoch(store: DataStore, *, clock: Clock) -> DataStore:
    """Begin a new epoch, or finish beginning one after a crash; see the module.

    Other processes that have the store open do not know the new epoch: begin one while no job
    runs, and give the new fingerprint to whoever keeps the old one.

    Returns:
        The store in its new epoch; the one given stays in the old.

    Raises:
        ShareUnreachable: Nobody knows how far it came; open the store again and repeat.
    """
    keys = store.keys
    owner, signed_in = newest_owner(store)
    if owner is None or signed_in == keys.epoch:
        fresh = StoreKeys(keys.store, keys.master, epoch=keys.epoch + 1)
        if not has_epoch(store.transport, fresh, fresh.epoch):
            set_aside(store, layout.public_keys(fresh.epoch))
            write_public_keys(store, fresh.public(), clock=clock)
        keys = fresh
    begun = DataStore(store.transport, store.facts, keys)
    owner, signed_in = newest_owner(begun)
    if owner is not None and signed_in == keys.epoch:
        return begun  # an earlier attempt came to its end, unknown to this one
    number = owner.number + 1 if owner else 1
    document = OwnerDocument(
        number=number,
        installation=owner.installation if owner else random_name(),
        taken_at=clock().isoformat(),
        host=owner.host if owner else "",
    )
    name = layout.numbered(layout.OWNER, number)
    set_aside(store, name)
    begun.write(name, Kind.OWNER, document)
    return begun


def renew_public_keys(store: DataStore, *, clock: Clock) -> tuple[str, ...]:
    """Write the public keys of every epoch whose document is missing, damaged or forged.

    Returns:
        Names of the documents that were written anew.
    """
    lost = [epoch for epoch in range(FIRST_EPOCH, store.keys.epoch + 1) if _is_lost(store, epoch)]
    for epoch in lost:
        set_aside(store, layout.public_keys(epoch))
    if lost:
        write_head(store, clock=clock)  # the heads forget the lost ones first
    for epoch in lost:
        signer = StoreKeys(store.store_id, store.keys.master, epoch=max(epoch - 1, FIRST_EPOCH))
        as_signer = DataStore(store.transport, store.facts, signer)
        write_public_keys(as_signer, store.keys.public(epoch), clock=clock)
    if lost:
        write_head(store, clock=clock)
    return tuple(layout.public_keys(epoch) for epoch in lost)


def _is_lost(store: DataStore, epoch: int) -> bool:
    """Whether an epoch's public keys are surely not whole; those that cannot be read stay."""
    try:
        return not has_epoch(store.transport, store.keys, epoch)
    except UNKNOWN:
        return False
