"""The event that starts the validation of what a run committed."""

from collections.abc import Sequence
from contextlib import suppress

from prefect.events import emit_event

from likeness.model.ids import RunId

COMMITTED = "likeness.commit.completed"


def announce_commit(site: str, run: RunId, versions: Sequence[str]) -> None:
    """Tell the world that a run committed versions; a deployment of `validate` listens.

    Best effort: if nobody hears it, the scheduled validation finds the versions in the catalog.
    """
    if versions:
        with suppress(Exception):
            emit_event(
                COMMITTED,
                resource={"prefect.resource.id": f"likeness.site.{site}"},
                payload={"site": site, "run": run, "versions": list(versions)},
            )
