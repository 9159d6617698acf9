"""Rights on a share by which a source may put objects in and do nothing else.

The recipe, as NT access control entries on three folders (a Windows server, or Samba with
``vfs objects = acl_xattr`` and ``acl_xattr:ignore system acls = yes``):

* every folder: the controller's account has everything, and its folders and files inherit that;
* the share's top: the source may pass through, not list;
* ``in`` and the folders below it: the source may add files, pass through and look at attributes;
* ``in`` again, inherited by what is made in it: OWNER RIGHTS (S-1-3-4) are cut down to looking at
  attributes, or else the source, who owns what it wrote, could give itself every right on it.

What these rights cannot prevent on Samba: a source that opens its new file with the right to delete
may rename it inside the drop box, over an object whose name it knows. Names are random, cannot be
listed, and what is admitted leaves the drop box, so a source can spoil only what it wrote itself.
"""

import subprocess
from dataclasses import dataclass

from smbprotocol.open import FilePipePrinterAccessMask, SMB2SetInfoRequest
from smbprotocol.security_descriptor import (
    AccessAllowedAce,
    AceFlags,
    AclPacket,
    SIDPacket,
    SMB2CreateSDBuffer,
)

from likeness.transport.smb_errors import ShareAccount
from likeness.transport.smb_folders import make_folder
from likeness.transport.smb_requests import FOLDER, granted, opening
from likeness.transport.smb_session import SmbSession
from likeness.transport.smb_socket import Deadline
from tests.smb.server import SmbServer, program

ACL_LINES = ("vfs objects = acl_xattr", "acl_xattr:ignore system acls = yes")
"""What a Samba share needs for these rights."""

EVERYTHING = 0x001F01FF
ADD_FILES_ONLY = 0x001200A2  # add file, traverse, read attributes, read control, synchronize
PASS_THROUGH = 0x001000A0  # traverse, read attributes, synchronize
LOOK_AT_ATTRIBUTES = 0x00100080  # read attributes, synchronize
OWNER_RIGHTS = "S-1-3-4"
_SECURITY_INFORMATION = 3  # SMB2_0_INFO_SECURITY
_DACL = 4
_INHERITED_BY_ALL = AceFlags.OBJECT_INHERIT_ACE | AceFlags.CONTAINER_INHERIT_ACE


@dataclass(frozen=True)
class Right:
    """One access control entry."""

    sid: str
    mask: int
    flags: int = 0


def sid_of(server: SmbServer, username: str) -> str:
    """The security id that the server knows an account by."""
    told = subprocess.run(
        [program("pdbedit"), "-s", str(server.configuration), "-L", "-v", "-u", username],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return next(line.split()[-1] for line in told.splitlines() if line.startswith("User SID"))


def make_drop_box(server: SmbServer, *, source: str, controller: str, folder: str = "in") -> None:
    """Set the rights of a data store at the top of ``ads``; `folder` becomes the drop box.

    Done as the server's own account, which must be root.
    """
    owner = Right(sid_of(server, controller), EVERYTHING, _INHERITED_BY_ALL)
    source_sid = sid_of(server, source)
    session = SmbSession(
        ShareAccount("127.0.0.1", "ads", "", server.username, server.port),
        server.password,
        encrypt=True,
        deadline=Deadline(30),
    )
    make_folder(session, folder)
    set_rights(session, "", [owner, Right(source_sid, PASS_THROUGH)])
    set_rights(
        session,
        folder,
        [
            owner,
            Right(source_sid, ADD_FILES_ONLY, AceFlags.CONTAINER_INHERIT_ACE),
            Right(
                OWNER_RIGHTS,
                LOOK_AT_ATTRIBUTES,
                _INHERITED_BY_ALL | AceFlags.INHERIT_ONLY_ACE,
            ),
        ],
    )
    session.drop()


def set_rights(session: SmbSession, path: str, rights: list[Right]) -> None:
    """Replace the access control list of a folder."""
    handle, message = opening(session, path, FilePipePrinterAccessMask.WRITE_DAC, options=FOLDER)
    order = SMB2SetInfoRequest()
    order["info_type"] = _SECURITY_INFORMATION
    order["additional_information"] = _DACL
    order["file_id"] = handle.file_id
    order["buffer"] = _descriptor(rights).pack()
    for answer in session.ask_together([message, order, handle.close(send=False)[0]]):
        granted(answer)


def _descriptor(rights: list[Right]) -> SMB2CreateSDBuffer:
    acl = AclPacket()
    entries = []
    for right in rights:
        sid = SIDPacket()
        sid.from_string(right.sid)
        entry = AccessAllowedAce()
        entry["ace_flags"] = right.flags
        entry["mask"] = right.mask
        entry["sid"] = sid
        entries.append(entry)
    acl["aces"] = entries
    descriptor = SMB2CreateSDBuffer()
    descriptor["control"] = 0x1000  # SE_DACL_PROTECTED: nothing comes from the folder above
    descriptor.set_dacl(acl)
    return descriptor
