"""A job that runs while the test looks on."""

import contextvars
import threading
from typing import Any

from prefect.client.schemas.objects import State

from tests.flows.scene import Scene


class InTheBackground:
    """A job that runs in a thread while the test looks on."""

    def __init__(self, site: Scene, *names: str, **more: Any) -> None:
        self._ended: list[State[Any]] = []
        context = contextvars.copy_context()

        def run() -> None:
            self._ended.append(context.run(site.back_up, *names, **more))

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def ended(self) -> State[Any]:
        self._thread.join(timeout=180)
        assert self._ended, "the job hangs or raised"
        return self._ended[0]
