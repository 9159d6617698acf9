"""Which chunks are wanted and not brought, for numbers of chunks that do not fit into memory."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from likeness.model.ids import CHUNK_ID_BYTES

IDS_IN_MIND = 1 << 19
"""Chunk ids compared at once: about 60 MB of memory."""
_WINDOW = 1 << 16
_MOST_FILES = 4096


class IdLedger:
    """Chunks that maps name and chunks that packs hold, in files, so memory stays the same.

    Ids are a source's word, so which file one goes to hangs on this process's own random hash.
    """

    def __init__(self, folder: Path, ids: int) -> None:
        """Begin for about so many ids."""
        self._folder = folder
        self._folder.mkdir(mode=0o700)
        self._files = min(ids // IDS_IN_MIND + 1, _MOST_FILES)

    def want(self, ids: Iterable[bytes]) -> None:
        """Note chunks that a map names and the last version does not have there."""
        self._note("wanted", ids)

    def bring(self, ids: Iterable[bytes]) -> None:
        """Note chunks that a pack holds."""
        self._note("brought", ids)

    def lacking(self) -> bytes | None:
        """Some chunk that is wanted and not brought; none if all are."""
        for number in range(self._files):
            brought = set(self._noted("brought", number))
            for each in self._noted("wanted", number):
                if each not in brought:
                    return each
        return None

    def close(self) -> None:
        """Remove the files; safe to repeat."""
        if self._folder.exists():
            for path in self._folder.iterdir():
                path.unlink()
            self._folder.rmdir()

    def _note(self, what: str, ids: Iterable[bytes]) -> None:
        sorted_ids: dict[int, list[bytes]] = defaultdict(list)
        for each in ids:
            sorted_ids[hash(each) % self._files].append(each)
        for number, some in sorted_ids.items():
            with (self._folder / f"{what}-{number:04x}").open("ab") as file:
                file.write(b"".join(some))

    def _noted(self, what: str, number: int) -> Iterator[bytes]:
        path = self._folder / f"{what}-{number:04x}"
        if path.exists():
            with path.open("rb") as file:
                while ids := file.read(_WINDOW * CHUNK_ID_BYTES):
                    yield from each_id(ids)


def each_id(ids: bytes) -> Iterator[bytes]:
    """Every chunk id of a joined list."""
    for at in range(0, len(ids), CHUNK_ID_BYTES):
        yield ids[at : at + CHUNK_ID_BYTES]
