"""Every error this house raises on purpose.

* LikenessError
    * TransientError           a later attempt may succeed; tasks retry these
        * CatalogBusy          another process holds the catalog
        * HostUnreachable      no XenServer answers
        * HostBusy             XenServer answers, but cannot do it now
        * TransferBroken       a disk's data stopped half-way
        * ShareUnreachable     the share did not answer, or its session was lost
            * ObjectUnreadable it answers, and cannot give this one object
        * ServerUnreachable    the Prefect server did not answer, or not to us
        * JobAlreadyRunning    another run of this job is under way
    * PermanentError           retrying the same call cannot help
        * BadInput             what was asked for cannot be done as asked
            * UnknownVm        no such VM in the pool
            * UnknownVersion   no such version in the store
            * NoVault          copies that lay at this place would be none
        * LoginRefused         XenServer does not accept the account
        * CertificateRefused   a host did not prove to be the one that was confirmed
        * HostRefused          XenServer says no, and will say no again
        * DiskShrank           a disk is smaller than it says
        * SharedDataGone       what was not sent, since the store had it, is gone since
        * StoreMissing         there is no data store at this place
        * StoreExists          there is a data store already
        * StoreTooNew          the store was made by a later release
        * StoreTakenOver       another installation owns the store now
        * StoreSetBack         the store does not know what a report said of it
        * WrongKey             no slot of the store opens with this key
            * WrongFingerprint the store's public key is not the one that was expected
        * ReclaimStopped       nothing is deleted, since something is not as it should be
        * ShareFull            no room on the share
        * ShareRefused         the share does not allow it
        * ObjectMissing        an object the store should have is not there
        * NameTaken            an object of that name exists; nothing is overwritten
        * Damaged              stored bytes are not what was written
            * ChunkCorrupt     a chunk does not match its chunk id
            * DocumentForged   a document's signature or place is wrong
            * WrittenLate      whoever wrote a document did not own the store any more
        * Stopped              somebody asked this run to stop
"""

from collections.abc import Collection


class LikenessError(Exception):
    """Base of all errors raised on purpose; never raised itself.

    Errors travel between processes with all their facts, whatever their makers ask for.
    """

    def __reduce__(self) -> tuple[object, ...]:
        return _revived, (type(self), self.args, self.__dict__.copy())


def _revived(
    kind: type[LikenessError], args: tuple[object, ...], facts: dict[str, object]
) -> LikenessError:
    """An error as it was in another process, made without its maker."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class TransientError(LikenessError):
    """A later attempt of the same call may succeed."""


class PermanentError(LikenessError):
    """Repeating the same call cannot help; a person or another flow must act."""


class CatalogBusy(TransientError):
    """Another process holds the catalog file."""


class HostUnreachable(TransientError):
    """No XenServer answers at the configured address."""


class HostBusy(TransientError):
    """XenServer answers, but cannot do what was asked at the moment.

    Attributes:
        code: XenServer's own error code; empty when it gave none, as when a deadline passed.
    """

    def __init__(self, message: str, *, code: str = "") -> None:
        self.code = code
        super().__init__(message)


class TransferBroken(TransientError):
    """The data of a disk stopped half-way; reading it again may work."""


class ShareUnreachable(TransientError):
    """The share did not answer, or its session was lost half-way."""


class ServerUnreachable(TransientError):
    """The Prefect server did not answer, or not to us."""


class ObjectUnreadable(ShareUnreachable):
    """The share answers, but its disk does not give this one object, or somebody else has it open.

    Whether the object is whole is not known. Whatever is kept twice is to be had all the same.
    """


class JobAlreadyRunning(TransientError):
    """Another run of the same job is under way on this installation."""


class BadInput(PermanentError):
    """What was asked for cannot be done as asked; nothing was changed."""


class UnknownVm(BadInput):
    """No VM of that name or uuid is in the pool."""


class UnknownVersion(BadInput):
    """No such version is in the store."""


class NoVault(BadInput):
    """The vault's place is the data store itself by another name, or holds another store."""


class LoginRefused(PermanentError):
    """XenServer does not accept the account."""


class CertificateRefused(PermanentError):
    """A host did not prove to be the one that was confirmed; nothing was sent to it.

    Attributes:
        fingerprint: SHA-256 of the certificate it showed, as ``AB:CD:...``; empty if none.
    """

    def __init__(self, message: str, *, fingerprint: str = "") -> None:
        self.fingerprint = fingerprint
        super().__init__(message)


class HostRefused(PermanentError):
    """XenServer refused, and would refuse again.

    Attributes:
        code: XenServer's own error code, such as ``SR_BACKEND_FAILURE_44``.
    """

    def __init__(self, message: str, *, code: str) -> None:
        self.code = code
        super().__init__(message)


class DiskShrank(PermanentError):
    """A disk gave fewer bytes than the size it was announced with."""


class SharedDataGone(PermanentError):
    """Data blocks that were not sent are not in the store any more; whoever sees it reads them.

    Attributes:
        chunks: Their ids.
    """

    def __init__(self, message: str, *, chunks: Collection[bytes] = ()) -> None:
        self.chunks = frozenset(chunks)
        super().__init__(message)


class StoreMissing(PermanentError):
    """There is no data store at this place."""


class StoreExists(PermanentError):
    """There is a data store at this place already; it is never overwritten."""


class StoreTooNew(PermanentError):
    """The store was made or changed by a later release than this one."""


class StoreTakenOver(PermanentError):
    """Another installation owns the store now; nothing was written."""


class StoreSetBack(PermanentError):
    """A report tells of a head that the store does not have: it was set back, or is another."""


class WrongKey(PermanentError):
    """No slot of the store opens with this key."""


class WrongFingerprint(WrongKey):
    """The store's public key is not the one that was expected: another store, or a forger's."""


class ReclaimStopped(PermanentError):
    """Nothing more is deleted from the store, since something is not as it should be."""


class ShareFull(PermanentError):
    """The share has no room left."""


class ShareRefused(PermanentError):
    """The share does not allow the operation: rights, quota or a read-only share."""


class ObjectMissing(PermanentError):
    """An object that was asked for by name is not in the store.

    Attributes:
        name: The object's name inside the store.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"{name} is not in the store")


class NameTaken(PermanentError):
    """An object of that name exists already; objects are never overwritten.

    Attributes:
        name: The object's name inside the store.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"{name} exists already and is never overwritten")


class Damaged(PermanentError):
    """Stored bytes are not what was written.

    Attributes:
        name: The object they were read from.
    """

    def __init__(self, name: str, cause: str) -> None:
        self.name = name
        super().__init__(f"{name} is damaged: {cause}")


class ChunkCorrupt(Damaged):
    """Stored bytes do not match the chunk id they are filed under.

    Attributes:
        chunk_id: The id the bytes should have, as 64 lowercase hex digits; empty if not known.
        offset: Where in the pack they start, in bytes.
    """

    def __init__(self, chunk_id: str, *, name: str, offset: int, cause: str) -> None:
        self.chunk_id, self.offset = chunk_id, offset
        super().__init__(name, f"chunk {chunk_id[:12] or '?'} at byte {offset}: {cause}")


class DocumentForged(Damaged):
    """A document is not signed by this store's key, or was made for another place."""


class WrittenLate(Damaged):
    """A document was written by an installation that had lost the store; it counts for nothing."""


class Stopped(PermanentError):
    """Somebody asked this run to stop; what it had begun is cleaned up."""
