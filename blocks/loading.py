"""Blocks by their names: loaded, looked at, and told of in a sentence when they will not do."""

import re
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeVar

from httpx import HTTPError
from prefect.blocks.core import Block
from prefect.client.schemas.objects import BlockDocument
from prefect.context import SyncClientContext
from pydantic import BaseModel, SecretStr, ValidationError

from likeness.errors import BadInput

B = TypeVar("B", bound=Block)
_MASK = re.compile(r"\*{8,}")
"""What a form shows in place of a password; Prefect uses eight, pydantic ten."""


@contextmanager
def one_client() -> Generator[None, None, None]:
    """What asks Prefect within shares one client, as in a flow; each else reads all authorities."""
    with ExitStack() as held:
        with suppress(ValueError, RuntimeError, HTTPError):  # whoever asks says what is wrong
            held.enter_context(SyncClientContext.get_or_create())
        yield


def saved_together(wanted: Mapping[type[Block], str]) -> dict[type[Block], BlockDocument]:
    """What is saved as blocks of these types and names, asked for at once.

    What Prefect does not answer for whatever reason is left out: whoever loads it asks again.
    """
    names = sorted({name for name in wanted.values() if name})
    asked = {"block_documents": {"name": {"any_": names}}, "include_secrets": True}
    with suppress(ValueError, RuntimeError, HTTPError):
        with SyncClientContext.get_or_create() as context:
            answer = context.client.request("POST", "/block_documents/filter", json=asked)
        documents = BlockDocument.model_validate_list(answer.json())
        found = {(each.block_type.slug, each.name): each for each in documents if each.block_type}
        saved = {kind: found.get((kind.get_block_type_slug(), wanted[kind])) for kind in wanted}
        return {kind: document for kind, document in saved.items() if document is not None}
    return {}


def load_block(
    kind: type[B], name: str, *, made_by: str = "", saved: BlockDocument | None = None
) -> B:
    """The block of one type that is saved under `name`.

    Args:
        kind: Its type.
        name: What it was saved as.
        made_by: A command that makes one, to be named where there is none.
        saved: What is saved under it, if that was asked for already.

    Raises:
        BadInput: There is none, it is not complete, or a password in it is only a form's mask.
    """
    what = f"{kind.get_block_type_name()} block {name!r}"
    try:
        found = kind._load_from_block_document(saved) if saved else kind.load(name)
    except (ValueError, RuntimeError) as cause:
        raise BadInput(_why_not(cause, what, made_by)) from cause
    if not isinstance(found, kind):  # Prefect gives a coroutine to whoever runs a loop
        raise TypeError("load a block from a flow that is not async")
    if masked := masked_fields(found):
        raise BadInput(
            f"the {what} holds asterisks instead of its {' and '.join(masked)}: a form's mask was"
            " saved; enter it again in the UI under Blocks"
        )
    return found


def masked_fields(block: BaseModel) -> list[str]:
    """Which secrets of a block are only what a form shows in their place."""
    secrets = {name: getattr(block, name) for name in type(block).model_fields}
    return [
        name
        for name, value in secrets.items()
        if isinstance(value, SecretStr) and _MASK.fullmatch(value.get_secret_value())
    ]


def _why_not(cause: Exception, what: str, made_by: str) -> str:
    """Why a block could not be loaded, and what to do."""
    found = cause if isinstance(cause, ValidationError) else cause.__cause__
    if not isinstance(found, ValidationError):
        other = f", or with {made_by}" if made_by else ""
        return f"there is no {what}; save one of that name in the UI under Blocks{other}"
    errors = [error for error in found.errors() if error["loc"]]
    wrong = " and ".join(dict.fromkeys(str(error["loc"][0]) for error in errors))
    if any(isinstance(error["input"], dict) for error in errors):
        return (
            f"the {what} holds whole blocks, their passwords masked, where their names belong:"
            f" correct {wrong} with likeness settings or in the UI under Blocks"
        )
    return f"the {what} is not complete: correct {wrong or 'it'} in the UI under Blocks"
