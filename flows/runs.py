"""Which run this is, and how it ends when it cannot do what it was asked for."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Failed

from likeness.errors import LikenessError
from likeness.model.ids import RunId, from_uuid, random_name

P = ParamSpec("P")


def this_run() -> RunId:
    """The flow run's id, without dashes."""
    found = flow_run.id
    return RunId(from_uuid(str(found)) if found else random_name())


def failing_in_words(story: Callable[P, State[Any]]) -> Callable[P, State[Any]]:
    """Make an error's own sentence the state message, of which the UI shows the beginning only.

    Python still gets the error itself: it is what the state holds.
    """

    @wraps(story)
    def told(*args: P.args, **kwargs: P.kwargs) -> State[Any]:
        try:
            return story(*args, **kwargs)
        except LikenessError as problem:
            return Failed(message=str(problem), data=problem)

    return told
