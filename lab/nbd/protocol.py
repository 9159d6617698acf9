"""The numbers and frames of the NBD protocol, as its published description has them."""

import struct
from typing import NamedTuple

GREETING = struct.Struct(">8sQH")
CLIENT_FLAGS = struct.Struct(">I")
OPTION = struct.Struct(">QII")
OPTION_REPLY = struct.Struct(">QIII")
EXPORT = struct.Struct(">QH124x")
REQUEST = struct.Struct(">IHHQQI")
REPLY = struct.Struct(">IIQ")

MAGIC = b"NBDMAGIC"
OPTION_MAGIC = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
REPLY_MAGIC = 0x67446698

FIXED_NEWSTYLE = 1
HAS_FLAGS, READ_ONLY = 1, 2

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS = 1, 2, 3, 5
REP_ACK = 1
REP_ERR_UNSUP, REP_ERR_POLICY, REP_ERR_INVALID, REP_ERR_TLS_REQD = (
    (1 << 31) + number for number in (1, 2, 3, 5)
)
CMD_READ, CMD_WRITE, CMD_DISC = 0, 1, 2
EPERM, EIO, EINVAL = 1, 5, 22

MAX_OPTION_BYTES = 64 << 10
MAX_READ_BYTES = 32 << 20


class NbdRequest(NamedTuple):
    """One request of the transmission phase."""

    command: int
    handle: int
    offset: int
    length: int


def read_request(frame: bytes) -> NbdRequest:
    """Read a request.

    Raises:
        ValueError: It does not begin with the magic number.
    """
    magic, _flags, command, handle, offset, length = REQUEST.unpack(frame)
    if magic != REQUEST_MAGIC:
        raise ValueError("not an NBD request")
    return NbdRequest(command, handle, offset, length)
