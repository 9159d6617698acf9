"""The process that looks into a guest's file systems: started by `likeness.files.opening` alone.

It has no key, no account and no file: it asks the other process for ranges of the version's disks,
and answers what lies in them. ``dissect`` is imported in this process and in no other.
"""

import codecs
import socket
import sys
from typing import Any

from likeness.files.confinement import confine
from likeness.files.messages import Ask, Channel, Done, FileEntry, Lacking, Trouble, Volume
from likeness.files.sources import Asking

_SCRIPTS = (
    "ascii",
    "latin-1",
    "utf-8",
    "utf-16",
    "utf-16-le",
    "cp437",
    "ibm437",
    "cp850",
    "cp1252",
)


def main(handle: int) -> None:
    """Answer until the other end is closed."""
    asking = Asking(Channel(socket.socket(fileno=handle)))
    try:
        from likeness.files import volumes, walking  # noqa: F401
    except ModuleNotFoundError as cause:
        asking.channel.send(Lacking(cause.name or ""))
        return
    for script in _SCRIPTS:
        codecs.lookup(script)  # loads it, before no file can be opened any more
    confine()
    disks = asking.disks()
    found: dict[bytes, Any] = {}
    while True:
        try:
            ask = asking.next()
        except EOFError:
            return
        if isinstance(ask, Ask):
            # Not earlier: until it is asked for something, nobody gives it what it needs.
            found = found or {each.told.name: each for each in volumes.find_volumes(disks)}
            asking.channel.send(Done(_answer(asking.channel, found, ask)))


def _answer(channel: Channel, found: dict[bytes, Any], ask: Ask) -> str:
    """Do what is asked; why it cannot be done, if so."""
    from likeness.files import walking

    if ask.action == "volumes":
        for each in found.values():
            channel.send(each.told)
        return ""
    volume = found.get(ask.volume)
    if volume is None or volume.files is None:
        told: Volume | None = volume.told if volume else None
        return (told.note or "no file system") if told else "no such volume"
    try:
        start = walking.at_path(volume.files, ask.path)
    except LookupError:
        return "no such file or folder"
    except Exception as cause:  # noqa: BLE001 -- a guest's bytes may make the library fail anyhow
        return f"it cannot be read: {cause!r}"[:200]
    try:
        for told_of in _ACTIONS[ask.action](start, ask):
            channel.send(told_of)
    except Exception as cause:  # noqa: BLE001 -- as above
        return f"it cannot be read: {cause!r}"[:200]
    return ""


def _list(start: Any, ask: Ask) -> Any:
    from likeness.files import walking

    here = walking.described(ask.path, start)
    if here.kind != "folder":
        yield here
        return
    for path, entry in walking.children(start, ask.path):
        yield walking.listed(path, entry)


def _find(start: Any, ask: Ask) -> Any:
    from likeness.files import walking

    wanted = walking.matching(ask.name)
    for told in walking.walked(ask.path, start, with_data=False):
        named = isinstance(told, FileEntry) and told.path and wanted(told.path[-1])
        if named or isinstance(told, Trouble):
            yield told


def _take(start: Any, ask: Ask) -> Any:
    from likeness.files import walking

    yield from walking.walked(ask.path, start, with_data=True)


_ACTIONS = {"list": _list, "find": _find, "take": _take}

if __name__ == "__main__":
    main(int(sys.argv[1]))
