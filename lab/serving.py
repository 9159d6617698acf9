"""A pool on sockets: what `python -m lab serve` runs and what tests start in a thread."""

import json
import os
import secrets
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from lab.pool import Pool
from lab.settings import Settings
from lab.web.control import ControlInterface
from lab.web.disks import DiskTransfers
from lab.web.rpc import RpcEndpoints
from lab.web.server import Listener, Routes
from lab.world import member_address

LOOPBACK = "127.0.0.1"
LAB_FILE = "lab.json"


class LabServer:
    """A pool that can be reached: the API and disk data on one port, the control on another.

    Use it as a context manager; threads serve, and nothing is left after `close`.

    Attributes:
        pool: The simulated pool itself, for tests in the same process.
        url: Such as `http://127.0.0.1:40123`.
        control_url: Where the control interface listens.
        control_token: What the control interface asks for.
    """

    def __init__(
        self, pool: Pool | None = None, *, listen: tuple[str, int] = (LOOPBACK, 0)
    ) -> None:
        self.pool = pool or Pool(address=listen[0])
        self.control_token = secrets.token_urlsafe(24)
        routes = Routes()
        RpcEndpoints(self.pool).add_to(routes)
        DiskTransfers(self.pool).add_to(routes)
        self._listeners = [Listener(routes, listen)]
        port = self._listeners[0].address[1]
        for number in range(1, self.pool.db.count("host")):
            self._listeners.append(Listener(routes, (member_address(number), port), host=number))
        controls = Routes()
        ControlInterface(self.pool, self.control_token).add_to(controls)
        self._listeners.append(Listener(controls, (LOOPBACK, 0)))
        self.url = f"http://{listen[0]}:{port}"
        self.control_url = "http://{}:{}".format(*self._listeners[-1].address)

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
