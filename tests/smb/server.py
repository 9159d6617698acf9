"""A real Samba server of the tests' own: its own folders, port, accounts and processes.

It runs as whoever runs the tests, listens on loopback alone, and is stopped by process id. The
account that logs in is the calling user's, because Samba wants one that the system knows; its
password exists only inside this server.
"""

import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from likeness.transport.smb import SmbTransport

_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
_START_SECONDS = 30.0
SHARES = ("ads", "vault")

_GLOBAL = """\
[global]
    server role = standalone server
    workgroup = LIKENESS
    netbios name = LIKENESS
    interfaces = 127.0.0.1/8
    bind interfaces only = yes
    smb ports = {port}
    disable netbios = yes
    server min protocol = SMB3_11
    server smb encrypt = {encryption}
    server signing = mandatory
    map to guest = never
    restrict anonymous = 2
    load printers = no
    printing = bsd
    printcap name = /dev/null
    disable spoolss = yes
    unix extensions = no
    passdb backend = tdbsam:{home}/private/passdb.tdb
    private dir = {home}/private
    lock directory = {home}/lock
    state directory = {home}/state
    cache directory = {home}/cache
    pid directory = {home}/pid
    ncalrpc dir = {home}/ncalrpc
    log file = {home}/log/smbd.%m.log
    log level = 1
    {extra}
"""
_SHARE = """\
[{name}]
    path = {path}
    read only = {read_only}
    create mask = 0600
    directory mask = 0700
    {extra}
"""


def program(name: str) -> str:
    """Where a program of Samba's is.

    Raises:
        FileNotFoundError: It is not installed; tests/packages.sh names the package.
    """
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed; tests/packages.sh names its package")
    return found


