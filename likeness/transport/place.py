"""Where a store lies, as a person writes it: a folder, or a share."""

import re
from pathlib import Path

from likeness.errors import BadInput
from likeness.transport.base import Transport
from likeness.transport.local import LocalTransport
from likeness.transport.smb import SmbTransport

_SHARE = re.compile(
    r"smb://(?P<server>[^/:]+|\[[^]/]+\])(?::(?P<port>\d{1,5}))?"
    r"/(?P<share>[^/]+)(?:/(?P<path>.*?))?/*\Z"
)


def open_place(place: str, *, username: str, password: str, encrypt: bool) -> Transport:
    """Connect to a folder or a share.

    Args:
        place: ``/folder`` on this machine, or ``smb://server[:port]/share[/folder]``.
        username: For a share.
        password: For a share.
        encrypt: Whether SMB must encrypt; it signs in any case.

    Raises:
        BadInput: `place` is neither.
        StoreMissing: There is no such folder.
        ShareUnreachable: The server does not answer.
        ShareRefused: It does not accept the account.
    """
    if place.startswith("/"):
        return LocalTransport(Path(place))
    match = _SHARE.match(place)
    if match is None:
        raise BadInput(
            f"{place!r} is neither a folder such as /backup/ads"
            " nor a share such as smb://server/share/folder"
        )
    return SmbTransport(
        match["server"].strip("[]"),
        match["share"],
        match["path"] or "",
        username=username,
        password=password,
        port=int(match["port"] or 445),
        encrypt=encrypt,
    )
