"""Progress that people see. A lost progress bar never fails a backup."""

import contextvars
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

EVERY_SECONDS = 5.0


@contextmanager
def shown(key: str, description: str, percent: Callable[[], float]) -> Generator[None, None, None]:
    """Show `percent()` as a progress bar while the `with` lasts, at most every five seconds.

    Args:
        key: Of the artifact: lower-case letters, digits and dashes.
        description: What is under way.
        percent: 0 to 100; called from another thread.
    """
    artifact = _quietly(
        lambda: create_progress_artifact(progress=0.0, key=key, description=description)
    )
    done = threading.Event()

    def show() -> None:
        while not done.wait(EVERY_SECONDS):
            _update(artifact, percent())
        _update(artifact, percent())

    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: context.run(show), name=f"progress {key}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=EVERY_SECONDS)


def _update(artifact: object, percent: float) -> None:
    if isinstance(artifact, UUID):
        _quietly(lambda: update_progress_artifact(artifact, min(max(percent, 0.0), 100.0)))


def _quietly(call: Callable[[], Any]) -> object:
    with suppress(Exception):
        return call()
    return None
