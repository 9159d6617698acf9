"""Texts for people: a template and data in, text out; `*.md.j2` is Markdown, `*.txt.j2` is mail.

Templates decide words, order and marks; what is true is decided before.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from catalog.messages import Message
from likeness.clock import utc_and_local
from likeness.model.sizes import counted, readable_age, readable_size

_TURNS_ROUND = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)))
"""Writing after these runs the other way, so that a sentence says something else."""
_BREAKS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029), " ")
_CONTROLS = {code: "" for code in _BREAKS if code != ord("\n")} | _TURNS_ROUND
_MARKDOWN = str.maketrans({"|": "¦", "\\": "\\\\", "<": "\\<", "[": "\\["})
_UNBROKEN = {ord(" "): "\N{NO-BREAK SPACE}", ord("-"): "\N{NON-BREAKING HYPHEN}"}


def render(template: str, **data: Any) -> str:
    """The text of a template of this folder.

    Args:
        template: Such as ``dashboard.md.j2``.
        data: All that it names; a name without a value is an error.
    """
    return _environment(mail=template.endswith(".txt.j2")).get_template(template).render(**data)


@cache
def _environment(*, mail: bool) -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # Markdown, where `cell` takes what breaks it, and mail
        finalize=_line if mail else None,
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


def one_line(text: object) -> str:
    """What people call their VMs, and what pools say, begins no line and turns none round."""
    return str(text).translate(_BREAKS | _TURNS_ROUND)


def _line(value: Any) -> Any:
    return one_line(value) if isinstance(value, str) else value


def letter(
    matter: str, about: str, subject: str, lines: Iterable[str], incident: int | None = None
) -> Message:
    """A message to people; whatever its lines name, each stays one line.

    Args:
        matter: See `message_id`.
        about: What kind of message it is.
        subject: One line.
        lines: The body.
        incident: Its number; none if it is about none.
    """
    body = "\n".join(map(one_line, lines))
    return Message(matter, about, one_line(subject), body, incident)


def page(text: str) -> str:
    """A page as it may be shown: nothing in it turns writing round or moves in it unseen."""
    return text.translate(_CONTROLS)


def no_link(text: str) -> str:
    """For a chat: what looks like its tags, calls to everybody, links or pictures is text."""
    return text.replace("<", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}").replace("](", "] (")


def cell(text: object) -> str:
    """Fit for a cell of a table, whatever people call their VMs: no tag, link or picture."""
    return one_line(text).translate(_MARKDOWN)


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
