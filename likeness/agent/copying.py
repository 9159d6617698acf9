"""Putting the agent's executable onto a machine for a while."""

import asyncio
import re
import shlex
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from likeness.agent.remote import Address, logged_in
from likeness.errors import BadInput, LikenessError

_COPY_SECONDS = 300.0
_MADE = re.compile(r"/\S*/likeness-[0-9a-f]+\.[A-Za-z0-9]+\Z")


@contextmanager
def copied(
    address: Address, executable: Path, *, folder: str, mark: str, with_sudo: bool = False
) -> Generator[Address, None, None]:
    """The same machine, and what starts the agent there; it is removed when the `with` ends.

    Args:
        address: The machine.
        executable: The agent as one file.
        folder: Where there is room for it, and where programs may be run.
        mark: Names what is made: what an earlier run could not remove is removed first.
        with_sudo: Whether the account needs it to read disks.

    Raises:
        BadInput: It cannot be put there.
        HostUnreachable, TransferBroken: The machine does not answer.
    """
    root = "sudo -n " if with_sudo else ""
    try:
        data = executable.read_bytes()
    except OSError as cause:
        raise BadInput(
            f"the agent's executable {executable} cannot be read ({cause.strerror}); make agent"
            " makes it, or name another one in the guest's block"
        ) from cause
    made = asyncio.run(_put(address, data, f"{folder}/likeness-{mark}", root))
    try:
        yield replace(address, command=f"{root}env TMPDIR={made} {made}/likeness-agent")
    finally:
        with suppress(LikenessError):  # the next run removes it
            asyncio.run(_run(address, f"{root}rm -rf -- {made}", b""))


async def _put(address: Address, data: bytes, begins: str, root: str) -> str:
    begins = shlex.quote(begins)
    made = await _run(
        address,
        f"umask 077; {root}rm -rf -- {begins}.*; made=$(mktemp -d {begins}.XXXXXXXX)"
        ' && cat >"$made/likeness-agent" && chmod 700 "$made/likeness-agent" && echo "$made"',
        data,
    )
    if not _MADE.match(made):
        raise BadInput(
            f"the guest at {address.host} answers {made[:80]!r} where a folder's name was to come;"
            " see that its login scripts are silent"
        )
    return made


async def _run(address: Address, command: str, data: bytes) -> str:
    async with logged_in(address) as connection:
        done = await asyncio.wait_for(
            connection.run(command, input=data, encoding=None), _COPY_SECONDS
        )
    if done.exit_status != 0:
        said = _text(done.stderr)[-200:]
        raise BadInput(
            f"the agent cannot be put onto the guest at {address.host}: {said or 'it failed'};"
            " name a folder with room in its block"
        )
    return _text(done.stdout)


def _text(said: bytes | str | None) -> str:
    return (said.decode(errors="replace") if isinstance(said, bytes) else said or "").strip()
