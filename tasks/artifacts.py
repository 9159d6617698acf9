"""Artifacts: what people look at in the server's UI. A lost picture never fails a backup.

Prefect's own functions for them leave a connection open at every call; these close theirs.
"""

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import dropwhile
from typing import TypeVar
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactCollectionFilter,
    ArtifactCollectionFilterKey,
    ArtifactFilter,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import ArtifactCollection
from prefect.client.schemas.sorting import ArtifactSort
from prefect.context import FlowRunContext
from prefect.utilities.context import get_task_and_flow_run_ids

from tasks.reports import one_line, page

_T = TypeVar("_T")
_read: ContextVar[dict[str, ArtifactCollection | None]] = ContextVar("read", default={})  # noqa: B039  # never changed
KEPT = 5
"""So many of each page are kept: the newest is what counts, and the server keeps no others."""
_LOOKED_AT = 5  # so that those left by a server's bad days go a few at a time


def ends_alone() -> bool:
    """Whether this is in a run at whose end all pages are written anew: it is in no other run."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return run is not None and run.parent_task_run_id is None


def slug(text: str) -> str:
    """Fit for a key: lower-case letters, digits and dashes."""
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in text)
    return kept.lower().strip("-") or "unnamed"


def put_table(
    key: str, rows: Sequence[dict[str, str]], description: str, *, keep: int = KEPT
) -> None:
    """A table; the newest with its key is what people see.

    Args:
        key: Of the artifact.
        rows: All with the same columns.
        description: In Markdown.
        keep: How many of these to keep, this one included. A single one is rewritten in place, so
            that links to it stay good.
    """
    data = json.dumps([{name: one_line(said) for name, said in row.items()} for row in rows])
    change = ArtifactUpdate(data=data, description=page(description))
    if keep == 1 and _quietly(lambda client: _changed(client, key, change)):
        return
    _put("table", key, data, description, keep=keep)


def _changed(client: SyncPrefectClient, key: str, change: ArtifactUpdate) -> bool:
    """Change the newest artifact with a key, unless it says so already; whether there is one."""
    newest = _newest(client, key)
    if newest is None:
        return False
    if (newest.data, newest.description) != (change.data, change.description):
        client.update_artifact(newest.latest_id, change)
    return True


def _newest(client: SyncPrefectClient, key: str) -> ArtifactCollection | None:
    known = _read.get()
    return known[key] if key in known else _asked(client, [key])[key]


def _asked(client: SyncPrefectClient, keys: Sequence[str]) -> dict[str, ArtifactCollection | None]:
    named = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(any_=list(keys)))
    found = client.read_latest_artifacts(artifact_filter=named, limit=len(keys))
    return {**dict.fromkeys(keys), **{each.key: each for each in found}}


@contextmanager
def read_together(keys: Sequence[str]) -> Generator[None, None, None]:
    """Ask for the newest pages with some keys at once; whoever rewrites one here and now knows it.

    That is for a moment: another run makes another page.
    """
    token = _read.set(_quietly(lambda client: _asked(client, keys)) or {})
    try:
        yield
    finally:
        _read.reset(token)


def newest_link(key: str) -> str:
    """The newest page with a key, in the server's UI; the list of all of them if there is none."""

    def link(client: SyncPrefectClient) -> str:
        newest = _newest(client, key)
        return f"/v2/artifacts/artifact/{newest.latest_id}" if newest else ""

    return _quietly(link) or f"/v2/artifacts/key/{key}"


def _forget_older(client: SyncPrefectClient, key: str, made: UUID, keep: int) -> None:
    """Of what is older than the artifact `made` keep a few, and all that came after it."""
    named = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    known = client.read_artifacts(
        artifact_filter=named, sort=ArtifactSort.CREATED_DESC, limit=keep + _LOOKED_AT
    )
    for each in list(dropwhile(lambda known: known.id != made, known))[keep:]:
        client.delete_artifact(each.id)


def put_markdown(key: str, text: str, description: str) -> UUID | None:
    """A page; none if the server does not answer."""
    return _put("markdown", key, page(text), description)


def put_bar(key: str, description: str, percent: float) -> UUID | None:
    """A progress bar, 0 to 100; none if the server does not answer."""
    return _put("progress", key, _bounded(percent), description)


def move_bar(bar: UUID | None, percent: float) -> None:
    """Show another percentage, 0 to 100."""
    if bar is not None:
        change = ArtifactUpdate(data=_bounded(percent))
        _quietly(lambda client: client.update_artifact(bar, change))


def _bounded(percent: float) -> float:
    return min(max(percent, 0.0), 100.0)


def rewrite_newest(key: str, text: str, *, and_also: UUID | None = None) -> bool:
    """Put another text into the newest page with a key, whichever run made it.

    Args:
        key: Which.
        text: In Markdown.
        and_also: Another artifact to rewrite: the run's own, which people look at there.

    Returns:
        Whether there is one and the server took it.
    """
    text = page(text)

    def rewrite(client: SyncPrefectClient) -> bool:
        newest = _newest(client, key)
        same = newest is not None and newest.data == text
        pages = {newest.latest_id} if newest and not same else set()
        for each in pages | ({and_also} if and_also else set()):
            client.update_artifact(each, ArtifactUpdate(data=text))
        return same or bool(pages)

    return bool(_quietly(rewrite))


def _put(
    kind: str, key: str, data: str | float, description: str, *, keep: int = KEPT
) -> UUID | None:
    def put(client: SyncPrefectClient) -> UUID:
        task_run, flow_run = get_task_and_flow_run_ids()
        made = client.create_artifact(
            ArtifactCreate(
                type=kind,
                key=key,
                description=page(description) or None,
                data=data,
                task_run_id=task_run,
                flow_run_id=flow_run,
            )
        )
        return made.id

    made = _quietly(put)
    _read.get().pop(key, None)
    if made is not None:
        _quietly(lambda client: _forget_older(client, key, made, keep))
    return made


def _quietly(call: Callable[[SyncPrefectClient], _T]) -> _T | None:
    with suppress(Exception), get_client(sync_client=True) as client:
        return call(client)
    return None
