"""Copies of the catalog in the store, so that a lost installation gets its memory back.

The store does not look inside: a copy is a folder of files, made into one archive, sealed in parts
and named by one signed document that is written last.
"""

import shutil
import tarfile
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from likeness.clock import Clock
from likeness.codec.blobs import MAX_BLOB_BYTES, BlobKind, read_blob, write_blob
from likeness.codec.documents import Kind
from likeness.codec.hashing import digest
from likeness.errors import (
    Damaged,
    LikenessError,
    NameTaken,
    ObjectMissing,
    ObjectUnreadable,
    ShareRefused,
)
from likeness.store.format import layout
from likeness.store.format.believing import LOST, read_surely
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import CatalogCopyDocument
from likeness.store.format.observations import UNKNOWN

KEPT = 14
_ATTEMPTS = 8
_PART_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class CatalogCopy:
    """One copy, as found or made.

    Attributes:
        number: Counts up.
        made_at: When.
        size_bytes: Of the archive before sealing.
        passed_over: Newer copies that were damaged, in words.
    """

    number: int
    made_at: datetime
    size_bytes: int
    passed_over: tuple[str, ...] = ()


def put_copy(store: DataStore, folder: Path, *, clock: Clock) -> CatalogCopy:
    """Store the files of `folder`, and drop copies beyond the newest 14.

    Raises:
        ShareFull: No room; older copies stay.
        StoreTooNew: A later release changed the store; nothing was written.
    """
    step = store.for_one_step()
    there = store.transport.listing(layout.CATALOG)
    numbers = _numbers(there.names)
    number = layout.free_number(layout.CATALOG, there.names, there.folders)
    archive = folder.with_name(f"{folder.name}.tar")
    try:
        with tarfile.open(archive, "w") as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, arcname=path.name)
        for at in range(number, number + _ATTEMPTS - 1):
            with suppress(NameTaken):  # by something that no listing shows, such as a link
                copy = _put(step, archive, at, clock(), there.names)
                break
        else:
            copy = _put(step, archive, number + _ATTEMPTS - 1, clock(), there.names)
    finally:
        archive.unlink(missing_ok=True)
    if spare := numbers[: max(len(numbers) + 1 - KEPT, 0)]:
        step = store.for_one_step()
    for old in spare:
        with suppress(ObjectUnreadable, ShareRefused):  # the next time, then
            _delete(step, old, there.names)
    return copy


def _put(
    store: DataStore, archive: Path, number: int, made_at: datetime, taken: Collection[str]
) -> CatalogCopy:
    """Write one copy.

    Raises:
        NameTaken: Something has its number; no part is left.
    """
    size = archive.stat().st_size
    names, digests = _write_parts(store, archive, number, taken)
    document = CatalogCopyDocument(
        number=number,
        made_at=made_at.isoformat(),
        parts=tuple(names),
        digests=tuple(digests),
        size_bytes=size,
    )
    try:
        store.write(layout.numbered(layout.CATALOG, number), Kind.CATALOG_COPY, document)
    except NameTaken:
        for name in names:
            store.for_writing().delete(name)
        raise
    return CatalogCopy(number, made_at, size)


def fetch_newest(store: DataStore, folder: Path, *, before: int = 0) -> CatalogCopy:
    """Put the files of the newest whole copy into `folder`.

    Args:
        store: Where.
        folder: Not there yet.
        before: Only copies with a lower number, since this one proved to be of no use; 0: all.

    Raises:
        ObjectMissing: There is no whole copy.
        ObjectUnreadable: There may be one, which cannot be read at the moment.
        StoreTooNew: All there are were written by a later release.
    """
    passed_over: list[str] = []
    unknown: LikenessError | None = None
    entries = [entry.name for entry in store.transport.entries(layout.CATALOG)]
    numbers = [each for each in _numbers(entries) if not before or each < before]
    for number in reversed(numbers):
        try:
            copy = _fetch(store, number, folder)
        except LOST as cause:
            passed_over.append(str(cause))
        except UNKNOWN as cause:
            unknown = unknown or cause
            passed_over.append(str(cause))
        else:
            return CatalogCopy(copy.number, copy.made_at, copy.size_bytes, tuple(passed_over))
    if unknown is not None:
        raise unknown
    raise ObjectMissing(f"{layout.CATALOG}/ (a whole copy of the catalog)")


def _numbers(names: Iterable[str]) -> list[int]:
    return sorted(layout.number_of(n) for n in names if layout.is_known(n) and "-" not in n)


def _write_parts(
    store: DataStore, archive: Path, number: int, taken: Collection[str]
) -> tuple[list[str], list[str]]:
    names: list[str] = []
    digests: list[str] = []
    transport = store.for_writing()
    at = 0
    with archive.open("rb") as file:
        while plain := file.read(_PART_BYTES):
            place = _place(number, len(names))
            data = write_blob(
                BlobKind.CATALOG_PART, place, plain, keys=store.keys, suite=store.suite
            )
            while (name := f"{layout.numbered(layout.CATALOG, number)}-{at:04x}") in taken:
                at += 1  # left by an attempt that never got to its document
            transport.create(name, [data])
            at += 1
            names.append(name)
            digests.append(digest([data]).hex())
    return names, digests


def _fetch(store: DataStore, number: int, folder: Path) -> CatalogCopy:
    name = layout.numbered(layout.CATALOG, number)
    document, _ = store.read_surely(name, Kind.CATALOG_COPY, CatalogCopyDocument)
    archive = folder.with_name(f"{folder.name}.tar")
    try:
        with archive.open("wb") as file:
            for at, (part, expected) in enumerate(
                zip(document.parts, document.digests, strict=True)
            ):
                file.write(_read_part(store, part, expected, _place(number, at)))
        _unpack(archive, folder, name)
    finally:
        archive.unlink(missing_ok=True)
    return CatalogCopy(number, datetime.fromisoformat(document.made_at), document.size_bytes)


def _unpack(archive: Path, folder: Path, name: str) -> None:
    """Files alone, and none outside the folder; `filter` came with Python 3.11.4 only."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member) if Path(member.name).name == member.name else None
            if file is None:
                raise Damaged(name, f"{member.name!r} is no file of a catalog")
            with (folder / member.name).open("wb") as target:
                shutil.copyfileobj(file, target)


def _read_part(store: DataStore, name: str, expected: str, place: bytes) -> bytes:
    def judge(data: bytes) -> bytes:
        if digest([data]).hex() != expected:
            raise Damaged(name, "it is not what its catalog copy signed for")
        return read_blob(data, BlobKind.CATALOG_PART, place, keys=store.keys, name=name)

    return read_surely(store, name, judge, max_bytes=MAX_BLOB_BYTES)


def _delete(store: DataStore, number: int, there: Collection[str]) -> None:
    """Delete a copy; its document last, so that an attempt that fails is made again next time."""
    name, transport = layout.numbered(layout.CATALOG, number), store.for_writing()
    for part in there:
        if part.startswith(f"{name}-"):
            transport.delete(part)
    transport.delete(name)


def _place(number: int, part: int) -> bytes:
    return number.to_bytes(8, "little") + part.to_bytes(4, "little")
