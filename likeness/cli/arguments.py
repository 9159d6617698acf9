"""The commands and what they may be told."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import likeness
from likeness.cli import checks, files, key_commands, mounting, reading, serving
from likeness.cli.opening import add_keys, add_place
from likeness.model.sizes import shortened
from likeness.serving.converting import FORMATS

_EPILOG = """\
exit codes: 0 all is well, 1 something is damaged or the fingerprint is another
one, 2 bad use or the wrong key, 3 the store could not be reached or not be
checked in full, or its answer not be written, 130 stopped.

A lost installation gets its data back with `list` and `restore`; docs/recovery.md
shows how, step by step.
"""

_VERSION = (
    "the first digits of its id, four or more; or such as 'web, last good before 2026-11-20' (UTC)"
)


def parser() -> argparse.ArgumentParser:
    """Everything that can be typed."""
    top = argparse.ArgumentParser(
        prog="python -m likeness",
        description="See, check and restore a data store. Needs neither a server nor a catalog.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"likeness {likeness.RELEASE}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", title="commands")
    _reading(commands)
    _serving(commands)
    _files(commands)
    _checking(commands)
    _keys(commands)
    return top


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{shortened(text)} is no such number; give one of these")
    return int(text)


def _port(text: str) -> int:
    number = _whole_number(text)
    if number >= 1 << 16:
        raise argparse.ArgumentTypeError(f"{number} is no port; give one up to 65535")
    return number


if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def _command(commands: "_Commands", name: str, what: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=what, description=what)
    add_place(command)
    return command


def _reading(commands: "_Commands") -> None:
    listing = _command(commands, "list", "Show which versions of which VMs the store holds.")
    add_keys(listing)
    listing.add_argument("--vm", metavar="NAME", help="only VMs whose name or uuid has this in it")
    listing.set_defaults(command=reading.list_versions)

    show = _command(commands, "show", "Show one version: its disks, sizes and how it was taken.")
    add_keys(show)
    show.add_argument("version", metavar="VERSION", help=_VERSION)
    show.add_argument(
        "--configuration", action="store_true", help="only what XenServer said of the VM, as JSON"
    )
    show.set_defaults(command=reading.show_version)

    restore = _command(commands, "restore", "Write one disk of a version to a file: an image.")
    add_keys(restore)
    restore.add_argument("version", metavar="VERSION", help=_VERSION)
    restore.add_argument(
        "--disk",
        metavar="POSITION",
        help="where XenServer has it plugged in, as `show` says; or its uuid or name; by default"
        " the first",
    )
    restore.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="FILE",
        help="a new file, sparse; in a folder it is named by VM, date and disk",
    )
    restore.add_argument(
        "--scratch",
        type=Path,
        metavar="FOLDER",
        help="where to keep the block map meanwhile (0.01 %% of the disk); beside FILE by default",
    )
    restore.add_argument(
        "--format",
        choices=["raw", *FORMATS],
        default="raw",
        help="of the image; all but raw need qemu-img",
    )
    restore.add_argument(
        "--accept-damage",
        action="store_true",
        help="where data is lost for good, write zeros and FILE.damage.json, a map of them;"
        " otherwise the restore fails and names the bytes",
    )
    restore.set_defaults(command=reading.restore)


def _serving(commands: "_Commands") -> None:
    serve = _command(
        commands,
        "serve",
        "Give a version's disks to other programs at once, over NBD, until it is stopped.",
    )
    add_keys(serve)
    serve.add_argument("version", metavar="VERSION", help=_VERSION)
    serve.add_argument(
        "--disk", metavar="POSITION", help="only this one: its position in `show`, uuid or name"
    )
    listen = serve.add_mutually_exclusive_group()
    listen.add_argument("--socket", type=Path, metavar="FILE", help="a new Unix socket")
    listen.add_argument(
        "--port", type=_port, default=10809, metavar="N", help="on 127.0.0.1; 10809 by default"
    )
    serve.add_argument(
        "--writable",
        action="store_true",
        help="let them write; the changes are thrown away at the end, the version stays as it is",
    )
    serve.add_argument(
        "--scratch", type=Path, metavar="FOLDER", help="for the block maps and the changes"
    )
    serve.set_defaults(command=serving.serve)

    mount = _command(
        commands, "mount", "Show versions as folders of raw images until stopped; needs mfusepy."
    )
    add_keys(mount)
    mount.add_argument("folder", type=Path, metavar="FOLDER", help="an empty one to mount to")
    mount.add_argument("--vm", metavar="NAME", help="only VMs whose name has this in it")
    mount.add_argument("--scratch", type=Path, metavar="FOLDER", help="for the block maps")
    mount.set_defaults(command=mounting.mount)


def _files(commands: "_Commands") -> None:
    command = _command(
        commands, "files", "List, find and take out files of a version's disks; needs dissect."
    )
    add_keys(command)
    command.add_argument("version", metavar="VERSION", help=_VERSION)
    command.add_argument(
        "path", nargs="?", metavar="PATH", help="such as 0-1/etc; without it, the volumes are named"
    )
    command.add_argument("--disk", metavar="POSITION", help="only volumes that lie on this disk")
    command.add_argument(
        "--find", metavar="NAME", help="whatever has this in its name, or is so named with * and ?"
    )
    command.add_argument(
        "--every-version",
        action="store_true",
        help="find in all versions, the newest first; VERSION is the VM's name or uuid then",
    )
    command.add_argument(
        "--to", type=Path, metavar="FOLDER", help="take PATH out into it; nothing is overwritten"
    )
    command.add_argument("--scratch", type=Path, metavar="FOLDER", help="for the block maps")
    command.set_defaults(command=files.files)


def _checking(commands: "_Commands") -> None:
    audit = _command(
        commands, "audit", "Look whether everything is there, in its right length. Takes minutes."
    )
    add_keys(audit, optional=True)
    _add_fingerprint(audit)
    audit.set_defaults(command=checks.audit)

    scrub = _command(
        commands, "scrub", "Read everything and check it without any key; finds accidents."
    )
    scrub.set_defaults(command=checks.scrub)

    verify = _command(
        commands,
        "verify",
        "Read everything and check every signature and digest; finds whatever was altered.",
    )
    add_keys(verify, optional=True)
    _add_fingerprint(verify)
    verify.add_argument(
        "--head",
        nargs=2,
        metavar=("NUMBER", "DIGITS"),
        help="what the last report said, as in `head 4711 a1b2c3d4`: finds a store set back",
    )
    verify.set_defaults(command=checks.verify)

    prove = _command(
        commands, "prove", "Open and hash every chunk again: the proof that versions restore."
    )
    add_keys(prove)
    prove.add_argument("version", nargs="?", metavar="VERSION", help="only this one")
    prove.set_defaults(command=checks.prove)


def _add_fingerprint(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--fingerprint",
        metavar="HEX",
        help="of the store's public key, from the recovery sheet; without it or a key, the store's"
        " own word is taken, and a forger who replaced its public keys is not found",
    )


def _keys(commands: "_Commands") -> None:
    create = _command(commands, "create", "Make a new data store in an empty place.")
    create.add_argument(
        "--key-file",
        type=Path,
        required=True,
        metavar="FILE",
        help="where to put the key that opens it without a person; a new file",
    )
    create.add_argument(
        "--with-passphrase", action="store_true", help="ask for a passphrase that opens it too"
    )
    create.add_argument(
        "--chunk-kib",
        type=_whole_number,
        default=256,
        metavar="N",
        help="the unit of deduplication for ever: 64, 128, ... 4096; 256 by default",
    )
    create.add_argument(
        "--xchacha",
        action="store_true",
        help="seal with XChaCha20-Poly1305, for machines without AES instructions",
    )
    create.set_defaults(command=key_commands.create)
    _slots(commands)
    _escrow(commands)

    sheet = _command(commands, "sheet", "Print the recovery sheet.")
    add_keys(sheet)
    sheet.add_argument(
        "--new-words",
        action="store_true",
        help="make new recovery words and print them; old ones stay until removed",
    )
    sheet.set_defaults(command=key_commands.sheet)

    epoch = _command(commands, "epoch", "Begin a new epoch of keys, or mend the public ones.")
    add_keys(epoch)
    epoch.add_argument(
        "action",
        choices=("show", "begin", "renew"),
        help="show: number and fingerprint; begin: new box, meta and sign keys, while no job runs;"
        " renew: write lost public keys anew",
    )
    epoch.set_defaults(command=key_commands.epoch)


def _escrow(commands: "_Commands") -> None:
    what = "Make an escrow key: its private half into a file, its public half on the screen."
    escrow = commands.add_parser("escrow-key", help=what, description=what)
    escrow.add_argument("--to", type=Path, required=True, metavar="FILE", help="a new file")
    escrow.set_defaults(command=key_commands.escrow_key)


def _slots(commands: "_Commands") -> None:
    slots = _command(commands, "slots", "List, add or remove ways of opening the store.")
    add_keys(slots)
    slots.add_argument(
        "action",
        choices=("list", "add-passphrase", "add-words", "add-key-file", "add-escrow", "remove"),
    )
    slots.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="the slot to remove, the key file to make, or the public half of an escrow key in hex",
    )
    slots.set_defaults(command=key_commands.slots)
