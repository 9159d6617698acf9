"""A house for every test, and one Prefect server for those that need it."""

from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from catalog.session import catalog_session
from tests.flows.scene import Scene, Vms, open_scene
from tests.validation.house import House

OPENED_BY_EACH_CALL = ("test_killed", "test_steps_back", "test_torn_catalog")
"""Tests that put something else where the catalog is, or that other processes write to it."""


@pytest.fixture
def house(tmp_path: Path, request: pytest.FixtureRequest) -> Generator[House, None, None]:
    """An empty store in a folder; its catalog is kept open from call to call as a job keeps it."""
    made = House(tmp_path / "house")
    if request.path.stem in OPENED_BY_EACH_CALL:
        yield made
    else:
        with catalog_session(made.catalog):
            yield made


@pytest.fixture
def new_site(tmp_path: Path, prefect_server: None) -> Generator[Callable[..., Scene], None, None]:
    """Make a pool of the lab with some VMs, and a site that protects it."""
    with ExitStack() as held:

        def make(vms: Vms | None = None, **settings: Any) -> Scene:
            folder = tmp_path / f"site-{len(list(tmp_path.iterdir()))}"
            return held.enter_context(open_scene(folder, vms, **settings))

        yield make
