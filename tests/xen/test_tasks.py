"""Waiting for a task of the pool: it says itself when it has ended."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest

from likeness.xen.failures import Refusal
from likeness.xen.tasks import outcome_of
from tests.xen.conftest import Stage


@contextmanager
def once_asked(stage: Stage, method: str, then: Callable[[], None]) -> Generator[None, None, None]:
    """Do something as soon as a message was sent twice, while the `with` lasts."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            if stage.pool.journal.counts().get(method, 0) >= 2:
                then()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_the_end_of_a_task_is_told_and_not_asked_for(stage: Stage) -> None:
    task = stage.pool.tasks.create("by test")

    with once_asked(stage, "event.from", lambda: stage.pool.tasks.succeed(task, "made")):
        assert outcome_of(stage.xen, task, "VM.snapshot", deadline_seconds=60) == "made"


def test_a_pool_that_refuses_events_is_asked_again_and_again(stage: Stage) -> None:
    task = stage.pool.tasks.create("by test")
    stage.pool.faults.fail("event.from", "RBAC_PERMISSION_DENIED", "event.from", "no", times=0)

    with once_asked(stage, "task.get_record", lambda: stage.pool.tasks.succeed(task, "made")):
        assert outcome_of(stage.xen, task, "VM.snapshot", deadline_seconds=60) == "made"


def test_a_task_that_is_gone_is_told_as_gone(stage: Stage) -> None:
    task = stage.pool.tasks.create("by test")

    with (
        once_asked(stage, "event.from", lambda: stage.pool.db.destroy("task", task)),
        pytest.raises(Refusal) as gone,
    ):
        outcome_of(stage.xen, task, "VM.snapshot", deadline_seconds=60)

    assert gone.value.code == "HANDLE_INVALID"
