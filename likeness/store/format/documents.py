"""What the signed documents say, as frozen values, and how they are written as JSON.

A document is parsed only after its signature was verified, and strictly: an unknown field, a
missing one, or a list longer than anything of ours is refused.
"""

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from likeness.errors import BadInput, Damaged
from likeness.model.ids import as_uuid

Hex32 = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z", max_length=32)]
"""16 bytes: an id or a random name."""
VaultName = Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{32})?\Z", max_length=32)]
Hex64 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", max_length=64)]
"""32 bytes: a digest."""
ObjectName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9./-]{1,120}\Z", max_length=120)]
MAX_TEXT = 4096
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Moment = Annotated[str, Meta(max_length=40)]
"""ISO 8601 with offset, as `datetime.isoformat` writes it."""
Count = Annotated[int, Meta(ge=0, le=2**62)]
MAX_DISKS = 1024
MAX_CONFIGURATION = 16 << 20
Features = Annotated[tuple[Text, ...], Meta(max_length=64)]


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all."""


class FormatDocument(Document, frozen=True):
    """`ADS-FORMAT`: what one must know to read, to write or to sweep this store.

    Attributes:
        vault: Which vault of the store this is; empty in the data store itself.
    """

    store: Hex32
    format: Count
    oldest_reader: Count
    oldest_writer: Count
    chunk_bytes: Count
    suite: Count
    made_at: Moment
    must_know_to_read: Features = ()
    must_know_to_write: Features = ()
    vault: VaultName = ""


class PublicKeysDocument(Document, frozen=True):
    """`keys/pub-…`: the public halves of an epoch; signed by the epoch before, or by itself."""

    store: Hex32
    epoch: Count
    box: Hex64
    verify: Hex64
    made_at: Moment


class VaultKeysDocument(Document, frozen=True):
    """`keys/vault-…`: what verifies a vault's own documents of an epoch; signed by the store."""

    store: Hex32
    epoch: Count
    vault: Hex32
    verify: Hex64
    made_at: Moment


class OwnerDocument(Document, frozen=True):
    """`owner/…`: which installation may commit and sweep; the highest number is the owner."""

    number: Count
    installation: Hex32
    taken_at: Moment
    host: Text = ""


class TurnDocument(Document, frozen=True):
    """`owner/…-…`: who of an owner's processes and copies began to write last."""

    number: Count
    turn: Count
    pen: Hex32
    taken_at: Moment
    host: Text = ""


class AdoptedDocument(Document, frozen=True):
    """`adopted/…-…`: what there was when an owner took over; later work of earlier ones is void.

    Attributes:
        number: The owner's.
        part: From 0.
        parts: How many there are.
        versions: Their ids, in this part.
        numbers: The highest number there was in each folder of numbered documents.
    """

    number: Count
    part: Count
    parts: Annotated[int, Meta(ge=1, le=1 << 16)]
    versions: Annotated[tuple[Hex32, ...], Meta(max_length=1 << 20)]
    numbers: Annotated[dict[Text, Count], Meta(max_length=64)]


class MapPart(Document, frozen=True):
    """One stretch of a block map, in two copies.

    Attributes:
        delta: Whether it only says what changed against the parts before it.
        version: In which version it was made; bound to its bytes.
        first: The first position it may speak of.
        copies: Both objects, each sealed on its own.
        digests: BLAKE3 of each copy.
        sizes: Length of each copy, in bytes.
        entries: How many positions it gives.
    """

    delta: bool
    version: Hex32
    first: Count
    copies: tuple[ObjectName, ObjectName]
    digests: tuple[Hex64, Hex64]
    sizes: tuple[Count, Count]
    entries: Count


class DiskRecord(Document, frozen=True):
    """One disk of a version.

    Attributes:
        parts: Its whole block map, in the order to apply: full parts, then deltas, oldest first.
        deltas: How many versions' deltas lie on the full parts.
        root: BLAKE3 over the ids of all positions in order, so that a map put together wrongly
            is found out before a byte is restored.
    """

    disk: Hex32
    name: Text
    position: Text
    size_bytes: Count
    chunk_bytes: Count
    parts: Annotated[tuple[MapPart, ...], Meta(max_length=1 << 20)]
    deltas: Count
    root: Hex64

    @property
    def uuid(self) -> str:
        """As XenServer writes it."""
        return as_uuid(self.disk)


