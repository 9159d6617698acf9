"""A transport one folder of which cannot be listed, though what lies in it can be read."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

from likeness.errors import LikenessError
from likeness.transport.base import Entry, Transport
from likeness.transport.passing import PassingTransport


class Closed(PassingTransport):
    """Ends every listing that comes to the folder with an error, in its middle."""

    def __init__(self, inner: Transport, folder: str, error: LikenessError) -> None:
        super().__init__(inner)
        self._folder, self._error = folder, error

    def entries(self, folder: str, *, deep: bool = True) -> Iterator[Entry]:
        """See `Transport.entries`."""
        self._look_into(folder)
        for entry in self._inner.entries(folder, deep=deep):
            if entry.name.startswith(f"{self._folder}/") and not folder.startswith(
                f"{self._folder}/"
            ):
                raise self._error
            yield entry

    def folders(self, folder: str) -> list[str]:
        """See `Transport.folders`."""
        self._look_into(folder)
        return self._inner.folders(folder)

    def again(self) -> AbstractContextManager[Transport]:
        """See `Transport.again`: as closed as the first time."""
        return nullcontext(self)

    def _look_into(self, folder: str) -> None:
        if folder == self._folder:
            raise self._error
