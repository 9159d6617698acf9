"""A fresh catalog for every test."""

from collections.abc import Generator
from pathlib import Path

import pytest

from catalog.connection import CatalogLocation
from catalog.session import catalog_session
from tests.catalog.scenes import new_catalog

OPENED_BY_EACH_CALL = (
    "test_connection",
    "test_copies",
    "test_scale",
    "test_schema",
    "test_session",
)
"""Tests of opening, locking and replacing the file itself, some from processes of their own."""


@pytest.fixture
def catalog(
    tmp_path: Path, request: pytest.FixtureRequest
) -> Generator[CatalogLocation, None, None]:
    """An empty catalog, kept open from call to call as a job keeps it."""
    made = new_catalog(tmp_path)
    if request.path.stem in OPENED_BY_EACH_CALL:
        yield made
    else:
        with catalog_session(made):
            yield made


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> CatalogLocation:
    """An empty catalog to copy, for tests that need many."""
    return new_catalog(tmp_path_factory.mktemp("empty"))
