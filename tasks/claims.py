"""Who is at work on what: one run of a job, one job at a VM, at any time."""

import hashlib
from collections.abc import Generator
from contextlib import contextmanager

from blocks import Site
from likeness.claims import Claimed, claim, is_claimed
from likeness.errors import JobAlreadyRunning
from likeness.model.ids import RunId, VmId


@contextmanager
def run_claimed(site: Site, run: RunId) -> Generator[None, None, None]:
    """Show that a run is alive, so that the sweep leaves alone what it makes."""
    with claim(site.catalog.claims, f"run-{run}"):
        yield


@contextmanager
def job_claimed(site: Site, job: str) -> Generator[None, None, None]:
    """Be the only run of a job.

    Raises:
        JobAlreadyRunning: Another one is under way.
    """
    digest = hashlib.blake2b(job.encode(), digest_size=16).hexdigest()
    try:
        with claim(site.catalog.claims, f"job-{digest}"):
            yield
    except Claimed as cause:
        raise JobAlreadyRunning(
            f"another run of job {job!r} is under way; this one changed nothing, so wait for the"
            " other to end or cancel it"
        ) from cause


@contextmanager
def vm_claimed(site: Site, vm: VmId, name: str) -> Generator[None, None, None]:
    """Be the only run at work on a VM.

    Raises:
        JobAlreadyRunning: Another job is.
    """
    try:
        with claim(site.catalog.claims, f"vm-{vm}"):
            yield
    except Claimed as cause:
        raise JobAlreadyRunning(
            f"VM {name} is being backed up by another job at this moment; it is left to that one"
        ) from cause


def is_live(site: Site, run: RunId) -> bool:
    """Whether the process of a run is still there."""
    return is_claimed(site.catalog.claims, f"run-{run}")
