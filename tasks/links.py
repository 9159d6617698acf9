"""Addresses of pages of the server's UI, for mails and logs; empty where there is no server."""

from uuid import UUID

from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL

from likeness.model.ids import RunId


def ui(path: str) -> str:
    """A page of the UI by its path; empty if no server is known that stays.

    Args:
        path: Such as ``/artifacts``.
    """
    base = PREFECT_UI_URL.value() or str(PREFECT_API_URL.value() or "").removesuffix("/api")
    return f"{str(base).rstrip('/')}/v2{path}" if base else ""


def page_link(key: str) -> str:
    """An artifact by its key."""
    return ui(f"/artifacts/key/{key}")


def run_link(run: RunId) -> str:
    """A run."""
    return ui(f"/runs/flow-run/{UUID(run)}")
