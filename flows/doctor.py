"""`likeness doctor`: does this site work? Also as a flow, for the UI and a schedule."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from blocks import Site
from flows.forms import SiteName, titled
from flows.runs import our_flow, this_run
from likeness.cli.options import Option, Options, verb
from likeness.cli.running import run_alone
from likeness.cli.terminal import coloured, say, say_json
from likeness.clock import system_clock
from likeness.errors import BadInput
from likeness.stopping import StopToken
from tasks.artifacts import put_markdown
from tasks.claims import run_claimed
from tasks.doctor import DOUBT, WELL, WRONG, Checked, examine
from tasks.reports import render

_ORDER = (WRONG, DOUBT, WELL)
_COLOURS = {WRONG: "red", DOUBT: "yellow", WELL: "green"}


@our_flow("examine {site}")
def examine_site(
    site: SiteName = "main",
    send: Annotated[bool, titled("Send a test mail and call the webhook")] = False,
) -> State[Any]:
    """Look whether every address, login, right, certificate, clock and room of a site is well.

    Nothing is changed; an object is written to the data store and the vault, and removed. What was
    found, and what to do, is the artifact `doctor`. Ends *Failed* if something is wrong.

    Args:
        site: Name of the Site block.
        send: Send a test mail to all recipients, and call the webhook.
    """
    here = Site.named(site)
    with here.session(), run_claimed(here, this_run()):
        found = worst_first(examine(here, send=send))
    text = render(
        "doctor.md.j2", site=site, summary=summary(found), findings=found, now=system_clock()
    )
    put_markdown(here.key_of("doctor"), text, "Does this site work?")
    wrong = [each for each in found if each.mark == WRONG]
    if wrong:
        message = "; ".join(f"{each.about}: {each.said}" for each in wrong)
        return Failed(message=message, data=BadInput(message))
    return Completed(message=summary(found))


def worst_first(found: Sequence[Checked]) -> list[Checked]:
    """What needs a person on top; else in the order in which it was looked at."""
    return sorted(found, key=lambda each: _ORDER.index(each.mark))


def summary(found: Sequence[Checked]) -> str:
    """How many are how."""
    words = {WRONG: "wrong", DOUBT: "to think of", WELL: "well"}
    counts = {mark: sum(each.mark == mark for each in found) for mark in _ORDER}
    return " · ".join(f"{mark} {count} {words[mark]}" for mark, count in counts.items() if count)


def run(options: Options, _stop: StopToken) -> int:
    """Print what was found; 1 if something is wrong."""
    here = Site.named(options.site)
    with here.session():
        found = worst_first(examine(here, send=options.send))
    wrong = any(each.mark == WRONG for each in found)
    if options.as_json:
        marks = {WRONG: "wrong", DOUBT: "doubt", WELL: "well"}
        say_json(
            [
                {
                    "about": each.about,
                    "state": marks[each.mark],
                    "said": each.said,
                    "remedy": each.remedy,
                }
                for each in found
            ]
        )
        return 1 if wrong else 0
    for each in found:
        say(f"{each.mark} {coloured(each.about, _COLOURS[each.mark])}: {each.said}")
        if each.remedy:
            say(f"     → {each.remedy}")
    say(summary(found))
    return 1 if wrong else 0


COMMAND = verb(
    "doctor",
    "Look whether a site works: every address, login, right, certificate, clock and room, each with"
    " what to do. Nothing is changed; exit code 1 if something is wrong.",
    run,
    [
        Option("--site", default="main", help="name of the Site block (main)"),
        Option("--send", is_flag=True, help="send a test mail and call the webhook"),
        Option("--json", "as_json", is_flag=True, help="a JSON document"),
    ],
)

if __name__ == "__main__":
    sys.exit(run_alone(COMMAND))
