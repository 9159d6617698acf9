"""The command line of the lab."""

import argparse
import json
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from lab.pool import Pool
from lab.serving import LAB_FILE, LabServer, read_lab_file, write_lab_file
from lab.settings import Settings
from lab.web.control import TOKEN_HEADER

PASSWORD_VARIABLE = "LAB_PASSWORD"  # the name of a variable
TOKEN_VARIABLE = "LAB_CONTROL_TOKEN"  # the name of a variable
STATE_VARIABLE = "LAB_STATE"

SETTINGS: dict[str, Callable[[str], float | int | bool]] = {
    "session_idle_seconds": float,
    "wrong_password_seconds": float,
    "conflict_seconds": float,
    "data_destroy_seconds": float,
    "detach_seconds": float,
    "coalesce_seconds": float,
    "operation_seconds": float,
    "sr_bytes": int,
    "old_host": lambda text: text == "true",
}

FINDING = f"""
How `write` finds the lab: `serve --state DIR` leaves {LAB_FILE} in DIR (readable by its owner
alone, removed at the end); `write --state DIR` reads it. Without --state both use the folder
named by the variable {STATE_VARIABLE}. Or give --url with the `control` address of the ready
line, and its `control_token` in the variable {TOKEN_VARIABLE}.
"""


def _vm(text: str) -> tuple[str, list[Path]]:
    name, equals, disks = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DISK[,DISK...]")
    paths = [Path(disk) for disk in disks.split(",") if disk]
    for path in paths:
        if not path.is_file():
            raise argparse.ArgumentTypeError(f"the disk {path} of {name} is not a file")
    return name, paths


def _setting(text: str) -> tuple[str, float | int | bool]:
    name, _, value = text.partition("=")
    try:
        return name, SETTINGS[name](value)
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no setting and value") from None


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host, int(port)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab",
        description="A simulated XenServer pool that speaks the real protocols.",
        epilog=FINDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser(
        "serve",
        help="serve disk images as the disks of running VMs",
        description="Print one JSON line when ready, serve until SIGTERM or SIGINT, leave nothing. "
        f"The password is random unless the variable {PASSWORD_VARIABLE} or --password-file says.",
        epilog=FINDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument(
        "--vm",
        action="append",
        default=[],
        type=_vm,
        metavar="NAME=DISK[,DISK...]",
        help="a running VM and its raw disk images, which are never written",
    )
    serve.add_argument(
        "--halted",
        action="append",
        default=[],
        type=_vm,
        metavar="NAME=DISK[,DISK...]",
        help="the same, not started",
    )
    serve.add_argument(
        "--template",
        metavar="NAME",
        help="a template, tagged with its name, whose clones have a guest with an SSH server",
    )
    serve.add_argument("--listen", type=_address, default=("127.0.0.1", 0), metavar="HOST:PORT")
    serve.add_argument(
        "--tls", action="store_true", help="serve HTTPS with a self-signed certificate"
    )
    serve.add_argument(
        "--nbd",
        choices=("nbd", "insecure_nbd"),
        help="switch NBD on for the pool's network, with TLS or without",
    )
    serve.add_argument("--hosts", type=int, default=1, help="hosts of the pool")
    serve.add_argument("--state", type=Path, metavar="DIR", help="where overlays are kept")
    serve.add_argument(
        "--set",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        help=f"a time or size of the lab: {', '.join(SETTINGS)}",
    )
    serve.add_argument("--password-file", type=Path, metavar="FILE")
    write = commands.add_parser(
        "write",
        help="write to a disk as the guest does",
        epilog=FINDING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    write.add_argument("name", metavar="NAME", help="the VM's name or uuid")
    write.add_argument("--disk", type=int, default=0, metavar="N", help="counted from 0")
    write.add_argument("--offset", type=int, default=0, metavar="B", help="in bytes")
    write.add_argument("--file", type=Path, required=True, metavar="F", help="what to write")
    write.add_argument("--state", type=Path, metavar="DIR")
    write.add_argument("--url", metavar="URL", help="the lab's control address")
    return parser


def _state(given: Path | None) -> Path | None:
    from_variable = os.environ.get(STATE_VARIABLE)
    return given or (Path(from_variable) if from_variable else None)


def _password(file: Path | None) -> str:
    if file is not None:
        return file.read_text().strip()
    return os.environ.get(PASSWORD_VARIABLE) or secrets.token_urlsafe(12)


def _serve(arguments: argparse.Namespace) -> int:
    state = _state(arguments.state)
    if state is not None:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    chosen: dict[str, Any] = dict(arguments.set)
    if arguments.template:
        chosen["guest_tag"] = arguments.template
    settings = Settings(password=_password(arguments.password_file), **chosen)
    pool = Pool(settings, state, hosts=arguments.hosts, address=arguments.listen[0])
    _fill(pool, arguments)
    with LabServer(pool, listen=arguments.listen, tls=arguments.tls) as server:
        known = server.description()
        left = write_lab_file(state, known) if state is not None else None
        sys.stdout.write(json.dumps(known) + "\n")
        sys.stdout.flush()
        stop.wait()
        if left is not None:
            left.unlink(missing_ok=True)
    return 0


def _fill(pool: Pool, arguments: argparse.Namespace) -> None:
    for name, disks in arguments.vm:
        pool.add_vm(name, disks)
    for name, disks in arguments.halted:
        pool.add_vm(name, disks, power_state="Halted")
    if arguments.template:
        pool.add_template(arguments.template)
    if arguments.nbd:
        network = pool.db.where("network", bridge="xenbr0")[0]
        pool.db.put("network", network, purpose=[arguments.nbd])


def _control(arguments: argparse.Namespace) -> tuple[str, str]:
    if arguments.url:
        return arguments.url, os.environ.get(TOKEN_VARIABLE, "")
    state = _state(arguments.state)
    if state is None:
        raise LookupError("say where the lab is: --state DIR, or --url URL")
    try:
        known: dict[str, Any] = read_lab_file(state)
    except FileNotFoundError:
        raise LookupError(f"no lab runs with --state {state}: {LAB_FILE} is not there") from None
    return known["control"], known["control_token"]


def _write(arguments: argparse.Namespace) -> int:
    try:
        url, token = _control(arguments)
        parts = urlsplit(url)
        where = {"vm": arguments.name, "disk": arguments.disk, "offset": arguments.offset}
        connection = HTTPConnection(parts.hostname or "", parts.port or 80, timeout=600)
        with arguments.file.open("rb") as data:
            headers = {TOKEN_HEADER: token, "content-length": str(os.fstat(data.fileno()).st_size)}
            connection.request("POST", f"/write?{urlencode(where)}", data, headers)
            answer = connection.getresponse()
            said = json.loads(answer.read())
        if answer.status != 200:
            raise LookupError(said["error"])
    except (LookupError, OSError) as error:
        sys.stderr.write(f"lab: nothing was written: {error}\n")
        return 1
    sys.stdout.write(f"{said['written']} bytes written\n")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    given = _parser().parse_args(arguments)
    return _serve(given) if given.command == "serve" else _write(given)
