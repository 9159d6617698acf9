"""A data store on an SMB share, spoken to directly: nothing needs to be mounted."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from typing import TypeVar

from likeness.errors import BadInput, NameTaken, ShareRefused
from likeness.retrying import Attempts, Pauses
from likeness.transport import smb_data, smb_folders
from likeness.transport.base import Entry, Listing, Space
from likeness.transport.smb_errors import FOREIGN, ShareAccount, may_repeat, meaning
from likeness.transport.smb_pool import SessionPool
from likeness.transport.smb_session import SmbSession
from likeness.transport.smb_socket import Deadline
from likeness.transport.tuning import keep_large_buffers

_T = TypeVar("_T")
_PAUSES = Pauses(0.2, 0.5, tries=3)
_FORBIDDEN = frozenset('\\:*?"<>|') | {chr(code) for code in range(32)}


class SmbTransport:
    """Objects as files below one folder of an SMB share.

    Connections are opened when they are first needed, in the process that needs them, and every
    wait for the server ends after `deadline_seconds` of silence. Reading, listing and deleting go
    on over a new connection when one is lost; creating and renaming never do, because nobody knows
    how far the lost attempt came.
    """

    def __init__(
        self,
        server: str,
        share: str,
        path: str = "",
        *,
        username: str,
        password: str,
        port: int = 445,
        encrypt: bool = True,
        connections: int = 2,
        deadline_seconds: float = 30.0,
        idle_seconds: float = 20.0,
    ) -> None:
        r"""Say where the data store lies; nothing is connected yet.

        Args:
            server: Name or address of the file server.
            share: Name of the share.
            path: Folder inside the share, with slashes; empty for its top.
            username: Account; ``DOMAIN\name`` or ``name@REALM`` where there is a domain.
            password: Its password.
            port: TCP port.
            encrypt: Refuse to work unencrypted. If false, messages are signed, and encrypted when
                the server insists.
            connections: How many calls may be under way at once; others wait for their turn.
            deadline_seconds: Longest silence of the server in any call.
            idle_seconds: A connection unused for longer is tried out before it is relied on.

        Raises:
            ShareRefused: `path` is not one inside a share.
            BadInput: A number is too small.
        """
        if connections < 1 or deadline_seconds <= 0:
            raise BadInput(
                f"{connections} connections and a deadline of {deadline_seconds} seconds cannot"
                " work; use at least 1 connection and more than 0 seconds"
            )
        folder = path.strip("/")
        if folder:
            _checked(folder)
        self.place = ShareAccount(server, share, folder, username, port)
        self._deadline_seconds = deadline_seconds
        self._durable = smb_folders.DurableFolders()
        place = self.place

        def connect(deadline: Deadline) -> SmbSession:
            keep_large_buffers()
            return SmbSession(place, password, encrypt=encrypt, deadline=deadline)

        # Closures, because the repr of anything else would show the password.
        self._pool = SessionPool(connect, size=connections, idle_seconds=idle_seconds)
        self._another: Callable[[], SmbTransport] = lambda: SmbTransport(
            server,
            share,
            path,
            username=username,
            password=password,
            port=port,
            encrypt=encrypt,
            connections=1,
            deadline_seconds=deadline_seconds,
            idle_seconds=idle_seconds,
        )

    def __repr__(self) -> str:
        return f"SmbTransport({str(self.place)!r}, username={self.place.username!r})"

    def __str__(self) -> str:
        return str(self.place)

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        """See `Transport.create`: FILE_CREATE, write, FLUSH the file, FLUSH its folder."""
        path = self._path(name)
        self._call(
            name,
            lambda session: smb_data.write_new(session, path, parts, durable=self._durable),
            repeat=False,
        )

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Transport.read`."""
        path = self._path(name)
        return self._call(name, lambda session: smb_data.read_range(session, path, offset, length))

    def size(self, name: str) -> int:
        """See `Transport.size`."""
        path = self._path(name)
        return self._call(name, lambda session: smb_folders.size_of(session, path))

    def entries(self, folder: str, *, deep: bool = True) -> Iterator[Entry]:
        """See `Transport.entries`; each folder is listed when the iteration comes to it."""
        listed = self._listed(folder)
        # A folder takes the place of its contents, whose names go on with a slash.
        listed.sort(key=lambda line: f"{line.name}/" if line.is_folder else line.name)
        for line in listed:
            name = f"{folder}/{line.name}" if folder else line.name
            if line.is_folder:
                yield from self.entries(name) if deep else ()
            else:
                yield Entry(name, line.size_bytes)

    def folders(self, folder: str) -> list[str]:
        """See `Transport.folders`."""
        return sorted(line.name for line in self._listed(folder) if line.is_folder)

    def listing(self, folder: str) -> Listing:
        """See `Transport.listing`."""
        listed = sorted(self._listed(folder), key=lambda line: line.name)
        below = f"{folder}/" if folder else ""
        return Listing(
            tuple(Entry(f"{below}{e.name}", e.size_bytes) for e in listed if not e.is_folder),
            tuple(line.name for line in listed if line.is_folder),
        )

    def rename(self, name: str, new_name: str) -> None:
        """See `Transport.rename`: a rename that replaces nothing, then FLUSH of both folders."""
        path, new_path = self._path(name), self._path(new_name)
        try:
            self._call(
                name,
                lambda session: smb_folders.rename(session, path, new_path, durable=self._durable),
                repeat=False,
            )
        except NameTaken as cause:
            raise NameTaken(new_name) from cause.__cause__

    def delete(self, name: str) -> None:
        """See `Transport.delete`."""
        path = self._path(name)
        self._call(name, lambda session: smb_folders.remove(session, path))

    def delete_folder(self, folder: str) -> None:
        """See `Transport.delete_folder`."""
        path = self._path(folder)
        self._durable.forget(path)
        self._call(folder, lambda session: smb_folders.remove_folder(session, path))

    def space(self) -> Space:
        """See `Transport.space`: what the server grants this account, quotas included."""
        path = self._folder_path("")
        return self._call("", lambda session: smb_folders.space_at(session, path))

    def again(self) -> AbstractContextManager["SmbTransport"]:
        """See `Transport.again`."""
        return closing(self._another())

    def close(self) -> None:
        """See `Transport.close`; a later call connects again."""
        self._pool.close()

    def _listed(self, folder: str) -> list[smb_folders.ListedFile]:
        path = self._folder_path(folder)
        return self._call(folder, lambda session: smb_folders.list_folder(session, path))

    def _path(self, name: str) -> str:
        _checked(name)
        return self._folder_path(name)

    def _folder_path(self, folder: str) -> str:
        if folder:
            _checked(folder)
        return "/".join(part for part in (self.place.folder, folder) if part).replace("/", "\\")

    def _call(self, name: str, action: Callable[[SmbSession], _T], *, repeat: bool = True) -> _T:
        """Carry out one call over some session.

        Args:
            name: What it is about, for the error's sentence.
            action: Raises what smbprotocol raises.
            repeat: Whether it may be carried out twice. Connecting may be in any case.
        """
        deadline = Deadline(self._deadline_seconds)
        attempts = Attempts(_PAUSES, seconds=deadline.seconds)
        while True:
            begun = False
            try:
                with self._pool.session(deadline) as session:
                    begun = True
                    return action(session)
            except FOREIGN as cause:
                last = (begun and not repeat) or not may_repeat(cause)
                if last or not attempts.again():
                    waited = deadline.seconds if deadline.used_up else None
                    error = meaning(cause, place=self.place, name=name, waited=waited)
                    raise error from (cause if begun else None)  # no frame with a password in it


def _checked(name: str) -> None:
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or not _FORBIDDEN.isdisjoint(name):
        raise ShareRefused(f"{name!r} is no name inside a data store")
