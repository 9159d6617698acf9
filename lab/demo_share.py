"""A real share for the demo: Samba as an ordinary process, on loopback and a port of its own."""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
_START_SECONDS = 30.0
_CONFIGURATION = """\
[global]
    server role = standalone server
    workgroup = LIKENESS
    interfaces = 127.0.0.1/8
    bind interfaces only = yes
    smb ports = {port}
    disable netbios = yes
    server min protocol = SMB3_11
    server smb encrypt = required
    server signing = mandatory
    map to guest = never
    load printers = no
    printcap name = /dev/null
    disable spoolss = yes
    passdb backend = tdbsam:{home}/passdb.tdb
    private dir = {home}
    lock directory = {home}
    state directory = {home}
    cache directory = {home}
    pid directory = {home}
    ncalrpc dir = {home}/ncalrpc
    log file = {home}/smbd.log
[ads]
    path = {folder}
    read only = no
    create mask = 0600
    directory mask = 0700
"""


@dataclass(frozen=True)
class DemoShare:
    """Where it is, and who may log in.

    Attributes:
        place: As a data store's block names it.
        username: The account of whoever runs the demo: Samba wants one that the system knows.
        password: Exists only inside this server.
    """

    place: str
    username: str
    password: str = field(repr=False)


@contextmanager
def demo_share(home: Path, folder: Path) -> Generator[DemoShare, None, None]:
    """Serve a folder while the `with` lasts.

    Args:
        home: A new folder for what the server writes of its own.
        folder: What it serves.
    """
    home.mkdir(mode=0o700)
    username, password = pwd.getpwuid(os.getuid()).pw_name, secrets.token_urlsafe(12)
    port, configuration = _free_port(), home / "smb.conf"
    configuration.write_text(_CONFIGURATION.format(port=port, home=home, folder=folder))
    subprocess.run(
        [_program("pdbedit"), "-s", str(configuration), "-t", "-a", "-u", username],
        input=f"{password}\n{password}\n",
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with (home / "smbd.out").open("wb") as output:
        process = subprocess.Popen(
            [
                *(_program("smbd"), "--foreground", "--no-process-group"),
                *(f"--configfile={configuration}", f"--log-basename={home}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait_for(port, process, home)
        yield DemoShare(f"smb://127.0.0.1:{port}/ads/store", username, password)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise SystemExit(f"{name} is missing: apt-get install samba")
    return found


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def _wait_for(port: int, process: "subprocess.Popen[bytes]", home: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"the share did not start; see {home / 'smbd.out'}")
