# ruff: noqa: FBT003 - the order and the booleans are those of the API
"""Guests that are there: a clone of a tagged template has an SSH server, and ends with its VM."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import asyncssh
import pytest

from lab.serving import LabServer
from tests.lab.clients import Xen, control

MIB = 1 << 20
KEY = asyncssh.generate_private_key("ssh-ed25519")


@pytest.fixture
def clone(lab: LabServer, xen: Xen) -> str:
    """A clone of a tagged template, told whom to let in, not started."""
    lab.pool.add_vm("template", [2 * MIB], power_state="Halted", tags=["abd-1"])
    template = xen.vm("template")
    xen.api.VM.set_is_a_template(template, True)
    vm = str(xen.api.VM.clone(template, "abd 1"))
    xen.api.VM.provision(vm)
    public = KEY.export_public_key().decode().strip()
    xen.api.VM.set_xenstore_data(vm, {"vm-data/authorized-key": public})
    return vm


@pytest.fixture
def started(xen: Xen, clone: str) -> str:
    xen.api.VM.start(clone, False, False)
    return clone


def reported(xen: Xen, vm: str, seconds: float = 30.0) -> dict[str, str]:
    """What the guest says of itself in xenstore, once it does."""
    end = time.monotonic() + seconds
    while "vm-data/assigned-ip" not in (data := xen.api.VM.get_xenstore_data(vm)):
        assert time.monotonic() < end, "the guest reports no address"
        time.sleep(0.02)
    return {key.removeprefix("vm-data/"): value for key, value in data.items()}


Use = Callable[[asyncssh.SSHClientConnection], Awaitable[str]]


def logged_in(told: dict[str, str], use: Use, key: asyncssh.SSHKey = KEY) -> str:
    """Log in with the host key the guest reported and no other."""

    async def run() -> str:
        host = asyncssh.import_public_key(told["host-key"])
        async with asyncssh.connect(
            told["assigned-ip"], int(told["ssh-port"]), username="root", client_keys=[key],
            known_hosts=([host], [], []), config=None, agent_path=None,
        ) as connection:  # fmt: skip
            return await use(connection)

    return asyncio.run(asyncio.wait_for(run(), 30))


def output(told: dict[str, str], command: str, given: bytes = b"") -> str:
    async def use(connection: asyncssh.SSHClientConnection) -> str:
        done = await connection.run(command, input=given, encoding=None, check=False)
        assert isinstance(done.stdout, bytes)
        return f"{done.exit_status} {done.stdout.decode()}"

    return logged_in(told, use)


def test_it_reports_where_it_is_and_lets_its_key_in_alone(xen: Xen, started: str) -> None:
    told = reported(xen, started)
    metrics = xen.api.VM_guest_metrics.get_networks(xen.api.VM.get_guest_metrics(started))
    assert metrics["0/ip"] == told["assigned-ip"] != "127.0.0.1"
    assert output(told, "cat; exit 3", b"given") == "3 given"
    with pytest.raises(asyncssh.PermissionDenied):
        logged_in(told, lambda _: asyncio.sleep(0, ""), asyncssh.generate_private_key("ssh-rsa"))
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        output(told | {"host-key": KEY.export_public_key().decode()}, "true")


def test_it_runs_the_python_that_runs_the_lab(xen: Xen, started: str) -> None:
    assert output(reported(xen, started), "python -c 'import likeness.agent, lab; print(1)'") == (
        "0 1\n"
    )


def test_it_reads_the_disks_that_are_plugged_and_no_others(
    lab: LabServer, xen: Xen, started: str
) -> None:
    lab.pool.write("web", 0, 3 * MIB, b"frozen")
    frozen = xen.disks(xen.api.VM.snapshot(xen.vm("web"), "s"))[0]
    lab.pool.write("web", 0, 3 * MIB, b"later!")
    told, vbd = reported(xen, started), xen.new_vbd(started, frozen)
    xen.api.VBD.plug(vbd)
    device = f"{told['devices']}/{xen.api.VBD.get_device(vbd)}"
    assert output(told, f"tail -c +{3 * MIB + 1} {device} | head -c 6") == "0 frozen"
    assert output(told, f"wc -c < {device}").split() == ["0", str(8 * MIB)]
    xen.api.VBD.unplug(vbd)
    assert output(told, f"ls {told['devices']}") == "0 xvda\n"


def test_it_ends_with_its_vm_and_takes_its_commands_along(
    lab: LabServer, xen: Xen, started: str
) -> None:
    told, home = reported(xen, started), lab.pool.guests.running[started].folder

    async def outlive(connection: asyncssh.SSHClientConnection) -> str:
        process = await connection.create_process("echo $$; exec sleep 600")
        pid = (await process.stdout.readline()).strip()
        await asyncio.to_thread(xen.api.VM.hard_shutdown, started)
        await process.wait_closed()
        return str(pid)

    pid = logged_in(told, outlive)
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end, "the command outlives its guest"
        time.sleep(0.02)
    assert not home.exists()
    with pytest.raises(OSError):  # noqa: PT011 - nobody listens there
        output(told, "true")


def test_a_command_ends_when_its_client_leaves(xen: Xen, started: str) -> None:
    async def leave(connection: asyncssh.SSHClientConnection) -> str:
        process = await connection.create_process("echo $$; exec sleep 600")
        return str((await process.stdout.readline()).strip())

    pid = logged_in(reported(xen, started), leave)
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end, "the command outlives its client"
        time.sleep(0.02)


def test_an_address_it_is_told_is_taken(xen: Xen, clone: str) -> None:
    data = xen.api.VM.get_xenstore_data(clone)
    xen.api.VM.set_xenstore_data(clone, data | {"vm-data/ip": "127.99.1.2"})
    xen.api.VM.start(clone, False, False)
    assert reported(xen, clone)["assigned-ip"] == "127.99.1.2"


def test_boot_takes_its_time_and_dhcp_may_not_answer(lab: LabServer, xen: Xen, clone: str) -> None:
    lab.pool.guests.faults.boot_seconds = 0.5
    before = time.monotonic()
    xen.api.VM.start(clone, False, False)
    reported(xen, clone)
    assert time.monotonic() - before > 0.5
    xen.api.VM.hard_shutdown(clone)
    lab.pool.guests.faults.no_address = True
    other = xen.api.VM.clone(clone, "abd 2")
    xen.api.VM.remove_from_xenstore_data(other, "vm-data/assigned-ip")
    xen.api.VM.start(other, False, False)
    with pytest.raises(AssertionError, match="no address"):
        reported(xen, other, 1.0)


def test_ssh_can_be_refused(lab: LabServer, xen: Xen, clone: str) -> None:
    control(lab, "POST", "/faults", b'{"kind": "guests", "refuse_ssh": true}')
    xen.api.VM.start(clone, False, False)
    told = reported(xen, clone)
    with pytest.raises(ConnectionRefusedError):
        output(told, "true")
    control(lab, "DELETE", "/faults")
    assert not lab.pool.guests.faults.refuse_ssh


def test_a_port_can_be_out_of_reach(lab: LabServer, xen: Xen, clone: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as blocked:
        port = blocked.getsockname()[1]
        lab.pool.guests.faults.blocked_ports = [445, port]
        xen.api.VM.start(clone, False, False)
        told = reported(xen, clone)
        probe = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        assert output(told, f'python -c "{probe}" 2>/dev/null') == "1 "


def test_a_command_can_be_killed_in_the_middle(lab: LabServer, xen: Xen, clone: str) -> None:
    lab.pool.guests.faults.kill_after_seconds = 0.3
    xen.api.VM.start(clone, False, False)
    told = reported(xen, clone)
    before = time.monotonic()
    assert output(told, "echo begun; exec sleep 600").endswith("begun\n")
    assert time.monotonic() - before < 20


def test_a_vm_without_the_tag_has_no_guest(lab: LabServer, started: str) -> None:
    assert list(lab.pool.guests.running) == [started]


@pytest.fixture(autouse=True)
def _no_guest_is_left(lab: LabServer) -> Iterator[None]:
    yield
    processes = [guest.process for guest in lab.pool.guests.running.values()]
    lab.pool.guests.close()
    assert all(process is None or process.poll() is not None for process in processes)
