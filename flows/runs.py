"""Which run this is, and how every flow of ours runs, ends and is told of."""

from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import wraps
from inspect import signature
from pathlib import Path
from tempfile import gettempdir
from typing import Any, ParamSpec

from prefect import Flow, flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Failed

from catalog.session import kept_open
from likeness.errors import LikenessError
from likeness.model.ids import RunId, from_uuid, random_name
from tasks.artifacts import ends_alone
from tasks.failures import show_ended, tell_failure
from tasks.links import page_link

P = ParamSpec("P")


def this_run() -> RunId:
    """The flow run's id, without dashes."""
    found = flow_run.id
    return RunId(from_uuid(str(found)) if found else random_name())


def our_flow(
    run_name: str, *, on_the_catalogs_host: bool = True
) -> Callable[[Callable[P, State[Any]]], Flow[P, State[Any]]]:
    """Make a function a flow of this house; each is made so.

    Whatever ends it badly is told to people, the pages are written anew at its end, and an error's
    own sentence is the state's message.

    Args:
        run_name: What its runs are called, with parameters in braces.
        on_the_catalogs_host: Whether its runs have the catalog; others write no page and tell
            nobody: whoever started them does.
    """
    badly: list[Any] = [tell_failure] if on_the_catalogs_host else []
    as_a_flow = flow(
        flow_run_name=run_name,
        persist_result=False,
        result_storage=Path(gettempdir()),  # nothing is put there, and the server is not asked
        on_completion=[show_ended] if on_the_catalogs_host else [],
        on_failure=badly,
        on_crashed=badly,
        on_cancellation=badly,
    )

    def made(body: Callable[P, State[Any]]) -> Flow[P, State[Any]]:
        return as_a_flow(error_as_state_message(body, shown=on_the_catalogs_host))

    return made


def error_as_state_message(
    body: Callable[P, State[Any]], *, shown: bool = False
) -> Callable[P, State[Any]]:
    """Make an error's own sentence the state message, of which the UI shows the beginning only.

    Python still gets the error itself: it is what the state holds.

    Args:
        body: Of a flow.
        shown: Whether `show_ended` follows, and finds the catalog open.
    """
    parameters = signature(body)

    @wraps(body)
    def told(*args: P.args, **kwargs: P.kwargs) -> State[Any]:
        with suppress(Exception):  # a link that cannot be made fails nothing
            _say_where(str(parameters.bind(*args, **kwargs).arguments.get("site", "main")))
        try:
            with kept_open() if shown and ends_alone() else nullcontext():
                return body(*args, **kwargs)
        except LikenessError as problem:
            return Failed(message=str(problem), data=problem)

    return told


def _say_where(site: str) -> None:
    """Begin each run's log with where to look: no menu of the UI leads there."""
    for page in ("dashboard", "start"):
        key = page if site == "main" else f"{page}-{site}"
        if link := page_link(key):
            get_run_logger().info("%s: %s", page, link)
