"""Texts for people: a template and data in, text out; `*.md.j2` is Markdown, `*.txt.j2` is mail.

Templates decide words, order and marks; what is true is decided before.
"""

from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from likeness.clock import utc_and_local
from likeness.model.sizes import counted, readable_age, readable_size

_UNBROKEN = {ord(" "): "\N{NO-BREAK SPACE}", ord("-"): "\N{NON-BREAKING HYPHEN}"}


def render(template: str, **data: Any) -> str:
    """The text of a template of this folder.

    Args:
        template: Such as ``dashboard.md.j2``.
        data: All that it names; a name without a value is an error.
    """
    return _environment().get_template(template).render(**data)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # Markdown and mail; `cell` takes what breaks a table
    )
    made.filters |= {
        "cell": cell,
        "counted": counted,
        "size": readable_size,
        "moment": moment,
        "age": age_text,
        "short": short_moment,
        "utc": utc_and_local,
    }
    return made


def cell(text: object) -> str:
    """Fit for a cell of a table, whatever people call their VMs."""
    return str(text).replace("|", "¦").replace("\n", " ")


def moment(at: datetime | None) -> str:
    """To the minute, in UTC."""
    return f"{at:%Y-%m-%d %H:%M}" if at else "none"


def short_moment(at: datetime | None, now: datetime) -> str:
    """Without the year while that goes without saying; it does not break into two lines."""
    if at is None:
        return "none"
    recent = now - at < timedelta(days=300)
    return f"{at:%m-%d %H:%M}".translate(_UNBROKEN) if recent else f"{at:%Y-%m-%d}"


def age_text(age: timedelta) -> str:
    """How long, in words; never negative."""
    return readable_age(max(age, timedelta(0)))
