"""`python -m flows.settings`: look at a site's settings, or change some; no secret is needed."""

import argparse
import sys
from typing import Any

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from blocks import SiteBlock
from blocks.loading import load_block
from blocks.site import ROLES
from likeness.cli.terminal import speak_any_encoding
from likeness.errors import BadInput, LikenessError


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
                f"there is no Site block {name!r}; make one with python -m flows.set_up"
            ) from cause
    return {each: found.data[each] for each in _fields() if each in found.data}


def _fields() -> list[str]:
    return [each for each in SiteBlock.model_fields if not each.startswith("_")]


def main() -> int:
    """Show the settings of a site, after changing those that are given."""
    speak_any_encoding()
    given = {each: value for each, value in vars(_arguments()).items() if value is not None}
    name = str(given.pop("name"))
    try:
        site = change_settings(name, **given)
    except LikenessError as problem:
        print(problem, file=sys.stderr)
        return 2
    for each in _fields():
        print(f"{each.replace('_', '-'):24}{getattr(site, each)}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m flows.settings",
        description="Change settings of a site, and show them all. No password is needed or shown."
        " A running Prefect server is used if PREFECT_API_URL says where.",
    )
    parser.add_argument("--name", default="main", help="of the site (main)")
    for each in _fields():
        field = SiteBlock.model_fields[each]
        parser.add_argument(
            f"--{each.replace('_', '-')}",
            type=int if field.annotation is int else str,
            help=(field.description or "").replace("%", "%%"),
        )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
