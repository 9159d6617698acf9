"""The commands and what they may be told."""

import click

import likeness
from likeness.cli import checks, completing, files, key_commands, mounting, reading, serving
from likeness.cli.opening import key_options, place_options
from likeness.cli.options import NUMBER, PATH, PORT, Command, Later, Option, Verbs, verb
from likeness.serving.converting import FORMATS

_WHAT = "Back up virtual machines, prove the backups, and get data back."
_EPILOG = """\b
exit codes: 0 all is well, 1 something is damaged, overdue, failed, or differs
(apply --plan, a fingerprint), 2 bad use or the wrong key, 3 the store or server
could not be reached or not be checked in full, or the answer not be written,
130 stopped.

\b
A lost installation gets its data back with `list` and `restore`; docs/recovery.md
shows how, step by step.
"""
LATER = {
    "apply": Later("flows.apply", "COMMAND", "Make a site as its file says."),
    "doctor": Later("flows.doctor", "COMMAND", "Look whether a site works, and what to do."),
    "status": Later("flows.commands", "STATUS", "Show how well each VM is protected."),
    "backup": Later("flows.commands", "BACKUP", "Back up the VMs of a job now."),
    "plan": Later("flows.plan", "COMMAND", "Show what a job would do if it began now."),
    "jobs": Later("flows.commands", "JOBS", "List the deployments of a site."),
    "start": Later("flows.commands", "START", "Start any deployment of a site."),
    "forget": Later("flows.space_commands", "FORGET", "Show what policies forget, or forget it."),
    "pin": Later("flows.space_commands", "PIN", "Keep a version whatever the policy says."),
    "undelete": Later("flows.space_commands", "UNDELETE", "Take a forgotten version back."),
    "reclaim": Later("flows.space_commands", "RECLAIM", "Give room back that nothing needs."),
    "metrics": Later("flows.metrics", "COMMAND", "Print or serve figures for Prometheus."),
    "settings": Later("flows.settings", "COMMAND", "Show and change settings of a site."),
    "set-up": Later("flows.set_up", "COMMAND", "Make a new data store and the blocks of a site."),
    "pull": Later("flows.pull", "COMMAND", "Fetch copies into a vault of this machine's own."),
    "recover": Later("flows.recover", "COMMAND", "Bring a lost installation back."),
}
"""Commands that bring Prefect with them; imported when they are typed."""
_VERSION = (
    "VERSION is the first digits of its id, four or more; or such as"
    " 'web, last good before 2026-11-20' (UTC)."
)
_JSON = "one JSON document instead of lines for people"


def parser() -> Verbs:
    """Everything that can be typed."""
    top = Verbs(
        LATER,
        name="likeness",
        help=_WHAT,
        epilog=_EPILOG,
        subcommand_metavar="COMMAND ...",
        no_args_is_help=False,
    )
    top.params.append(
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_tell_version,
            help="show which release this is",
        )
    )
    for command in (
        *_reading(),
        _serving(),
        _mounting(),
        _files(),
        *_checking(),
        *_keys(),
        completing.COMMAND,
    ):
        top.add_command(command)
    return top


def _tell_version(ctx: click.Context, _option: click.Parameter, wanted: object) -> None:
    if wanted:
        click.echo(f"likeness {likeness.RELEASE}")
        ctx.exit()


def _version_argument(*, required: bool = True) -> click.Parameter:
    return click.Argument(["version"], metavar="VERSION", required=required)


def _json() -> Option:
    return Option("--json", "as_json", is_flag=True, help=_JSON)


def _scratch(help_text: str) -> Option:
    return Option("--scratch", type=PATH, metavar="FOLDER", help=help_text)


def _disk(help_text: str) -> Option:
    return Option("--disk", metavar="POSITION", help=help_text)


def _reading() -> list[Command]:
    return [
        verb(
            "list",
            "Show which versions of which VMs the store holds.",
            reading.list_versions,
            [
                Option("--vm", metavar="NAME", help="only VMs whose name or uuid has this in it"),
                _json(),
                *place_options(),
                *key_options(),
            ],
        ),
        verb(
            "show",
            f"Show one version: its disks, sizes and how it was taken. {_VERSION}",
            reading.show_version,
            [
                _version_argument(),
                Option(
                    "--configuration",
                    is_flag=True,
                    help="only what XenServer said of the VM, as JSON",
                ),
                _json(),
                *place_options(),
                *key_options(),
            ],
        ),
        _restore(),
    ]


def _restore() -> Command:
    return verb(
        "restore",
        f"Write one disk of a version to a file: an image. {_VERSION}",
        reading.restore,
        [
            _version_argument(),
            _disk(
                "where XenServer has it plugged in, as `show` says; or its uuid or name; by"
                " default the first"
            ),
            Option(
                "--to",
                type=PATH,
                required=True,
                metavar="FILE",
                help="a new file, sparse; in a folder it is named by VM, date and disk",
            ),
            _scratch(
                "where to keep the block map meanwhile (0.01 % of the disk); beside FILE by default"
            ),
            Option(
                "--format",
                type=click.Choice(["raw", *FORMATS]),
                default="raw",
                help="of the image; all but raw need qemu-img",
            ),
            Option(
                "--accept-damage",
                is_flag=True,
                help="where data is lost for good, write zeros and FILE.damage.json, a map of them;"
                " otherwise the restore fails and names the bytes",
            ),
            *place_options(),
            *key_options(),
        ],
    )


