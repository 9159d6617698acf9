"""Opening a data store by whatever opens it, and making a new one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from likeness.clock import Clock
from likeness.codec import slots
from likeness.codec.aead import Suite
from likeness.codec.documents import MAX_DOCUMENT_BYTES, Frame, Kind, write_document
from likeness.codec.keys import FIRST_EPOCH, PublicKeys, StoreKeys
from likeness.codec.slots import Slot, SlotKind
from likeness.codec.typed import passphrase_bytes
from likeness.errors import (
    BadInput,
    Damaged,
    LikenessError,
    ObjectMissing,
    ObjectUnreadable,
    ShareRefused,
    StoreExists,
    StoreMissing,
    StoreTooNew,
    WrongKey,
)
from likeness.model.ids import StoreId, random_name
from likeness.store.format import layout
from likeness.store.format.adopted import Past
from likeness.store.format.believing import LOST, Unopened, read_surely
from likeness.store.format.data_store import (
    DataStore,
    is_there,
    signed_document,
    signed_part,
    verifier_of,
)
from likeness.store.format.documents import (
    FormatDocument,
    OwnerDocument,
    PublicKeysDocument,
    decode,
    encode,
)
from likeness.store.format.guard import STORE_FORMAT, is_chunk_size, require_reader
from likeness.transport.base import Transport
from likeness.transport.passing import CarefulTransport, OnceTransport

DEFAULT_CHUNK_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class NewStore:
    """A store just made, and what its owner must put away safely.

    Attributes:
        store: Open and empty.
        recovery_words: 24 words that open it when everything else is lost; nobody keeps them.
    """

    store: "DataStore"
    recovery_words: str = field(repr=False)


def create_store(
    transport: Transport,
    *,
    key_file: Path,
    clock: Clock,
    passphrase: str | None = None,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    suite: Suite = Suite.AEGIS_256,
    installation: str | None = None,
    confirm_words: Callable[[str], None] = lambda _: None,
) -> NewStore:
    """Make a store and its keys in an empty place.

    The document that makes it a store is written last: a crash before leaves no store, only files
    to be removed by hand.

    Args:
        transport: An empty place.
        key_file: Where to put the key that opens the store without a person; a new file, 0600.
        clock: The present.
        passphrase: Another way to open it; none by default.
        chunk_bytes: The unit of deduplication, a power of two from 64 KiB to 4 MiB; for ever.
        suite: How to seal.
        installation: Who owns it, 32 hex digits; random if not given.
        confirm_words: Told the recovery words before anything is written, to have them put on paper
            and read back; what it raises leaves the place as it was.

    Raises:
        StoreExists: The place holds a store, or anything else.
        BadInput: A key file of that name exists, or the chunk size cannot be.
    """
    _require_chunk_size(chunk_bytes)
    require_empty(transport)
    _require_usable(transport)
    master, in_file, on_paper = (slots.fresh_secret() for _ in range(3))
    keys = StoreKeys(StoreId(random_name()), master)
    facts = FormatDocument(
        store=keys.store,
        format=STORE_FORMAT,
        oldest_reader=STORE_FORMAT,
        oldest_writer=STORE_FORMAT,
        chunk_bytes=chunk_bytes,
        suite=suite,
        made_at=clock().isoformat(),
    )
    store = DataStore(transport, facts, keys, past=Past(newest=1))
    confirm_words(slots.as_words(on_paper))
    slots.write_key_file(key_file, in_file)
    add_slot(store, in_file, SlotKind.KEY_FILE)
    add_slot(store, on_paper, SlotKind.RECOVERY_WORDS)
    if passphrase is not None:
        add_slot(store, passphrase_bytes(passphrase), SlotKind.PASSPHRASE)
    write_public_keys(store, store.keys.public(), clock=clock)
    owner = OwnerDocument(
        number=1, installation=installation or random_name(), taken_at=facts.made_at
    )
    store.write(layout.numbered(layout.OWNER, 1), Kind.OWNER, owner)
    _write_format(store)
    return NewStore(store, slots.as_words(on_paper))


def open_store(transport: Transport, opener: bytes, kind: SlotKind) -> DataStore:
    """Open a store with one of its keys.

    Args:
        transport: Where it is.
        opener: What `slots.read_key_file` or `slots.from_words` gave, or one of
            `typed.passphrase_forms`.
        kind: Which of them.

    Raises:
        StoreMissing: There is no store.
        WrongKey: No slot of it opens with this.
        StoreTooNew: A later release made it.
        Damaged: None of the three copies of its format document is whole.
    """
    problem: Damaged | None = None
    look = OnceTransport(transport)
    for unlocked in _unlocked(look, claimed_stores(look), opener, kind):
        keys, owner = _newest_epoch(look, unlocked)
        try:
            facts = _first_whole(look, partial(_verified_format, keys=keys))
        except Damaged as cause:
            problem = problem or cause  # somebody else's escrow slot, or a damaged store
        else:
            past = Past(newest=owner, documents=look.seen(layout.OWNER))
            return DataStore(transport, facts, keys, past=past)
    if problem is not None:
        raise problem
    raise WrongKey(
        f"no slot of data store {claimed_store(look)[:8]} opens with this {kind}; use the key"
        " that was made with the store, or the recovery words from its recovery sheet"
    )


def open_store_with_key_file(transport: Transport, key_file: Path) -> DataStore:
    """Open a store with the key in a file; see `open_store`."""
    return open_store(transport, slots.read_key_file(key_file), SlotKind.KEY_FILE)


def add_slot(store: DataStore, opener: bytes, kind: SlotKind) -> str:
    """Add a way of opening the store; return the slot's name.

    Args:
        store: Where.
        opener: What will open it: `typed.passphrase_bytes`, 32 random bytes, or for an escrow key
            its public half.
        kind: Which of them.
    """
    name = layout.slot(random_name()[:16])
    if kind is SlotKind.ESCROW:
        slot = slots.wrap_in_escrow(store.keys.master, opener, store=store.store_id)
    else:
        slot = slots.wrap(store.keys.master, opener, kind, store=store.store_id)
    store.write(name, Kind.SLOT, slot)
    return name


def write_public_keys(store: DataStore, public: PublicKeys, *, clock: Clock) -> None:
    """Write the public keys of an epoch, signed by the one that `store` is in.

    Raises:
        NameTaken: They are there, in whatever state.
    """
    document = PublicKeysDocument(
        store=store.store_id,
        epoch=public.epoch,
        box=public.box.hex(),
        verify=public.verify.hex(),
        made_at=clock().isoformat(),
    )
    store.write(layout.public_keys(public.epoch), Kind.PUBLIC_KEYS, document)


def _require_chunk_size(chunk_bytes: int) -> None:
    if not is_chunk_size(chunk_bytes):
        raise BadInput(
            f"a chunk size of {chunk_bytes} bytes cannot be: choose a power of two"
            " from 64 KiB to 4 MiB"
        )


def require_empty(transport: Transport) -> None:
    """See that a store can be made at a place.

    Raises:
        StoreExists: It holds a store, or anything else.
    """
    if any(name for name in layout.FORMAT_COPIES if is_there(transport, name)):
        raise StoreExists("there is a data store already; open it with its key instead")
    first = next(iter(transport.entries("")), None)
    if first is not None:
        raise StoreExists(
            f"the place is not empty (it holds {first.name}); a new data store needs an empty"
            " folder, so choose another one or clear this one by hand"
        )


def _require_usable(transport: Transport) -> None:
    """Try out all that a store needs of its place, and leave it as it was.

    Raises:
        ShareRefused: The account may not do something, or the file system cannot.
    """
    name, moved = (f"{layout.QUARANTINE}/{random_name()}" for _ in range(2))
    try:
        transport.create(name, [bytes(1)])
        transport.rename(name, moved)
        transport.read(moved)
    finally:
        with suppress(LikenessError):
            transport.delete(name)
            transport.delete(moved)
            transport.delete_folder(layout.QUARANTINE)


def _write_format(store: DataStore) -> None:
    name = layout.FORMAT_COPIES[0]
    data = write_document(
        Kind.FORMAT,
        name,
        encode(store.facts),
        keys=store.keys,
        suite=store.suite,
        owner=store.past.owner_now(store),
    )
    for copy in reversed(layout.FORMAT_COPIES):
        store.for_writing().create(copy, [data])


def claimed_store(transport: Transport) -> StoreId:
    """The id a store gives itself; believed only once a signature bound to it was verified.

    Raises:
        StoreMissing: There is no store.
        Damaged: None of the three copies of its format document is whole.
    """
    return claimed_stores(transport)[0]


def claimed_stores(transport: Transport) -> list[StoreId]:
    """Every id that a copy of the format document gives the store; nearly always just one.

    Raises:
        StoreMissing: There is no store.
        Damaged: None of the three copies is whole.
    """
    claims: list[StoreId] = []

    def note(frame: Frame) -> FormatDocument:
        if frame.kind != Kind.FORMAT:
            raise Damaged(frame.name, "it is another document")
        facts = signed_part(frame.clear, FormatDocument, name=frame.name)
        claims.append(StoreId(facts.store))
        return facts

    for copy in layout.FORMAT_COPIES:
        with suppress(Damaged, StoreMissing, StoreTooNew, ObjectUnreadable, ShareRefused):
            _first_whole(transport, note, (copy,))
    if not claims:
        _first_whole(transport, note)  # says what is wrong
    return list(dict.fromkeys(claims))


def _verified_format(frame: Frame, keys: StoreKeys) -> FormatDocument:
    frame.require_signature(Kind.FORMAT, verifier_of(keys, frame))
    facts = signed_part(frame.clear, FormatDocument, name=frame.name)
    require_reader(facts)
    return facts


def _first_whole(
    transport: Transport,
    read: Callable[[Frame], FormatDocument],
    copies: Sequence[str] = layout.FORMAT_COPIES,
) -> FormatDocument:
    problem: LikenessError | None = None
    for copy in copies:
        try:
            data = transport.read(copy, 0, MAX_DOCUMENT_BYTES + 1)
            frame = Frame.parse(data, name=layout.FORMAT_COPIES[0])
        except ObjectMissing:
            continue
        except (Damaged, StoreTooNew, ObjectUnreadable, ShareRefused) as cause:
            problem = _graver(problem, cause)
            continue
        try:
            return read(frame)
        except Damaged as cause:
            problem = _graver(problem, cause)
    if problem is not None:
        raise problem
    raise StoreMissing(
        f"there is no data store at {transport}; put it back or correct the path; never make an"
        " empty one in its place"
    )


def _graver(before: LikenessError | None, cause: LikenessError) -> LikenessError:
    """What to say when no copy was to be had: of an unread one nobody knows that it is damaged."""
    return before if isinstance(before, ObjectUnreadable | ShareRefused) else cause


def _unlocked(
    transport: Transport, claims: Sequence[StoreId], opener: bytes, kind: SlotKind
) -> Iterator[StoreKeys]:
    """Keys that slots give to this opener, not yet borne out by anything."""
    for slot in _slots(transport):
        for store_id in claims if slot.kind is kind else ():
            with suppress(WrongKey):
                yield StoreKeys(store_id, slots.unwrap(slot, opener, store=store_id))


def _slots(transport: Transport) -> Iterator[Slot]:
    unread: LikenessError | None = None
    for entry in transport.entries(layout.KEYS):
        if layout.is_known(entry.name) and "/slot-" in entry.name:
            name = entry.name
            try:
                yield read_surely(Unopened(transport), name, partial(_claimed_slot, name=name))
            except LOST:
                continue  # another slot may open; the audit reports this one
            except (ObjectUnreadable, ShareRefused, StoreTooNew) as cause:
                unread = cause
    if unread is not None:
        raise unread  # none of the others opened, and this one might have


def _claimed_slot(data: bytes, name: str) -> Slot:
    return decode(Frame.parse(data, name=name).clear, Slot, name=name)


def _newest_epoch(transport: Transport, keys: StoreKeys) -> tuple[StoreKeys, int]:
    """Keys of the newest epoch that anything signed bears out, and the newest owner's number.

    An epoch is begun with its public keys and an owner document, so the loss of one of them does
    not set the store back.
    """
    newest, owner, listing = FIRST_EPOCH, 0, CarefulTransport(transport)
    for entry in listing.entries(layout.OWNER):
        if layout.is_owner(entry.name):
            owner = max(owner, layout.number_of(entry.name))
            newest = max(newest, _signed_in(transport, keys, entry.name))
    for entry in transport.entries(layout.KEYS):
        if layout.is_known(entry.name) and "/pub-" in entry.name:
            newest = max(newest, _claimed_epoch(transport, keys, entry.name, newest))
    return StoreKeys(keys.store, keys.master, epoch=newest), owner


def _claimed_epoch(transport: Transport, keys: StoreKeys, name: str, newest: int) -> int:
    """The epoch whose public keys bear that name, if they bear it out.

    Where they cannot be read, their name is enough for the next epoch: whatever that one signed
    would look forged otherwise.
    """
    epoch = int(name.rpartition("-")[2], 16)
    try:
        return epoch if has_epoch(transport, keys, epoch) else FIRST_EPOCH
    except (ObjectUnreadable, ShareRefused, StoreTooNew):
        return epoch if epoch == newest + 1 else FIRST_EPOCH


def has_epoch(transport: Transport, keys: StoreKeys, epoch: int) -> bool:
    """Whether the public keys of an epoch are there, whole, and those the master key gives.

    Raises:
        ObjectUnreadable: Nobody knows.
        StoreTooNew: A later release wrote them.
    """
    name = layout.public_keys(epoch)

    def judge(data: bytes) -> None:
        signer = keys.public(max(epoch - 1, FIRST_EPOCH))
        said, _ = signed_document(
            data, name, Kind.PUBLIC_KEYS, PublicKeysDocument, lambda _: signer
        )
        if bytes.fromhex(said.verify) != keys.public(epoch).verify:
            raise Damaged(name, "it holds other keys than the master key gives")

    try:
        read_surely(Unopened(transport), name, judge)
    except LOST:
        return False
    return True


def _signed_in(transport: Transport, keys: StoreKeys, owner: str) -> int:
    """The epoch an owner document was signed in; the first if it is not to be believed."""

    def judge(data: bytes) -> int:
        frame = Frame.parse(data, name=owner)
        frame.require_signature(Kind.OWNER, keys.public(frame.epoch))
        return frame.epoch

    try:
        return read_surely(Unopened(transport), owner, judge)
    except (*LOST, ObjectUnreadable, ShareRefused, StoreTooNew):
        return FIRST_EPOCH
