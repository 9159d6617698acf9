"""A store as seen without any secret: what was signed can be read and checked, nothing opened.

The store's own public keys vouch for nothing by themselves: whoever can write to the share could
have put others there. A fingerprint from the recovery sheet makes them trustworthy.
"""

import re
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol, Self, TypeVar

import msgspec

from likeness.codec.documents import MAX_DOCUMENT_BYTES, Frame, Kind
from likeness.codec.keys import FIRST_EPOCH, PublicKeys
from likeness.errors import BadInput, Damaged, ShareRefused, WrongFingerprint
from likeness.model.ids import StoreId
from likeness.store.format import layout
from likeness.store.format.adopted import Past
from likeness.store.format.believing import Unopened, read_surely
from likeness.store.format.data_store import (
    DataStore,
    require_of_vault,
    require_unchanged,
    signed_document,
)
from likeness.store.format.documents import (
    FormatDocument,
    PublicKeysDocument,
    VaultKeysDocument,
    decode,
)
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.opening import claimed_stores
from likeness.transport.base import Transport

_FINGERPRINT_DIGITS = 32
_MAX_KEY_BYTES = 1 << 16
_D = TypeVar("_D", bound=msgspec.Struct)


class SignedView(Protocol):
    """What an audit needs of a store; a `DataStore` and a `PublicStore` give it."""

    @property
    def transport(self) -> Transport:
        """Where it is."""

    @property
    def store_id(self) -> StoreId:
        """Its id."""

    def verifier(self, frame: Frame) -> PublicKeys:
        """The public keys a document must be signed with.

        Raises:
            Damaged: No such keys are known.
        """

    def read(self, name: str, kind: Kind, clear: type[_D]) -> tuple[_D, Frame]:
        """The clear part of a signed document, and its frame.

        Raises:
            ObjectMissing: It is not there.
            Damaged: It is not whole, or not signed by this store for this place.
            StoreTooNew: A later release wrote it.
        """

    def read_surely(self, name: str, kind: Kind, clear: type[_D]) -> tuple[_D, Frame]:
        """As `read`; for decisions that rest on it being lost, see `believing`.

        Raises:
            ObjectMissing: It is not there.
            Damaged: It is not whole, or not signed by this store for this place.
            ObjectUnreadable: Two readings differ.
            StoreTooNew: A later release wrote it.
        """

    def read_unchanging(self, name: str, kind: Kind, clear: type[_D]) -> tuple[_D, Frame]:
        """As `read_surely`, for what never changes."""

    def again(self) -> AbstractContextManager[Self]:
        """The same store over a connection of its own, for a second look; see `believing`."""

    def over(self, transport: Transport) -> Self:
        """The same store over another transport that leads to it."""

    def for_writing(self) -> Transport:
        """The transport, for everybody who creates, renames or deletes an object."""


class PublicStore:
    """A store whose signatures can be checked."""

    def __init__(
        self,
        transport: Transport,
        store_id: StoreId,
        keys: Mapping[int, PublicKeys],
        *,
        past: Past | None = None,
        vault: str | None = None,
        unfinished: bool = False,
    ) -> None:
        """Use `open_public`; of a vault that is being filled, `vault` says which it is."""
        self.transport, self.store_id, self.keys = transport, store_id, dict(keys)
        self.past = past or Past()
        self._vault, self._unfinished = vault, unfinished

    def __repr__(self) -> str:
        return f"PublicStore({self.store_id} on {self.transport!r})"

    @property
    def fingerprint(self) -> str:
        """Of the newest epoch whose keys are known."""
        return self.keys[max(self.keys)].fingerprint

    def verifier(self, frame: Frame) -> PublicKeys:
        """See `SignedView.verifier`."""
        keys = self.keys.get(frame.epoch)
        if keys is None:
            raise Damaged(
                frame.name,
                f"it is of epoch {frame.epoch}, whose public keys are missing or not to be trusted",
            )
        if frame.by_vault:
            require_of_vault(frame, self.vault)
            return self._keys_of_vault(frame.epoch)
        self.past.require_timely(self, frame)
        return keys

    @property
    def vault(self) -> str:
        """Which vault this is, as its format document says; empty: the data store itself."""
        if self._vault is None:
            self._vault = ""
            for copy in layout.FORMAT_COPIES:
                with suppress(*UNREADABLE):
                    data = self.transport.read(copy, 0, MAX_DOCUMENT_BYTES + 1)
                    name = layout.FORMAT_COPIES[0]
                    facts, _ = signed_document(
                        data, name, Kind.FORMAT, FormatDocument, self.verifier
                    )
                    self._vault = facts.vault
                    break
        return self._vault

    def _keys_of_vault(self, epoch: int) -> PublicKeys:
        name = layout.vault_keys(epoch)
        said, _ = self.read_surely(name, Kind.VAULT_KEYS, VaultKeysDocument)
        if (said.vault, said.epoch) != (self.vault, epoch):
            raise Damaged(name, "it holds the keys of another vault")
        return PublicKeys(self.store_id, epoch, self.keys[epoch].box, bytes.fromhex(said.verify))

    def for_writing(self) -> Transport:
        """The transport, for the host of a vault; it looked whose vault it is.

        Raises:
            ShareRefused: It is the data store itself.
        """
        if not self.vault:
            raise ShareRefused("whoever holds no key of a data store changes nothing there")
        return self.transport

    def read(self, name: str, kind: Kind, clear: type[_D]) -> tuple[_D, Frame]:
        """See `SignedView.read`."""
        data = self.transport.read(name, 0, MAX_DOCUMENT_BYTES + 1)
        return signed_document(data, name, kind, clear, self.verifier)

    def read_surely(self, name: str, kind: Kind, clear: type[_D]) -> tuple[_D, Frame]:
        """See `SignedView.read_surely`."""

        def judge(data: bytes) -> tuple[_D, Frame]:
            return signed_document(data, name, kind, clear, self.verifier)

        return read_surely(self, name, judge)

    def read_unchanging(self, name: str, kind: Kind, clear: type[_D]) -> tuple[_D, Frame]:
        """The same; who holds no key reads little, and remembers nothing."""
        return self.read_surely(name, kind, clear)

    @contextmanager
    def again(self) -> Generator["PublicStore", None, None]:
        """See `SignedView.again`."""
        with self.transport.again() as transport:
            if not self._unfinished:
                require_unchanged(transport, self.store_id)
            yield self.over(transport)

    def over(self, transport: Transport) -> "PublicStore":
        """See `SignedView.over`."""
        return PublicStore(
            transport,
            self.store_id,
            self.keys,
            past=self.past,
            vault=self._vault,
            unfinished=self._unfinished,
        )


