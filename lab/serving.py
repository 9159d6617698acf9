"""A pool on sockets: what `python -m lab serve` runs and what tests start in a thread."""

import json
import os
import secrets
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from lab.nbd.server import nbd_listener
from lab.new_pool import member_address
from lab.pool import Pool
from lab.settings import Settings
from lab.sockets import Listener
from lab.web.control import ControlInterface
from lab.web.disks import DiskTransfers
from lab.web.rpc import RpcEndpoints
from lab.web.server import Routes, http_listener

LOOPBACK = "127.0.0.1"
LAB_FILE = "lab.json"


class LabServer:
    """A pool that can be reached: the API and disk data on one port, the control on another.

    Use it as a context manager; threads serve, and nothing is left after `close`.

    Attributes:
        pool: The simulated pool itself, for tests in the same process.
        url: Such as `http://127.0.0.1:40123`, or `https://...` with `tls`, self-signed.
        control_url: Where the control interface listens.
        control_token: What the control interface asks for.
    """

    def __init__(
        self,
        pool: Pool | None = None,
        *,
        listen: tuple[str, int] = (LOOPBACK, 0),
        tls: bool = False,
    ) -> None:
        self.pool = pool or Pool(address=listen[0])
        self.control_token = secrets.token_urlsafe(24)
        contexts = [self.pool.hosts.certify(host) for host in self.pool.db.refs("host")]
        routes = Routes()
        RpcEndpoints(self.pool).add_to(routes)
        DiskTransfers(self.pool).add_to(routes)
        addresses = [listen[0], *map(member_address, range(1, len(contexts)))]
        self._listeners: list[Listener] = []
        port, nbd_port = listen[1], 0
        for number, (address, context) in enumerate(zip(addresses, contexts, strict=True)):
            secured = context if tls else None
            front = http_listener(routes, (address, port), tls=secured, host=number)
            disks = nbd_listener(self.pool, (address, nbd_port), context)
            port, nbd_port = front.address[1], disks.address[1]
            self._listeners += [front, disks]
        self.pool.hosts.port, self.pool.hosts.nbd_port = port, nbd_port
        self.pool.hosts.scheme = "https" if tls else "http"
        controls = Routes()
        ControlInterface(self.pool, self.control_token).add_to(controls)
        control = http_listener(controls, (LOOPBACK, 0))
        self._listeners.append(control)
        self.url = f"{self.pool.hosts.scheme}://{listen[0]}:{port}"
        self.control_url = "http://{}:{}".format(*control.address)

    @property
    def username(self) -> str:
        """Who may log in."""
        return self.pool.settings.username

    @property
    def password(self) -> str:
        """With what."""
        return self.pool.settings.password

    def description(self) -> dict[str, Any]:
        """What a client needs to know, as plain values; it holds the password."""
        with self.pool.db.lock:
            plain = {"is_a_template": False, "is_a_snapshot": False, "is_control_domain": False}
            records = [self.pool.db.record("VM", vm) for vm in self.pool.db.where("VM", **plain)]
        return {
            "url": self.url,
            "username": self.username,
            "password": self.password,
            "control": self.control_url,
            "control_token": self.control_token,
            "pid": os.getpid(),
            "nbd_port": self.pool.hosts.nbd_port,
            "certificates": list(self.pool.hosts.certificates.values()),
            "vms": {record["name_label"]: record["uuid"] for record in records},
        }

    def close(self) -> None:
        """Stop serving and remove what was made."""
        for listener in self._listeners:
            listener.close()
        self.pool.close()

    def __enter__(self) -> "LabServer":
        """Give itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


def serve(*vms: tuple[str, list[Path | int]], **settings: Any) -> LabServer:
    """Start a lab in this process.

    Args:
        vms: Names and disks of running VMs, see `Pool.add_vm`.
        settings: See `lab.settings.Settings`.

    Returns:
        The server, to be used as a context manager.
    """
    pool = Pool(Settings(**settings))
    for name, disks in vms:
        pool.add_vm(name, disks)
    return LabServer(pool)


def write_lab_file(folder: Path, description: dict[str, Any]) -> Path:
    """Leave word where the lab is, readable by its owner alone."""
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".lab-")
    with os.fdopen(descriptor, "w") as file:
        json.dump(description, file)
    target = folder / LAB_FILE
    Path(name).replace(target)
    return target


def read_lab_file(folder: Path) -> dict[str, Any]:
    """Find out where the lab is.

    Raises:
        FileNotFoundError: No lab keeps its state in that folder.
    """
    known: dict[str, Any] = json.loads((folder / LAB_FILE).read_text())
    return known
