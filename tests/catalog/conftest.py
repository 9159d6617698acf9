"""A fresh catalog for every test."""

from pathlib import Path

import pytest

from catalog.connection import CatalogFile
from tests.catalog.scenes import new_catalog


@pytest.fixture
def catalog(tmp_path: Path) -> CatalogFile:
    """An empty catalog."""
    return new_catalog(tmp_path)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> CatalogFile:
    """An empty catalog to copy, for tests that need many."""
    return new_catalog(tmp_path_factory.mktemp("empty"))