def open_public(transport: Transport, *, fingerprint: str | None = None) -> PublicStore:
    """Look at a store with its public keys alone.

    Keys are trusted along the chain of their signatures: each epoch's are signed by the epoch
    before. The chain hangs on the epoch with the fingerprint, in both directions.

    Args:
        transport: Where it is.
        fingerprint: What the recovery sheet says; spaces and case do not matter. Without it the
            store's word is taken, which finds accidents and clumsy forgers only.

    Raises:
        StoreMissing: There is no store.
        BadInput: That is no fingerprint.
        WrongFingerprint: The store's keys have another fingerprint.
        Damaged: None of its public keys can be read.
    """
    for store_id in claimed_stores(transport):
        claims = dict(_claims(transport, store_id))
        if claims:
            break
    else:
        raise Damaged(
            layout.public_keys(FIRST_EPOCH),
            "none of the store's public keys is whole; open the store with one of its keys, which"
            " gives them anew",
        )
    known = {epoch: claim.keys for epoch, claim in claims.items()}
    anchor = min(claims) if fingerprint is None else _pinned(known, fingerprint)
    return PublicStore(transport, store_id, _chained(claims, anchor))


@dataclass(frozen=True, slots=True)
class _Claim:
    keys: PublicKeys
    frame: Frame

    def signed_by(self, keys: PublicKeys) -> bool:
        try:
            self.frame.require_signature(Kind.PUBLIC_KEYS, keys)
        except Damaged:
            return False
        return True


def _claims(transport: Transport, store_id: StoreId) -> list[tuple[int, _Claim]]:
    found = []
    for entry in transport.entries(layout.KEYS):
        small = entry.size_bytes <= _MAX_KEY_BYTES
        if layout.is_known(entry.name) and "/pub-" in entry.name and small:
            try:
                judge = partial(_claimed, name=entry.name)
                said, frame = read_surely(Unopened(transport), entry.name, judge)
            except UNREADABLE:
                continue  # the audit tells of it
            box, verify = bytes.fromhex(said.box), bytes.fromhex(said.verify)
            claim = _Claim(PublicKeys(store_id, said.epoch, box, verify), frame)
            if layout.public_keys(said.epoch) == entry.name and said.store == store_id:
                found.append((said.epoch, claim))
    return found


def _claimed(data: bytes, name: str) -> tuple[PublicKeysDocument, Frame]:
    frame = Frame.parse(data, name=name)
    return decode(frame.clear, PublicKeysDocument, name=name), frame


def require_fingerprint(store: DataStore, fingerprint: str) -> None:
    """Leave unless that is the fingerprint of one of the store's epochs.

    Raises:
        BadInput: That is no fingerprint.
        WrongFingerprint: It is another store's.
    """
    epochs = range(FIRST_EPOCH, store.keys.epoch + 1)
    _pinned({epoch: store.keys.public(epoch) for epoch in epochs}, fingerprint)


def _pinned(known: Mapping[int, PublicKeys], fingerprint: str) -> int:
    wanted = re.sub(r"[\s:-]", "", fingerprint).lower()
    if len(wanted) != _FINGERPRINT_DIGITS or set(wanted) - set("0123456789abcdef"):
        raise BadInput(
            f"a fingerprint has {_FINGERPRINT_DIGITS} hex digits, as on the recovery sheet;"
            f" {fingerprint!r} is none"
        )
    for epoch, keys in known.items():
        if keys.fingerprint.replace(" ", "") == wanted:
            return epoch
    shown = known[max(known)].fingerprint
    raise WrongFingerprint(
        f"the store's public key has the fingerprint {shown}, not the one given; this is another"
        " store, or somebody has replaced its keys"
    )


def _chained(claims: Mapping[int, _Claim], anchor: int) -> dict[int, PublicKeys]:
    trusted = {anchor: claims[anchor].keys}
    epoch = anchor
    while epoch + 1 in claims and claims[epoch + 1].signed_by(trusted[epoch]):
        epoch += 1
        trusted[epoch] = claims[epoch].keys
    epoch = anchor
    while epoch - 1 in claims and claims[epoch].signed_by(claims[epoch - 1].keys):
        epoch -= 1
        trusted[epoch] = claims[epoch].keys
    return trusted
