"""A data store that is open: what it is, its keys, and its signed documents."""

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

import msgspec

from likeness.codec.aead import Suite
from likeness.codec.documents import (
    MAX_DOCUMENT_BYTES,
    OF_VAULTS,
    Frame,
    Kind,
    write_document,
)
from likeness.codec.hashing import digest
from likeness.codec.keys import FIRST_EPOCH, PublicKeys, StoreKeys
from likeness.errors import (
    Damaged,
    DocumentForged,
    ObjectMissing,
    ObjectUnreadable,
    ShareRefused,
    ShareUnreachable,
    StoreTooNew,
)
from likeness.model.ids import StoreId, random_name
from likeness.store.format import layout
from likeness.store.format.adopted import Past
from likeness.store.format.believing import read_surely
from likeness.store.format.documents import (
    FormatDocument,
    decode,
    encode,
)
from likeness.store.format.guard import require_writer
from likeness.transport.base import Transport

_D = TypeVar("_D", bound=msgspec.Struct)


class DataStore:
    """An open store. Everything it reads was verified before it is given out."""

    def __init__(
        self,
        transport: Transport,
        facts: FormatDocument,
        keys: StoreKeys,
        *,
        unfinished: bool = False,
        fence: "Callable[[DataStore], None]" = lambda _: None,
        past: Past | None = None,
    ) -> None:
        """Use `open_store` or `create_store`; a vault that is being filled is `unfinished`.

        `fence` refuses an installation that does not own the store any more; see `owning`.
        `past` knows its owners; see `adopted`.
        """
        self.transport, self.facts, self.keys = transport, facts, keys
        self._unfinished, self.fence = unfinished, fence
        self.past = past or Past()
        self.read_only = False

    def __repr__(self) -> str:
        return f"DataStore({self.facts.store} on {self.transport!r})"

    @property
    def store_id(self) -> StoreId:
        """Its id."""
        return StoreId(self.facts.store)

    @property
    def suite(self) -> Suite:
        """How new objects are sealed."""
        return Suite(self.facts.suite)

    @property
    def chunk_bytes(self) -> int:
        """The unit of deduplication, in bytes."""
        return self.facts.chunk_bytes

    def verifier(self, frame: Frame) -> PublicKeys:
        """The public keys a document must be signed with.

        Raises:
            Damaged: It claims an epoch this store never had.
            WrittenLate: Whoever wrote it did not own the store any more.
        """
        if frame.by_vault:
            require_of_vault(frame, self.facts.vault)
            return verifier_of(self.keys, frame, vault=self.facts.vault)
        keys = verifier_of(self.keys, frame)
        self.past.require_timely(self, frame)
        return keys

    @contextmanager
    def again(self) -> Generator["DataStore", None, None]:
        """The same store over a connection of its own, for a second look; see `believing`.

        Raises:
            ShareUnreachable: It is not there any more, only a folder is.
        """
        with self.transport.again() as transport:
            if not self._unfinished:
                require_unchanged(transport, self.store_id)
            yield self.over(transport)

    def over(self, transport: Transport) -> "DataStore":
        """The same store over another transport that leads to it."""
        store = DataStore(
            transport,
            self.facts,
            self.keys,
            unfinished=self._unfinished,
            fence=self.fence,
            past=self.past,
        )
        store.read_only = self.read_only
        return store

    def read(self, name: str, kind: Kind, clear: type[_D]) -> tuple[_D, Frame]:
        """The clear part of a signed document, and its frame for the sealed part.

        Raises:
            ObjectMissing: It is not there.
            Damaged: It is not whole, or not signed by this store for this place.
            StoreTooNew: A later release wrote it.
        """
        return self._judged(name, kind, clear)(_document_bytes(self.transport, name))

    def read_surely(self, name: str, kind: Kind, clear: type[_D]) -> tuple[_D, Frame]:
        """As `read`; for decisions that rest on it being lost, see `believing`."""
        return read_surely(self, name, self._judged(name, kind, clear))

    def read_unchanging(self, name: str, kind: Kind, clear: type[_D]) -> tuple[_D, Frame]:
        """As `read_surely`, once for an opening: what was whole then and never changes."""
        judged = self._judged(name, kind, clear)
        if name in self.past.documents:
            with suppress(Damaged):
                return judged(self.past.documents[name])

        def kept(data: bytes) -> tuple[_D, Frame]:
            found = judged(data)
            self.past.documents[name] = data
            return found

        return read_surely(self, name, kept)

    def _judged(
        self, name: str, kind: Kind, clear: type[_D]
    ) -> Callable[[bytes], tuple[_D, Frame]]:
        return lambda data: signed_document(data, name, kind, clear, self.verifier)

    def require_writable(self) -> None:
        """Return, if this release and this installation may change the store; see `guard`.

        Raises:
            StoreTooNew: This release may read it only.
            StoreTakenOver: Another installation owns it now.
            ShareRefused: This machine only reads from it.
        """
        require_writer(self.facts)
        if self.read_only:
            raise ShareRefused(
                f"data store {self.store_id[:8]} is only read from here, as its block says; write"
                " to it where its jobs run"
            )
        self.fence(self)

    def for_one_step(self) -> "DataStore":
        """The same store for one step of work, such as putting a catalog copy in its parts.

        Whose the store is was looked at now, and is not looked at again within the step.

        Raises:
            StoreTooNew, StoreTakenOver, ShareRefused: See `require_writable`.
        """
        self.require_writable()
        step = copy.copy(self)
        step.fence = lambda _: None
        return step

    def for_writing(self) -> Transport:
        """The transport, for everybody who creates, renames or deletes an object.

        Raises:
            StoreTooNew: This release may read the store only; nothing was changed.
            StoreTakenOver: Another installation owns it now; nothing was changed.
        """
        self.require_writable()
        return self.transport

    def require_unchanged(self) -> None:
        """Return, if the store is still where it was opened.

        A share whose disk is not mounted any more looks like an empty folder, and takes whatever
        is written into it.

        Raises:
            ShareUnreachable: It is not.
        """
        require_unchanged(self.transport, self.store_id)

    def write(
        self, name: str, kind: Kind, clear: msgspec.Struct, sealed: bytes = b""
    ) -> tuple[str, int]:
        """Write a signed document under a name nobody has used.

        Returns:
            Its BLAKE3 digest as hex, and its length in bytes.

        Raises:
            NameTaken: There is an object of that name.
            BadInput: No reader would accept it.
            StoreTooNew: This release may only read the store.
        """
        self.for_writing()
        return self.write_unfenced(name, kind, clear, sealed)

    def write_unfenced(
        self, name: str, kind: Kind, clear: msgspec.Struct, sealed: bytes = b""
    ) -> tuple[str, int]:
        """As `write`, for the fence itself."""
        data = write_document(
            kind,
            name,
            encode(clear),
            sealed,
            keys=self.keys,
            suite=self.suite,
            owner=self.past.owner_now(self),
            vault=self.facts.vault if kind in OF_VAULTS else "",
        )
        self.transport.create(name, [data])
        if kind is Kind.VERSION:
            self.past.written.add(name)
        return digest([data]).hex(), len(data)