def _serving() -> Command:
    return verb(
        "serve",
        "Give a version's disks to other programs at once, over NBD, until it is stopped."
        f" {_VERSION}",
        serving.serve,
        [
            _version_argument(),
            _disk("only this one: its position in `show`, uuid or name"),
            Option(
                "--socket", instead_of="listen", type=PATH, metavar="FILE", help="a new Unix socket"
            ),
            Option(
                "--port",
                instead_of="listen",
                type=PORT,
                default=10809,
                metavar="N",
                help="on 127.0.0.1; 10809 by default",
            ),
            Option(
                "--writable",
                is_flag=True,
                help="let them write; the changes are thrown away at the end, the version stays as"
                " it is",
            ),
            _scratch("for the block maps and the changes"),
            *place_options(),
            *key_options(),
        ],
    )


def _mounting() -> Command:
    return verb(
        "mount",
        "Show versions as folders of raw images until stopped; needs mfusepy."
        " FOLDER is an empty one to mount to.",
        mounting.mount,
        [
            click.Argument(["folder"], type=PATH, metavar="FOLDER"),
            Option("--vm", metavar="NAME", help="only VMs whose name has this in it"),
            _scratch("for the block maps"),
            *place_options(),
            *key_options(),
        ],
    )


def _files() -> Command:
    return verb(
        "files",
        "List, find and take out files of a version's disks; needs dissect."
        f" PATH is such as 0-1/etc; without it, the volumes are named. {_VERSION}",
        files.files,
        [
            _version_argument(),
            click.Argument(["path"], metavar="[PATH]", required=False),
            _disk("only volumes that lie on this disk"),
            Option(
                "--find",
                metavar="NAME",
                help="whatever has this in its name, or is so named with * and ?",
            ),
            Option(
                "--every-version",
                is_flag=True,
                help="find in all versions, the newest first; VERSION is the VM's name or uuid"
                " then",
            ),
            Option(
                "--to",
                type=PATH,
                metavar="FOLDER",
                help="take PATH out into it; nothing is overwritten",
            ),
            _scratch("for the block maps"),
            *place_options(),
            *key_options(),
        ],
    )


def _checking() -> list[Command]:
    return [
        verb(
            "audit",
            "Look whether everything is there, in its right length. Takes minutes.",
            checks.audit,
            [_fingerprint(), _json(), *place_options(), *key_options(optional=True)],
        ),
        verb(
            "scrub",
            "Read everything and check it without any key; finds accidents.",
            checks.scrub,
            [_json(), *place_options()],
        ),
        verb(
            "verify",
            "Read everything and check every signature and digest; finds whatever was altered.",
            checks.verify,
            [
                _fingerprint(),
                Option(
                    "--head",
                    nargs=2,
                    metavar="NUMBER DIGITS",
                    help="what the last report said, as in `head 4711 a1b2c3d4`: finds a store set"
                    " back",
                ),
                _json(),
                *place_options(),
                *key_options(optional=True),
            ],
        ),
        verb(
            "prove",
            "Open and hash every chunk again: the proof that versions restore.",
            checks.prove,
            [_version_argument(required=False), _json(), *place_options(), *key_options()],
        ),
    ]


def _fingerprint() -> Option:
    return Option(
        "--fingerprint",
        metavar="HEX",
        help="of the store's public key, from the recovery sheet; without it or a key, the store's"
        " own word is taken, and a forger who replaced its public keys is not found",
    )


def _keys() -> list[Command]:
    return [
        _create(),
        verb(
            "slots",
            "List, add or remove ways of opening the store. NAME is the slot to remove, the key"
            " file to make, or the public half of an escrow key in hex.",
            key_commands.slots,
            [
                click.Argument(["action"], type=click.Choice(key_commands.SLOT_ACTIONS)),
                click.Argument(["name"], metavar="[NAME]", required=False),
                *place_options(),
                *key_options(),
            ],
        ),
        verb(
            "escrow-key",
            "Make an escrow key: its private half into a file, its public half on the screen.",
            key_commands.escrow_key,
            [Option("--to", type=PATH, required=True, metavar="FILE", help="a new file")],
        ),
        verb(
            "vault-file",
            "Make the file that the host of a vault needs in place of a key: it can fetch and"
            " check copies with it, and open none. From then on each job's end says in the store"
            " what its versions need, and earlier releases cannot write there any more.",
            key_commands.vault_file,
            [
                Option("--to", type=PATH, required=True, metavar="FILE", help="a new file"),
                *place_options(),
                *key_options(),
            ],
        ),
        verb(
            "sheet",
            "Print the recovery sheet.",
            key_commands.sheet,
            [
                Option(
                    "--new-words",
                    is_flag=True,
                    help="make new recovery words and print them; old ones stay until removed",
                ),
                *place_options(),
                *key_options(),
            ],
        ),
        verb(
            "epoch",
            "Begin a new epoch of keys, or mend the public ones. show: number and fingerprint;"
            " begin: new box, meta and sign keys, while no job runs; renew: write lost public"
            " keys anew.",
            key_commands.epoch,
            [
                click.Argument(["action"], type=click.Choice(["show", "begin", "renew"])),
                *place_options(),
                *key_options(),
            ],
        ),
    ]


def _create() -> Command:
    return verb(
        "create",
        "Make a new data store in an empty place.",
        key_commands.create,
        [
            Option(
                "--key-file",
                type=PATH,
                required=True,
                metavar="FILE",
                help="where to put the key that opens it without a person; a new file",
            ),
            Option(
                "--with-passphrase", is_flag=True, help="ask for a passphrase that opens it too"
            ),
            Option(
                "--chunk-kib",
                type=NUMBER,
                default=256,
                metavar="N",
                help="the unit of deduplication for ever: 64, 128, ... 4096; 256 by default",
            ),
            Option(
                "--xchacha",
                is_flag=True,
                help="seal with XChaCha20-Poly1305, for machines without AES instructions",
            ),
            *place_options(of_a_site=False),
        ],
    )
