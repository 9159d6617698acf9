"""`likeness settings`: look at a site's settings, or change some; no secret is needed."""

import sys
from typing import Any

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from blocks import SiteBlock
from blocks.loading import load_block
from blocks.site import ROLES
from likeness.cli.options import NUMBER, Option, Options, verb
from likeness.cli.running import run_alone
from likeness.cli.terminal import say
from likeness.errors import BadInput
from likeness.stopping import StopToken


def change_settings(name: str, **changes: str | int) -> SiteBlock:
    """Change fields of a Site block; everything else stays as it is.

    Args:
        name: Of the block.
        changes: Fields of `SiteBlock`; for a role, the name of the block that is to have it.

    Raises:
        BadInput: There is no such site, a value cannot be, or a block cannot be used as it is.
    """
    fields = _saved(name) | changes
    try:
        site = SiteBlock(**fields)
    except ValidationError as cause:
        wrong = "; ".join(f"{e['loc'][0]}: {e['msg']}" for e in cause.errors())
        raise BadInput(f"the site {name!r} cannot be like that: {wrong}") from cause
    for role in ROLES.keys() & changes.keys():
        if changes[role]:
            load_block(ROLES[role], str(changes[role]))
    if changes:
        site.save(name, overwrite=True)
    return site


def _saved(name: str) -> dict[str, Any]:
    """The fields of a Site block as they are saved, also of one that can no longer be loaded."""
    with get_client(sync_client=True) as client:
        try:
            found = client.read_block_document_by_name(name, SiteBlock.get_block_type_slug())
        except ObjectNotFound as cause:
            raise BadInput(
                f"there is no Site block {name!r}; make one with likeness set-up"
            ) from cause
    return {each: found.data[each] for each in _fields() if each in found.data}


def _fields() -> list[str]:
    return [each for each in SiteBlock.model_fields if not each.startswith("_")]


def run(options: Options, _stop: StopToken) -> int:
    """Show the settings of a site, after changing those that are given."""
    given = {each: value for each, value in vars(options).items() if value is not None}
    name = str(given.pop("name"))
    site = change_settings(name, **given)
    for each in _fields():
        say(f"{each.replace('_', '-'):24}{getattr(site, each)}")
    return 0


def _option(name: str) -> Option:
    field = SiteBlock.model_fields[name]
    number = field.annotation is int
    return Option(
        f"--{name.replace('_', '-')}", type=NUMBER if number else str, help=field.description
    )


COMMAND = verb(
    "settings",
    "Change settings of a site, and show them all. No password is needed or shown. A running"
    " Prefect server is used if PREFECT_API_URL says where.",
    run,
    [
        Option("--name", default="main", help="of the site (main)"),
        *(_option(each) for each in _fields()),
    ],
)

if __name__ == "__main__":
    sys.exit(run_alone(COMMAND))
