"""Names of everything in a store. A name is made here, or it is not ours.

Names are random or counted, lower-case hex of a fixed length; no VM name, no path from a document
and nothing a source says ever becomes part of one.
"""

import re
from collections.abc import Iterable

from likeness.codec.documents import Kind
from likeness.model.ids import DiskId, PackId, RunId, VersionId, VmId

FORMAT_COPIES = ("ADS-FORMAT", "ADS-FORMAT.2", "ADS-FORMAT.3")
KEYS, OWNER, INBOX, PACKS, MAPS = "keys", "owner", "in", "packs", "maps"
INDEX, VERSIONS, HEADS, SWEPT, CATALOG = "index", "versions", "heads", "gc", "catalog"
QUARANTINE, ADOPTED = "quarantine", "adopted"
FORGETS, FORGOTTEN, HOLDS, CONDEMNED = "forgets", "forgotten", "holds", "condemned"
NEEDS = "needs"
FOLDERS = (
    *(KEYS, OWNER, INBOX, PACKS, MAPS, INDEX, VERSIONS, HEADS, SWEPT, CATALOG),
    *(QUARANTINE, ADOPTED, FORGETS, FORGOTTEN, HOLDS, CONDEMNED, NEEDS),
)
NUMBERED = (HEADS, SWEPT, CATALOG, FORGETS, HOLDS, CONDEMNED)
"""Folders of documents that count up, besides `OWNER`."""
CONTROL = (KEYS, OWNER, ADOPTED, INDEX, SWEPT, FORGETS, HOLDS)
"""Folders whose objects heads speak of."""
VAULTS_OWN = (INDEX, HEADS, SWEPT, FORGETS, HOLDS, CONDEMNED)
"""Folders in which a vault may write documents of its own."""

_KINDS = {
    OWNER: Kind.OWNER,
    INDEX: Kind.INDEX,
    SWEPT: Kind.SWEPT,
    VERSIONS: Kind.VERSION,
    HEADS: Kind.HEAD,
    CATALOG: Kind.CATALOG_COPY,
    ADOPTED: Kind.ADOPTED,
    FORGETS: Kind.FORGET,
    FORGOTTEN: Kind.VERSION,
    HOLDS: Kind.HOLD,
    CONDEMNED: Kind.CONDEMNED,
    NEEDS: Kind.NEEDS,
}

_KINDS_OF_KEYS = {"slot": Kind.SLOT, "pub": Kind.PUBLIC_KEYS, "vault": Kind.VAULT_KEYS}

_KNOWN = re.compile(
    r"(?:ADS-FORMAT(?:\.2|\.3)?"
    r"|keys/slot-[0-9a-f]{16}|keys/(?:pub|vault)-[0-9a-f]{8}"
    r"|(?:owner|heads|gc|catalog|forgets|holds|condemned)/[0-9a-f]{16}"
    r"|(?:catalog|adopted)/[0-9a-f]{16}-[0-9a-f]{4}"
    r"|owner/[0-9a-f]{16}-[0-9a-f]{16}"
    r"|in/[0-9a-f]{32}/[0-9a-f]{32}"
    r"|packs/[0-9a-f]{2}/[0-9a-f]{32}"
    r"|maps/[0-9a-f]{32}/[0-9a-f]{32}|needs/[0-9a-f]{32}/[0-9a-f]{16}"
    r"|index/[0-9a-f]{32}|quarantine/[0-9a-f]{32}"
    r"|(?:versions|forgotten)/[0-9a-f]{32}/[0-9a-f]{16}-[0-9a-f]{32})\Z"
)


def is_known(name: str) -> bool:
    """Whether a store holds objects of such a name; anything else is reported, never opened."""
    return _KNOWN.match(name) is not None


def pack(pack_id: PackId) -> str:
    """An admitted pack."""
    return f"{PACKS}/{pack_id[:2]}/{pack_id}"


def inbox(run: RunId) -> str:
    """The folder a run's packs arrive in."""
    return f"{INBOX}/{run}"


