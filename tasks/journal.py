"""The journal: which runs there were, and what became of each VM."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress

from prefect.exceptions import Pause

from blocks import Site
from catalog import runs
from likeness.clock import system_clock
from likeness.model.ids import RunId
from likeness.model.job import BackupJob
from likeness.model.outcome import VmOutcome, VmState
from tasks.mend_catalog import ready_catalog
from tasks.retries import STEP, task

STOPPED, PAUSED = "stopped", "paused"


@contextmanager
def journaled(run: RunId, job: BackupJob, *, site: Site) -> Generator[None, None, None]:
    """Write down that a run has begun, and that it came to no result if the `with` fails.

    A process that is killed writes nothing more: whoever finds its run begun, not finished and
    nobody at it knows what happened.
    """
    runs.begin_run(ready_catalog(site), run, job.name, system_clock())
    try:
        yield
    except Pause:  # Prefect ends a paused run at its next step; whoever paused it resumes it
        runs.finish_run(site.catalog.file, run, PAUSED, "", system_clock())
        raise
    except BaseException as problem:
        with suppress(Exception):
            said = str(problem) or type(problem).__name__
            runs.finish_run(site.catalog.file, run, STOPPED, said, system_clock())
        raise


@task(task_run_name="write down how the job went", **STEP)
def finish_run(run: RunId, outcomes: Sequence[VmOutcome], *, site: Site) -> None:
    """Write down how a run ended, and each of its VMs."""
    runs.record_outcomes(site.catalog.file, run, outcomes, system_clock())
    failed = [each for each in outcomes if each.state is not VmState.DONE]
    state = (
        "completed" if not failed else "with errors" if len(failed) < len(outcomes) else "failed"
    )
    sentence = "; ".join(f"{each.name}: {each.sentence}" for each in failed)
    runs.finish_run(site.catalog.file, run, state, sentence, system_clock())