def require_module(name: str) -> None:
    """Skip the test, loudly, where a Samba file-system module is not installed."""
    told = subprocess.run([program("smbd"), "-b"], capture_output=True, text=True, check=True)
    (folder,) = re.findall(r"^\s*MODULESDIR: (\S+)", told.stdout, re.MULTILINE)
    if not (Path(folder) / "vfs" / f"{name}.so").exists():
        pytest.skip(f"not installed: Samba's module {name} (package samba-vfs-modules)")


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def children_of(parent: int) -> list[int]:
    """Processes started by `parent`, as /proc tells."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                told = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(told[1]) == parent and told[0] != "Z":
                    found.append(int(folder.name))
    return sorted(found)


class SmbServer:
    """One smbd with the shares ``ads`` and ``vault``.

    Attributes:
        username: The account to log in with.
        password: Its password on this server.
        port: Where it listens on 127.0.0.1; the same after a restart.
        home: Everything it writes, except the shares of `use_folder`.
    """

    def __init__(
        self,
        *,
        encryption: str = "required",
        extra: Sequence[str] = (),
        share_extra: Sequence[str] = (),
    ) -> None:
        """Lay out the folders and make the account; `start` starts it.

        Args:
            encryption: Value of ``server smb encrypt``.
            extra: More lines for ``[global]``, without indentation.
            share_extra: More lines for every share.
        """
        place = tempfile.gettempdir()  # names of Samba's sockets must be short
        place = place if len(place) < 20 else "/tmp"
        self.home = Path(tempfile.mkdtemp(prefix="likeness-smb-", dir=place))
        self.username = pwd.getpwuid(os.getuid()).pw_name
        self.password = ""
        self.port = 0
        self._encryption = encryption
        self._extra = list(extra)
        self._share_extra = list(share_extra)
        self._read_only: set[str] = set()
        self._folders = {name: self.home / "shares" / name for name in SHARES}
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False
        for name in ("private", "lock", "state", "cache", "pid", "ncalrpc", "log"):
            (self.home / name).mkdir(mode=0o700)
        for folder in self._folders.values():
            folder.mkdir(parents=True)
        self.home.chmod(0o755)
        self._write_configuration()
        self.set_password(secrets.token_urlsafe(12))

    # --- the server as a whole -------------------------------------------------------------

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        if self.running:
            return
        for _ in range(5):
            self.port = self.port or _free_port()
            self._write_configuration()
            self._process = self._launch()
            if self._accepts():
                return
            self.stop()
            self.port = 0  # somebody was faster
        raise RuntimeError(f"smbd did not start; see {self.home}/log and smbd.out there")

    def stop(self) -> None:
        """Stop every process of it; safe to repeat."""
        process, self._process = self._process, None
        if process is None:
            return
        self._thaw(process)
        children = children_of(process.pid)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def kill(self) -> None:
        """End every process of it at once, as a crash of the machine would."""
        process, self._process = self._process, None
        if process is None:
            return
        for pid in (process.pid, *children_of(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(10)
        self._frozen = False

    def restart(self) -> None:
        """Stop it and start it again on the same port."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """Stop it and delete everything it wrote."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def running(self) -> bool:
        """Whether the main process lives."""
        return self._process is not None and self._process.poll() is None

    def pids(self) -> list[int]:
        """Process ids: the main one first, then its children."""
        if self._process is None:
            return []
        return [self._process.pid, *children_of(self._process.pid)]

    # --- faults --------------------------------------------------------------------------

    def kill_connections(self) -> int:
        """Kill the processes that serve connections, and wait until they are gone.

        Returns:
            How many there were.
        """
        serving = self._serving()
        for pid in serving:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + _START_SECONDS
        while set(serving) & set(self._serving()) and time.monotonic() < until:
            time.sleep(0.005)
        return len(serving)

    def freeze(self) -> None:
        """Stop every process of it with SIGSTOP: connections stay, nothing is answered."""
        self._frozen = True
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        if self._process is not None:
            self._thaw(self._process)

    @contextlib.contextmanager
    def frozen(self) -> Generator[None, None, None]:
        """Freeze it for as long as the `with` lasts."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def set_password(self, password: str, *, username: str | None = None) -> None:
        """Give the account (made if need be) a password; sessions that exist go on."""
        name = username or self.username
        made = subprocess.run(
            [program("pdbedit"), "-s", str(self.configuration), "-t", "-a", "-u", name],
            input=f"{password}\n{password}\n",
            capture_output=True,
            text=True,
            check=True,
        )
        if "Can't load" in made.stderr:  # it goes on all the same, with the system's own accounts
            raise RuntimeError(made.stderr)
        if username is None:
            self.password = password

    def set_read_only(self, share: str, *, read_only: bool = True) -> None:
        """Make a share read-only, or writable again; connections are made anew."""
        if read_only:
            self._read_only.add(share)
        else:
            self._read_only.discard(share)
        self._write_configuration()
        if self.running:
            self._reload()

    @contextlib.contextmanager
    def small(self, share: str, *, size_bytes: int) -> Generator[None, None, None]:
        """Put a share on an empty file system of that size; needs root.

        The share's usual folder comes back afterwards.
        """
        folder = self._folders[share]
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0777", "tmpfs", str(folder)],
            check=True,
        )
        try:
            yield
        finally:
            self.kill_connections()
            subprocess.run(["umount", "--lazy", str(folder)], check=True)

    # --- what is on it ---------------------------------------------------------------------

    def folder(self, share: str = "ads") -> Path:
        """The folder behind a share."""
        return self._folders[share]

    def use_folder(self, share: str, folder: Path) -> None:
        """Put a share on another folder; before `start`."""
        self._folders[share] = folder
        self._write_configuration()

    def transport(self, share: str = "ads", path: str = "", **settings: Any) -> SmbTransport:
        """A transport to a share; `settings` are `SmbTransport`'s own."""
        settings = {
            "username": self.username,
            "password": self.password,
            "port": self.port,
            "deadline_seconds": 20.0,
            **settings,
        }
        return SmbTransport("127.0.0.1", share, path, **settings)

    # --- inside ----------------------------------------------------------------------------

    @property
    def configuration(self) -> Path:
        """Its smb.conf, for Samba's own tools."""
        return self.home / "smb.conf"

    def _write_configuration(self) -> None:
        text = _GLOBAL.format(
            port=self.port or 445,  # 0 would make the file unreadable; `start` chooses
            encryption=self._encryption,
            home=self.home,
            extra="\n    ".join(self._extra),
        )
        for name, folder in self._folders.items():
            text += _SHARE.format(
                name=name,
                path=folder,
                read_only="yes" if name in self._read_only else "no",
                extra="\n    ".join(self._share_extra),
            )
        draft = self.configuration.with_suffix(".new")
        draft.write_text(text)
        draft.replace(self.configuration)

    def _launch(self) -> subprocess.Popen[bytes]:
        """In a session of its own: a dying smbd signals its whole process group."""
        with (self.home / "smbd.out").open("ab") as output:
            return subprocess.Popen(
                [
                    program("smbd"),
                    "--foreground",
                    "--no-process-group",
                    f"--configfile={self.configuration}",
                    f"--log-basename={self.home}/log",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _accepts(self) -> bool:
        until = time.monotonic() + _START_SECONDS
        while self.running and time.monotonic() < until:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
            time.sleep(0.02)
        return False

    def _serving(self) -> list[int]:
        """Children that hold an established connection to the port."""
        inodes = set()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            facts = line.split()
            if facts[3] == "01" and int(facts[1].rpartition(":")[2], 16) == self.port:
                inodes.add(f"socket:[{facts[9]}]")
        found = []
        for pid in self.pids()[1:]:
            with contextlib.suppress(OSError):
                held = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
                if held & inodes:
                    found.append(pid)
        return found

    def _reload(self) -> None:
        """Have the main process read its configuration again, and drop what knows the old one."""
        os.kill(self.pids()[0], signal.SIGHUP)
        time.sleep(0.3)
        self.kill_connections()

    def _thaw(self, process: subprocess.Popen[bytes]) -> None:
        if self._frozen:
            self._frozen = False
            for pid in (process.pid, *children_of(process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
