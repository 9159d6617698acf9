"""Which run this is, and how every flow of ours runs, ends and is told of."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

from prefect import Flow, flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Failed

from likeness.errors import LikenessError
from likeness.model.ids import RunId, from_uuid, random_name
from tasks.failures import show_ended, tell_failure

P = ParamSpec("P")


def this_run() -> RunId:
    """The flow run's id, without dashes."""
    found = flow_run.id
    return RunId(from_uuid(str(found)) if found else random_name())


def our_flow(run_name: str) -> Callable[[Callable[P, State[Any]]], Flow[P, State[Any]]]:
    """Make a function a flow of this house; each is made so.

    Whatever ends it badly is told to people, the pages are written anew at its end, and an error's
    own sentence is the state's message.

    Args:
        run_name: What its runs are called, with parameters in braces.
    """
    as_a_flow = flow(
        flow_run_name=run_name,
        persist_result=False,
        on_completion=[show_ended],
        on_failure=[tell_failure],
        on_crashed=[tell_failure],
        on_cancellation=[tell_failure],
    )

    def made(body: Callable[P, State[Any]]) -> Flow[P, State[Any]]:
        return as_a_flow(error_as_state_message(body))

    return made


def error_as_state_message(body: Callable[P, State[Any]]) -> Callable[P, State[Any]]:
    """Make an error's own sentence the state message, of which the UI shows the beginning only.

    Python still gets the error itself: it is what the state holds.
    """

    @wraps(body)
    def told(*args: P.args, **kwargs: P.kwargs) -> State[Any]:
        try:
            return body(*args, **kwargs)
        except LikenessError as problem:
            return Failed(message=str(problem), data=problem)

    return told
