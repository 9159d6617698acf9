"""How every step runs: only what may cure itself is tried again, and what it made is not lost."""

from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import Pause

from likeness.errors import TransientError

P = ParamSpec("P")
R = TypeVar("R")
_made: ContextVar[list[Any] | None] = ContextVar("made", default=None)


def is_transient(_task: Task[..., Any], _task_run: TaskRun, state: State[Any]) -> bool:
    """Whether the failure is of a kind that another attempt may cure."""
    try:
        state.result()
    except TransientError:
        return True
    except Exception:  # noqa: BLE001  # whatever else failed, trying again cannot help
        return False
    return False


STEP: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": 2,
    "retry_delay_seconds": [5, 30],
    "retry_condition_fn": is_transient,
}
"""How every step of the way runs: never cached, tried three times where that can help."""

ONCE: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
"""A step that must not be tried again by itself."""


class Step(Task[P, R]):
    """A task that gives its caller what it made, also when its run was paused meanwhile.

    Prefect ends a paused run right behind a task that went well, and gives nobody its result: a
    snapshot, a commit, a VM. Here the run ends at its next step instead, and whoever called knows
    what there is to clean up.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Carry it out."""
        made: list[Any] = []
        before = _made.set(made)
        try:
            return super().__call__(*args, **kwargs)
        except Pause:
            if not made:
                raise
            return made[0]
        finally:
            _made.reset(before)


def task(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a function a task of this house; each is made so, of Prefect's options."""

    def made_of(body: Callable[P, R]) -> Task[P, R]:
        @wraps(body)
        def carried_out(*args: P.args, **kwargs: P.kwargs) -> R:
            made = _made.get()
            _made.set(None)  # what it calls makes something else
            result = body(*args, **kwargs)
            if made is not None:
                made.append(result)
            return result

        return Step(carried_out, **options)

    return made_of
