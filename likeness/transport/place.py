r"""Where a store lies, as a person writes or pastes it: a folder, a share or a bucket.

A bucket of object storage is written as ``s3://bucket/folder``, its server apart from it. A share
is written as a file manager or browser shows it: ``smb://server:1445/share/my%20folder``,
``\\server\share\my folder``, ``//server/share``, ``smb://[fd00::7]/share``.
"""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from likeness.errors import BadInput
from likeness.transport.base import Transport
from likeness.transport.local import LocalTransport

_BUCKET = re.compile(r"s3://", re.IGNORECASE)
_URL = re.compile(r"(?:smb|cifs)://", re.IGNORECASE)
_SERVER = re.compile(r"(?P<server>\[[^]]+\]|[^:\[\]]+)(?::(?P<port>[0-9]+))?\Z")
_LITERAL = re.compile(r"(?P<address>[0-9a-f-]+(?:s[0-9a-z]+)?)\.ipv6-literal\.net\Z", re.IGNORECASE)
_SMB_PORT = 445
_FORBIDDEN = frozenset('/\\:*?"<>|') | {chr(code) for code in range(32)}
_HOW = "write it as smb://server/share/folder"


@dataclass(frozen=True, slots=True)
class SharePlace:
    """A folder of a share, and the server that has it.

    Attributes:
        server: Name or address, without brackets.
        port: TCP port.
        share: Name of the share.
        folder: Inside the share, with slashes; empty for its top.
    """

    server: str
    port: int
    share: str
    folder: str


@dataclass(frozen=True, slots=True)
class BucketServer:
    """How to reach the server of a bucket.

    Attributes:
        endpoint: Such as ``https://minio.example:9000``; AWS's own if empty.
        region: The region the requests are signed for.
        path_style: Name the bucket in the path instead of the host.
        ca_file: Certificates to trust instead of the system's, if not empty.
    """

    endpoint: str = ""
    region: str = "us-east-1"
    path_style: bool = True
    ca_file: str = ""


AWS = BucketServer()


def open_place(
    place: str, *, username: str, password: str, encrypt: bool, s3: BucketServer = AWS
) -> Transport:
    """Connect to a folder, a share or a bucket.

    Args:
        place: ``/folder`` on this machine, a share, or ``s3://bucket/folder``; see this module.
        username: For a share; a bucket's access key.
        password: For a share; a bucket's secret key.
        encrypt: Whether SMB must encrypt, and a bucket's server speak TLS; requests are signed in
            any case.
        s3: The server of a bucket.

    Raises:
        BadInput: `place` is none of them, or `s3` cannot be.
        StoreMissing: There is no such folder or bucket.
        ShareUnreachable: The server does not answer.
        ShareRefused: It does not accept the account.
    """
    if is_bucket(place):
        return _open_bucket(place, username, password, s3, encrypt=encrypt)
    share = share_of(place)
    if share is None:
        return LocalTransport(Path(place.strip()))
    from likeness.transport.smb import SmbTransport  # a quarter of what a command takes to start

    return SmbTransport(
        share.server,
        share.share,
        share.folder,
        username=username,
        password=password,
        port=share.port,
        encrypt=encrypt,
    )


def needs_account(place: str) -> bool:
    """Whether it is a share or a bucket, well or badly written, which nobody uses without one."""
    return is_share(place) or is_bucket(place)


def require_place(place: str) -> None:
    """See that it is written as a place can be, before anybody is asked for a password.

    Raises:
        BadInput: It is not.
    """
    if is_bucket(place):
        from likeness.transport.s3 import S3Address  # a heavy library, for buckets alone

        S3Address.of(place)
    else:
        share_of(place)


def is_bucket(place: str) -> bool:
    """Whether it is written as a bucket, well or badly."""
    return bool(_BUCKET.match(place.strip()))


def _open_bucket(
    place: str, access_key: str, secret_key: str, s3: BucketServer, *, encrypt: bool
) -> Transport:
    from likeness.transport.s3 import S3Address, S3Transport  # a heavy library, for buckets alone

    address = S3Address.of(
        place,
        endpoint=s3.endpoint.strip(),
        region=s3.region,
        path_style=s3.path_style,
        ca_file=s3.ca_file,
    )
    if encrypt and address.endpoint.lower().startswith("http:"):
        raise BadInput(
            f"the server of {place.strip()} does not encrypt the connection; write its endpoint"
            " with https, or say that signed requests are enough"
        )
    return S3Transport(address, access_key=access_key, secret_key=secret_key)


def is_share(place: str) -> bool:
    """Whether it is written as a share, well or badly; anything else is a folder's path."""
    text = place.strip()
    return bool(_URL.match(text)) or text[:2] in ("\\\\", "//")


def share_of(place: str) -> SharePlace | None:
    """The share that a person wrote; none if it is a folder of this machine.

    Raises:
        BadInput: It is neither; the sentence shows nothing that may be a password.
    """
    text = place.strip()
    if "\0" in text:
        raise BadInput("the place of a data store holds a NUL character; write it anew")
    if url := _URL.match(text):
        authority, *parts = re.split(r"[/\\]", text[url.end() :])
        return _share(authority, [_decoded(part) for part in parts])
    if text[:2] in ("\\\\", "//"):
        authority, *parts = re.split(r"[/\\]", text[2:])
        return _share(authority, parts)
    if text.startswith("/"):
        return None
    shown = "this place" if "@" in text else repr(text)
    raise BadInput(
        f"{shown} is neither a folder such as /backup/ads nor a share such as"
        " smb://server/share/folder nor a bucket such as s3://bucket/folder"
    )


def _share(authority: str, parts: list[str]) -> SharePlace:
    if "@" in authority:
        raise BadInput(
            "a share's place names no account; leave out what is before the @ and give account and"
            f" password in their own fields: {_HOW}"
        )
    server, port = _server(authority)
    share, *folders = [part for part in parts if part] or [""]
    if not share:
        raise BadInput(f"{authority} is a server without a share; {_HOW}")
    for name in (share, *folders):
        if name in (".", "..") or not _FORBIDDEN.isdisjoint(name):
            raise BadInput(f"{name!r} is no name of a share or folder; {_HOW}")
    return SharePlace(server, port, share, "/".join(folders))


def _server(authority: str) -> tuple[str, int]:
    match = _SERVER.match(authority)
    if match is None:
        raise BadInput(
            f"{authority!r} is no server; write server:port, and an IPv6 address in brackets, as in"
            " smb://[fd00::7]/share"
        )
    port = int(match["port"][:6]) if match["port"] else _SMB_PORT
    if not 0 < port < 1 << 16:
        raise BadInput(f"{match['port'][:9]} is no port; it is a number from 1 to 65535")
    server = match["server"]
    if literal := _LITERAL.match(server):  # how Windows writes an address where no colon may be
        return _address(literal["address"].lower().replace("-", ":").replace("s", "%")), port
    return (_address(server[1:-1]) if server.startswith("[") else server), port


def _address(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(unquote(text)))
    except ValueError as cause:
        raise BadInput(f"{text!r} is no IPv6 address; correct it, or write a name") from cause


def _decoded(part: str) -> str:
    """A name as a browser writes it; a lone per cent sign means itself."""
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError as cause:
        raise BadInput(f"{part!r} is no name in UTF-8; write it as it is, without %") from cause
