"""`likeness forget`, `reclaim`, `undelete` and `pin`: the flows of these names, run here."""

from typing import Any

import click

from flows.forget import forget as forget_flow
from flows.pin import pin as pin_flow
from flows.reclaim import reclaim as reclaim_flow
from flows.reclaim import undelete as undelete_flow
from likeness.cli.options import Option, Options, verb
from likeness.cli.terminal import printable, say
from likeness.model.sizes import counted, readable_size
from likeness.stopping import StopToken
from tasks.space_pages import forget_page


def forget(options: Options, _stop: StopToken) -> int:
    """Say what would go, or forget it."""
    plan: Any = forget_flow(
        site=options.site,
        preview=not options.yes,
        keep=options.keep,
        vms=list(options.vm),
        versions=list(options.version),
    )
    say(printable_page(forget_page(plan)))
    return 0


def reclaim(options: Options, _stop: StopToken) -> int:
    """Condemn and delete what nothing needs."""
    done: Any = reclaim_flow(site=options.site, most_percent=options.most_percent)
    waiting = readable_size(sum(done.waiting.values()))
    say(
        f"{counted(len(done.deleted), 'pack')} deleted, {done.freed_bytes:,} bytes given back;"
        f" {counted(len(done.condemned), 'pack')} condemned, {waiting} wait"
    )
    return 0


def undelete(options: Options, _stop: StopToken) -> int:
    """Take a forgotten version back."""
    found: Any = undelete_flow(options.version, site=options.site)
    say(f"version {found.record.rpartition('-')[2][:8]} is back")
    return 0


def pin(options: Options, _stop: StopToken) -> int:
    """Pin a version, lock it, or lift a pin."""
    said: Any = pin_flow(
        options.version,
        note=options.note,
        until=options.until,
        lock=options.lock,
        lift=options.lift,
        site=options.site,
    )
    say(printable(said))
    return 0


def printable_page(page: str) -> str:
    """A page for a terminal: each line without anything that steers it."""
    return "\n".join(map(printable, page.splitlines()))


def _site() -> Option:
    return Option("--site", default="main", help="name of the Site block (main)")


FORGET = verb(
    "forget",
    "Say which versions the policies would forget, why, and exactly what that frees; with --yes,"
    " forget them.",
    forget,
    [
        Option("--yes", is_flag=True, help="forget them; without it nothing is changed"),
        Option("--keep", default="", metavar="POLICY", help="such as 'last 5, daily 7'"),
        Option("--vm", multiple=True, metavar="NAME", help="only this VM; may be given again"),
        Option("--version", multiple=True, metavar="ID", help="this version, and no others"),
        _site(),
    ],
)
RECLAIM = verb(
    "reclaim",
    "Condemn what no version needs, and delete what was condemned long enough.",
    reclaim,
    [
        Option(
            "--most-percent",
            type=click.IntRange(0, 100),
            default=10,
            metavar="N",
            help="stop if more of all packs would go (10)",
        ),
        _site(),
    ],
)
UNDELETE = verb(
    "undelete",
    "Take a forgotten version back, as long as its data is not deleted.",
    undelete,
    [click.Argument(["version"], metavar="VERSION"), _site()],
)
PIN = verb(
    "pin",
    "Keep a version whatever the policy says; VERSION is the first digits of its id.",
    pin,
    [
        click.Argument(["version"], metavar="VERSION"),
        Option("--note", default="", help="why"),
        Option("--until", default="", help="a day such as 2027-12-31, or a number of days"),
        Option("--lock", is_flag=True, help="nobody can lift it before"),
        Option("--lift", is_flag=True, help="lift an earlier pin instead"),
        _site(),
    ],
)