def arriving_pack(run: RunId, pack_id: PackId) -> str:
    """A pack that no commit has admitted yet."""
    return f"{INBOX}/{run}/{pack_id}"


def map_object(disk: DiskId, name: str) -> str:
    """One part of a block map, one of its two copies."""
    return f"{MAPS}/{disk}/{name}"


def needs_list(vm: VmId, stamp: str) -> str:
    """What a VM's versions need; `stamp` is 16 hex digits, others for another list."""
    return f"{NEEDS}/{vm}/{stamp}"


def index_segment(name: str) -> str:
    """An index segment; `name` is random."""
    return f"{INDEX}/{name}"


def version_record(vm: VmId, sequence: int, version: VersionId) -> str:
    """A version's record: the commit point."""
    return f"{VERSIONS}/{vm}/{sequence:016x}-{version}"


def versions_of(vm: VmId) -> str:
    """The folder of a VM's version records."""
    return f"{VERSIONS}/{vm}"


def forgotten_record(record: str) -> str:
    """Where the record of a version lies once the version is forgotten."""
    return f"{FORGOTTEN}/{record.removeprefix(VERSIONS).lstrip('/')}"


def signed_name(name: str) -> str:
    """The name that an object is signed for, which is its own but for a few."""
    if name in FORMAT_COPIES:
        return FORMAT_COPIES[0]
    return f"{VERSIONS}{name[len(FORGOTTEN) :]}" if name.startswith(f"{FORGOTTEN}/") else name


def numbered(folder: str, number: int) -> str:
    """The n-th object of a folder whose objects are counted, such as `OWNER` or `HEADS`."""
    return f"{folder}/{number:016x}"


def number_of(name: str) -> int:
    """The number in a name that `numbered` made, or the sequence in a version record's."""
    return int(name.rpartition("/")[2][:16], 16)


def turn(owner: int, number: int) -> str:
    """The n-th turn of an owner."""
    return f"{OWNER}/{owner:016x}-{number:016x}"


def is_turn(name: str) -> bool:
    """Whether an object in `OWNER` tells of a turn, and not of an owner."""
    return name.startswith(f"{OWNER}/") and "-" in name


def is_owner(name: str) -> bool:
    """Whether it tells of an owner."""
    return name.startswith(f"{OWNER}/") and "-" not in name and is_known(name)


def adopted(owner: int, part: int) -> str:
    """One part of what an owner took over."""
    return f"{ADOPTED}/{owner:016x}-{part:04x}"


def free_number(folder: str, entries: Iterable[str], folders: Iterable[str]) -> int:
    """The next number in such a folder that nothing lies under, 1 for the first.

    Args:
        folder: Which.
        entries: Names of the objects in it; parts without their document leave its number free.
        folders: Names of the folders in it: somebody may have made one where an object should lie.
    """
    documents = (name for name in entries if "-" not in name)
    names = (*documents, *(f"{folder}/{each}" for each in folders))
    return max((number_of(name) for name in names if is_known(name)), default=0) + 1


def kind_of(name: str) -> Kind:
    """What the document of that name must be signed as."""
    if name in FORMAT_COPIES:
        return Kind.FORMAT
    folder = name.partition("/")[0]
    if is_turn(name):
        return Kind.TURN
    if folder == KEYS:
        return _KINDS_OF_KEYS[name[len(KEYS) + 1 :].partition("-")[0]]
    return _KINDS[folder]


def public_keys(epoch: int) -> str:
    """The public keys of an epoch."""
    return f"{KEYS}/pub-{epoch:08x}"


def vault_keys(epoch: int) -> str:
    """What verifies a vault's own documents of an epoch; lies in that vault alone."""
    return f"{KEYS}/vault-{epoch:08x}"


def is_vault_keys(name: str) -> bool:
    """Whether it is one of those."""
    return name.startswith(f"{KEYS}/vault-") and is_known(name)


def slot(name: str) -> str:
    """A key slot; `name` is 16 random hex digits."""
    return f"{KEYS}/slot-{name}"
