"""One rule for all tasks: only what may cure itself is tried again."""

from typing import Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from likeness.errors import TransientError


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
