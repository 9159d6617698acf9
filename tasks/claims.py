"""Who is at work on what: one run of a job, one job at a VM, at any time."""

import hashlib
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress

from blocks import Site
from likeness.claims import Claimed, claim, is_claimed, said_by_claims
from likeness.errors import JobAlreadyRunning
from likeness.model.ids import RunId, VersionId, VmId, random_name
from likeness.retrying import Attempts, Pauses

_MAX_WAIT_SECONDS = 600.0
_BETWEEN_LOOKS = Pauses(0.05, 0.05)
_LOOK_AGAIN_SECONDS = 1.0


@contextmanager
def run_claimed(site: Site, run: RunId) -> Generator[None, None, None]:
    """Show that a run is alive, so that the sweep leaves alone what it makes."""
    with claim(site.catalog.claims, f"run-{run}"):
        try:
            yield
        finally:
            with suppress(OSError):  # what is in there stays for the sweep
                (site.catalog.scratch / run).rmdir()


def wait_for_earlier(site: Site, run: RunId) -> None:
    """A run that was paused and resumed at once waits until its process before has ended."""
    while is_live(site, run):
        time.sleep(_LOOK_AGAIN_SECONDS)


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


@contextmanager
def sweep_claimed(site: Site) -> Generator[bool, None, None]:
    """Be the only sweep; whether one is.

    No deployment's limit does that: a sweep that died would keep the next one from clearing up.
    """
    with ExitStack() as held:
        yield _taken(held, site, f"sweep-{'0' * 32}")


@contextmanager
def store_claimed(site: Site) -> Generator[None, None, None]:
    """Wait for one's turn at what one run at a time may do in the store.

    That is giving packs back, and writing documents that are numbered one after the other.

    Raises:
        JobAlreadyRunning: It was somebody else's turn all the time.
    """
    with _claimed_alone(site, "turn"):
        yield


@contextmanager
def store_gate(site: Site) -> Generator[None, None, None]:
    """Be alone with what commits, forgets or deletes, for a moment; see `store.reclaiming`.

    Raises:
        JobAlreadyRunning: Somebody else held it all the time.
    """
    with _claimed_alone(site, "gate"):
        yield


@contextmanager
def vault_claimed(site: Site) -> Generator[None, None, None]:
    """Be the only run of this installation that changes the vault.

    Raises:
        JobAlreadyRunning: Somebody else was at it all the time.
    """
    with _claimed_alone(site, "vault"):
        yield


@contextmanager
def _claimed_alone(site: Site, word: str) -> Generator[None, None, None]:
    with ExitStack() as held:
        attempts = Attempts(_BETWEEN_LOOKS, seconds=_MAX_WAIT_SECONDS)
        while not _taken(held, site, f"{word}-{'0' * 32}"):
            if not attempts.again():
                raise JobAlreadyRunning(
                    "another run has been tidying the data store for ten minutes; see whether it"
                    " hangs, and run this one again"
                )
        yield


@contextmanager
def version_read(site: Site, version: VersionId) -> Generator[None, None, None]:
    """Show that a version is being read, so that nobody forgets it meanwhile."""
    with claim(site.catalog.claims, f"reads-{random_name()}", says=version):
        yield


def versions_read(site: Site) -> set[VersionId]:
    """Versions that somebody reads at this moment."""
    return {VersionId(said) for said in said_by_claims(site.catalog.claims, "reads-")}


def is_backed_up_now(site: Site, vm: VmId) -> bool:
    """Whether a job is at work on a VM."""
    return is_claimed(site.catalog.claims, f"vm-{vm}")


def _taken(held: ExitStack, site: Site, name: str) -> bool:
    try:
        held.enter_context(claim(site.catalog.claims, name))
    except Claimed:
        return False
    return True


def is_live(site: Site, run: RunId) -> bool:
    """Whether the process of a run is still there."""
    return is_claimed(site.catalog.claims, f"run-{run}")
