"""Which run this is."""

from prefect.runtime import flow_run

from likeness.model.ids import RunId, from_uuid, random_name


def this_run() -> RunId:
    """The flow run's id, without dashes."""
    found = flow_run.id
    return RunId(from_uuid(str(found)) if found else random_name())