def read_frame(transport: Transport, name: str) -> Frame:
    """A document, not yet believed; of anything longer than a document only the beginning is read.

    Raises:
        ObjectMissing: It is not there.
        Damaged: It is not whole.
        StoreTooNew: A later release wrote it.
    """
    return Frame.parse(_document_bytes(transport, name), name=name)


def require_unchanged(transport: Transport, store_id: StoreId) -> None:
    """See `DataStore.require_unchanged`."""
    if not any(_seems_there(transport, copy) for copy in layout.FORMAT_COPIES):
        raise ShareUnreachable(
            f"data store {store_id[:8]} is not at {transport} any more, only a folder is; see"
            " whether the share's disk is mounted there, then run again"
        )


class Writable(Protocol):
    """A place that may be changed."""

    def for_writing(self) -> Transport:
        """The transport, for everybody who creates, renames or deletes an object."""


def set_aside(store: Writable, name: str) -> None:
    """Move an object that is surely not whole out of the way; nothing damaged is ever deleted."""
    with suppress(ObjectMissing):
        store.for_writing().rename(name, f"{layout.QUARANTINE}/{random_name()}")


def signed_document(
    data: bytes,
    name: str,
    kind: Kind,
    clear: type[_D],
    verifier: Callable[[Frame], PublicKeys],
) -> tuple[_D, Frame]:
    """The clear part of a signed document in `data`, and its frame.

    Raises:
        Damaged: It is not whole, or not signed by this store for this place.
        StoreTooNew: A later release wrote it. What is signed and does not read is not damaged.
    """
    frame = Frame.parse(data, name=name)
    frame.require_signature(kind, verifier(frame))
    return signed_part(frame.clear, clear, name=name), frame


def signed_part(data: bytes, kind: type[_D], *, name: str) -> _D:
    """A part of a document whose signature was verified; so it is as it was written.

    Raises:
        StoreTooNew: It says what this release does not know.
    """
    try:
        return decode(data, kind, name=name)
    except Damaged as cause:
        raise StoreTooNew(
            f"{name} was written by a later release, and says what this one does not know; install"
            " a later release"
        ) from cause


def _document_bytes(transport: Transport, name: str) -> bytes:
    return transport.read(name, 0, MAX_DOCUMENT_BYTES + 1)


def is_there(transport: Transport, name: str) -> bool:
    """Whether there is an object of that name."""
    try:
        transport.size(name)
    except ObjectMissing:
        return False
    return True


def _seems_there(transport: Transport, name: str) -> bool:
    """Whether something of that name is there, readable or not."""
    try:
        return is_there(transport, name)
    except (ObjectUnreadable, ShareRefused):
        return True


def require_of_vault(frame: Frame, vault: str) -> None:
    """Return, if a document that a vault signed may count here.

    Args:
        frame: The document.
        vault: The vault this place is; empty: none.

    Raises:
        DocumentForged: Nothing that a vault signs counts in a data store, and some in no place.
    """
    if not vault or frame.kind not in OF_VAULTS:
        raise DocumentForged(
            frame.name, "a vault signed it, and it is nothing that a vault may say here"
        )


def verifier_of(keys: StoreKeys, frame: Frame, *, vault: str = "") -> PublicKeys:
    """See `DataStore.verifier`."""
    if not FIRST_EPOCH <= frame.epoch <= keys.epoch:
        raise Damaged(frame.name, f"it is of epoch {frame.epoch}, which this store never had")
    return keys.public(frame.epoch, vault=vault)