class Counts(Document, frozen=True):
    """What a transfer moved; all measured.

    Attributes:
        disk_bytes: Virtual size of all disks.
        read_bytes: Read from the source.
        zero_bytes: Of these, in chunks of zeros.
        unchanged_bytes: Of these, in chunks that were equal to the last version's.
        repeated_bytes: Of these, in chunks this very transfer had seen already.
        known_bytes: Of these, in chunks that the store had already, of whichever VM.
        sent_bytes: Sealed bytes written to the store.
        new_bytes: Uncompressed bytes of the chunks in them.
    """

    disk_bytes: Count = 0
    read_bytes: Count = 0
    zero_bytes: Count = 0
    unchanged_bytes: Count = 0
    repeated_bytes: Count = 0
    known_bytes: Count = 0
    sent_bytes: Count = 0
    new_bytes: Count = 0


class VersionRecord(Document, frozen=True):
    """The sealed part of a version record: everything needed to restore it.

    Attributes:
        keep: What its job said of how many versions to keep; empty: what the site says.
        locked_until: Before this moment nobody may forget it; empty: no lock.
    """

    vm_name: Text
    run: Hex32
    job: Text
    consistency: Text
    consistency_asked: Text
    note: Text
    disks: Annotated[tuple[DiskRecord, ...], Meta(max_length=MAX_DISKS)]
    configuration: Annotated[str, Meta(max_length=MAX_CONFIGURATION)]
    counts: Counts
    release: Text
    keep: Text = ""
    locked_until: Moment = ""


class VersionClear(Document, frozen=True):
    """The clear part of a version record: enough to copy or scrub it without keys.

    Attributes:
        previous: BLAKE3 of the VM's record before this one; zeros for the first.
        objects: Index segments and map parts this version brought in; of each map part both
            copies, one after the other.
        digests: BLAKE3 of each of them, so that whoever has the public key can prove them.
    """

    vm: Hex32
    sequence: Count
    version: Hex32
    taken_at: Moment
    committed_at: Moment
    previous: Hex64
    objects: Annotated[tuple[ObjectName, ...], Meta(max_length=1 << 20)]
    digests: Annotated[tuple[Hex64, ...], Meta(max_length=1 << 20)] = ()


class IndexedPack(Document, frozen=True):
    """A pack, as its index segment signs for it."""

    pack: Hex32
    size_bytes: Count
    digest: Hex64
    checksum: Hex32
    chunks: Count


class IndexClear(Document, frozen=True):
    """The clear part of an index segment: which packs, and what their bytes hash to."""

    run: Hex32
    made_at: Moment
    packs: Annotated[tuple[IndexedPack, ...], Meta(max_length=1 << 16)]


class HeadVm(Document, frozen=True):
    """What a head says about one VM that changed since the head before."""

    vm: Hex32
    versions: Count
    digest: Hex64


class HeadObject(Document, frozen=True):
    """A control object that appeared or went since the head before."""

    name: ObjectName
    digest: Hex64
    gone: bool = False


class HeadDocument(Document, frozen=True):
    """`heads/…`: one link of the chain that makes rollbacks and losses visible."""

    number: Count
    previous: Hex64
    made_at: Moment
    vms: Annotated[tuple[HeadVm, ...], Meta(max_length=1 << 16)] = ()
    objects: Annotated[tuple[HeadObject, ...], Meta(max_length=1 << 20)] = ()


class SweptDocument(Document, frozen=True):
    """`gc/…`: packs and other objects that are given back, said before they are deleted."""

    number: Count
    made_at: Moment
    reason: Text
    packs: Annotated[tuple[Hex32, ...], Meta(max_length=1 << 20)]
    objects: Annotated[tuple[ObjectName, ...], Meta(max_length=1 << 20)] = ()


