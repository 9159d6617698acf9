"""Pausing a job in the UI: the VMs in flight end, no other begins, and the run stays paused.

Prefect only notes that a run is paused; its process goes on. So the process looks at that note,
ends what it has begun and leaves. *Resume* starts the run again: it goes on with the VMs it lacks.
"""

import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.exceptions import Pause

from blocks import Site
from likeness.errors import Stopped
from likeness.model.ids import RunId
from likeness.model.outcome import VmOutcome
from tasks.claims import is_live
from tasks.progress import every_few_seconds

HELD_BACK = "the job was paused before this VM began"
_LOOK_AGAIN_SECONDS = 1.0


class Hold:
    """Whether a person has paused the run."""

    def __init__(self) -> None:
        """Not yet."""
        self._paused = threading.Event()

    def note(self) -> None:
        """It is paused."""
        self._paused.set()

    def check(self) -> None:
        """Leave if no VM is to begin any more.

        Raises:
            Stopped: The run is paused.
        """
        if self._paused.is_set():
            raise Stopped(HELD_BACK)


@contextmanager
def pausable(run: RunId) -> Generator[Hold, None, None]:
    """Look every few seconds whether the run was paused, while the `with` lasts."""
    hold = Hold()

    def look() -> None:
        with suppress(Exception), get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(run)).state
            if state is not None and state.is_paused():
                hold.note()

    with every_few_seconds(look, "paused"):
        yield hold


def leave_if_paused(outcomes: Sequence[VmOutcome]) -> None:
    """End this process, and leave the run as paused as it is, if VMs were held back.

    Raises:
        Pause: As Prefect's engine wants to be told.
    """
    if any(each.sentence == HELD_BACK for each in outcomes):
        get_run_logger().warning("the job is paused; *Resume* goes on with the VMs it lacks")
        raise Pause("paused in the UI")


def wait_for_earlier(site: Site, run: RunId) -> None:
    """A run that was resumed at once waits until its process before has ended."""
    while is_live(site, run):
        time.sleep(_LOOK_AGAIN_SECONDS)
