"""A house for every test, and one Prefect server for those that need it."""

from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.flows.scene import Scene, Vms, open_scene
from tests.validation.house import House


@pytest.fixture
def house(tmp_path: Path) -> House:
    """An empty store in a folder."""
    return House(tmp_path / "house")


@pytest.fixture
def new_site(tmp_path: Path, prefect_server: None) -> Generator[Callable[..., Scene], None, None]:
    """Make a pool of the lab with some VMs, and a site that protects it."""
    with ExitStack() as held:

        def make(vms: Vms | None = None, **settings: Any) -> Scene:
            folder = tmp_path / f"site-{len(list(tmp_path.iterdir()))}"
            return held.enter_context(open_scene(folder, vms, **settings))

        yield make