class ForgetDocument(Document, frozen=True):
    """`forgets/…`: versions that are given up on purpose, said before their records are moved.

    Attributes:
        records: Names of their records, as they were in `versions/`.
        back: Whether they are taken back instead.
    """

    number: Count
    made_at: Moment
    reason: Text
    records: Annotated[tuple[ObjectName, ...], Meta(max_length=1 << 17)]
    back: bool = False


class HoldDocument(Document, frozen=True):
    """`holds/…`: a version that must stay, whatever any policy says; the newest word counts.

    Attributes:
        record: The name of its record.
        until: When that ends; empty: never.
        locked: Whether nobody may lift it before.
        lifted: Whether it is over.
    """

    number: Count
    made_at: Moment
    record: ObjectName
    note: Text
    until: Moment = ""
    locked: bool = False
    lifted: bool = False


class CondemnedDocument(Document, frozen=True):
    """`condemned/…`: packs that no version needs, deleted when they waited long enough.

    Attributes:
        owner: The number of the owner document of that time.
        run: Which run said so; each one that looks writes such a document.
        packs: Which.
        records: Records of forgotten versions that go with them.
        spared: Whether the packs are needed after all, and so not condemned any more.
    """

    number: Count
    made_at: Moment
    owner: Count
    run: Hex32
    packs: Annotated[tuple[Hex32, ...], Meta(max_length=1 << 20)] = ()
    records: Annotated[tuple[ObjectName, ...], Meta(max_length=1 << 17)] = ()
    spared: bool = False


class NeedsMap(Document, frozen=True):
    """One part of a block map that some versions of a needs list need; either copy will do.

    Attributes:
        copies: Both objects.
        digests: BLAKE3 of each copy.
        sizes: Length of each copy, in bytes.
        since: Counted in the list's versions: the first that needs it.
        until: The first after it that does not.
    """

    copies: tuple[ObjectName, ObjectName]
    digests: tuple[Hex64, Hex64]
    sizes: tuple[Count, Count]
    since: Count
    until: Count


class NeedsPack(Document, frozen=True):
    """A pack that the versions `since` to before `until` of a needs list need."""

    pack: Hex32
    since: Count
    until: Count


class NeedsDocument(Document, frozen=True):
    """`needs/…/…`: what each version of a VM needs, for vault hosts that hold no key.

    Attributes:
        versions: Their ids; of others of the VM it says nothing.
        maps: Every part of their block maps, and which of them need it.
        packs: Every pack they need, likewise; one may stand there several times.
    """

    vm: Hex32
    made_at: Moment
    versions: Annotated[tuple[Hex32, ...], Meta(max_length=1 << 17)]
    maps: Annotated[tuple[NeedsMap, ...], Meta(max_length=1 << 20)]
    packs: Annotated[tuple[NeedsPack, ...], Meta(max_length=1 << 20)]


class CatalogCopyDocument(Document, frozen=True):
    """`catalog/…`: one copy of the catalog, in sealed parts."""

    number: Count
    made_at: Moment
    parts: Annotated[tuple[ObjectName, ...], Meta(max_length=1 << 12)]
    digests: Annotated[tuple[Hex64, ...], Meta(max_length=1 << 12)]
    size_bytes: Count


_D = TypeVar("_D", bound=msgspec.Struct)


def encode(document: msgspec.Struct) -> bytes:
    """JSON in UTF-8, read back once before it may be signed.

    Raises:
        BadInput: Something in it is longer than any reader accepts, such as a name.
    """
    data = msgspec.json.encode(document)
    try:
        msgspec.json.decode(data, type=type(document))
    except msgspec.ValidationError as cause:
        raise BadInput(
            f"a {type(document).__name__} cannot be written, since nobody could read it again:"
            f" {cause}; shorten it and run again"
        ) from cause
    return data


def decode(data: bytes, kind: type[_D], *, name: str) -> _D:
    """The document in `data`, which must have been verified.

    Raises:
        Damaged: It does not say what a document of this kind says.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise Damaged(name, f"it does not read as {kind.__name__}: {cause}") from cause
