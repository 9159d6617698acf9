"""How a file or folder is opened, and what an answer holds.

No oplock or lease is ever asked for: a break notice would end smbprotocol's receiving thread.

Source: MS-SMB2 2.2.13 and 3.2.4.
"""

from typing import Any

from smbprotocol.exceptions import SMBException
from smbprotocol.open import (
    CreateDisposition,
    CreateOptions,
    DirectoryAccessMask,
    FileAttributes,
    FilePipePrinterAccessMask,
    ImpersonationLevel,
    Open,
    ShareAccess,
)

from likeness.transport.smb_connection import Answer, Message
from likeness.transport.smb_errors import status_of
from likeness.transport.smb_session import SmbSession

FILE = CreateOptions.FILE_NON_DIRECTORY_FILE
FOLDER = CreateOptions.FILE_DIRECTORY_FILE
SHARE_ALL = (
    ShareAccess.FILE_SHARE_READ | ShareAccess.FILE_SHARE_WRITE | ShareAccess.FILE_SHARE_DELETE
)
SHARE_NONE = 0

# What a drop box grants, and nothing beyond it: an account that may only add files must do.
WRITE = FilePipePrinterAccessMask.FILE_WRITE_DATA | FilePipePrinterAccessMask.SYNCHRONIZE
READ = FilePipePrinterAccessMask.FILE_READ_DATA | FilePipePrinterAccessMask.SYNCHRONIZE
LOOK = FilePipePrinterAccessMask.FILE_READ_ATTRIBUTES
MOVE = FilePipePrinterAccessMask.DELETE | FilePipePrinterAccessMask.SYNCHRONIZE
LIST = DirectoryAccessMask.FILE_LIST_DIRECTORY | DirectoryAccessMask.SYNCHRONIZE
ADD_FILE = DirectoryAccessMask.FILE_ADD_FILE
ADD_FOLDER = DirectoryAccessMask.FILE_ADD_SUBDIRECTORY


def parent_of(path: str) -> str:
    """The folder a path lies in; empty for the top of the share."""
    return path.rpartition("\\")[0]


def opening(
    session: SmbSession,
    path: str,
    access: int,
    *,
    options: int = FILE,
    disposition: int = CreateDisposition.FILE_OPEN,
    share: int = SHARE_ALL,
) -> tuple[Any, Message]:
    """Prepare to open a path.

    Returns:
        The handle, good for requests that travel with the message, and the message.
    """
    handle = Open(session.tree, path)
    attributes = FileAttributes.FILE_ATTRIBUTE_NORMAL if options & FILE else 0
    message, _ = handle.create(
        ImpersonationLevel.Impersonation,
        access,
        attributes,
        share,
        disposition,
        options,
        send=False,
    )
    return handle, message


def granted(answer: Answer | SMBException) -> Answer:
    """The answer, unless it is a refusal."""
    if isinstance(answer, SMBException):
        raise answer
    return answer


def refusal(answer: Answer | SMBException) -> int | None:
    """The NT status of a refusal; none of an answer."""
    return status_of(answer) if isinstance(answer, SMBException) else None


def contents(kind: Any, answer: Answer | SMBException) -> Any:
    """What an answer says, as the structure `kind`."""
    told = kind()
    told.unpack(granted(answer)["data"].get_value())
    return told
