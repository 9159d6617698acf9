"""A guest of the lab: an SSH server in a process of its own, run by `lab.parts.guests`.

It reads its configuration as one line of JSON from standard input and answers with one line: where
it listens and its host key. It ends when standard input does, and its commands end with it.
"""

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

BLOCKING = """
import os, socket

_ports = {int(port) for port in os.environ["LAB_BLOCKED_PORTS"].split(",")}


class _Blocked(socket.socket):
    def connect(self, address):
        if isinstance(address, tuple) and address[1] in _ports:
            raise TimeoutError(110, "Connection timed out")
        return super().connect(address)


socket.socket = _Blocked
"""


@dataclass(frozen=True)
class Configuration:
    """What a guest is told at its start.

    Attributes:
        address: Where it listens; the port is any that is free.
        folder: Its home, where commands run.
        authorized_key: The public key that may log in, in OpenSSH's form.
        blocked_ports: Ports that neither its commands nor tunnels through it can reach.
        kill_after_seconds: How long its commands live; 0 for as long as they want.
    """

    address: str
    folder: str
    authorized_key: str
    blocked_ports: list[int]
    kill_after_seconds: float

    def environment(self) -> dict[str, str]:
        """The environment of its commands: the Python that runs the lab, and what is blocked."""
        here = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
        root = str(Path(__file__).parents[1])
        here["PATH"] = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        here |= {"HOME": self.folder, "PYTHONPATH": root}
        if self.blocked_ports:
            (Path(self.folder) / "sitecustomize.py").write_text(BLOCKING)
            here["LAB_BLOCKED_PORTS"] = ",".join(map(str, self.blocked_ports))
            here["PYTHONPATH"] = f"{self.folder}:{root}"
        return here


class Tunnels(asyncssh.SSHServer):
    """Where tunnels may lead."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> bool:
        """Open a tunnel unless its port is blocked."""
        del dest_host, orig_host, orig_port
        return dest_port not in self._configuration.blocked_ports


class Guest:
    """Runs what clients ask for."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._environment = configuration.environment()

    async def run(self, process: "asyncssh.SSHServerProcess[bytes]") -> None:
        """Run one command until it ends, its client leaves or its time is over."""
        command = await asyncio.create_subprocess_shell(
            process.command or "/bin/sh",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self._configuration.folder,
            env=self._environment,
            start_new_session=True,
        )
        try:
            await process.redirect(command.stdin, command.stdout, command.stderr)
            ended = asyncio.ensure_future(command.wait())
            left = asyncio.ensure_future(process.channel.wait_closed())
            seconds = self._configuration.kill_after_seconds or None
            await asyncio.wait({ended, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                await process.stdout.drain()
                process.exit(ended.result())
        finally:
            with suppress(ProcessLookupError):
                os.killpg(command.pid, signal.SIGKILL)
            if command.returncode is None or not process.is_closing():
                process.exit_with_signal("KILL")
            await command.wait()


async def serve(given: dict[str, Any]) -> None:
    """Listen until standard input ends."""
    configuration = Configuration(**given)
    key = asyncssh.generate_private_key("ssh-ed25519")
    listener = await asyncssh.listen(
        configuration.address,
        0,
        server_host_keys=[key],
        authorized_client_keys=asyncssh.import_authorized_keys(configuration.authorized_key),
        server_factory=lambda: Tunnels(configuration),
        process_factory=Guest(configuration).run,
        sftp_factory=True,
        encoding=None,
    )
    host_key = key.export_public_key().decode().strip()
    sys.stdout.write(json.dumps({"port": listener.get_port(), "host_key": host_key}) + "\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    listener.close()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.stdin.readline())))
