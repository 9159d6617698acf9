"""Whatever people call VMs and disks, the catalog says it as the store does."""

from datetime import timedelta
from pathlib import Path

import pytest

from catalog.connection import CatalogLocation
from catalog.recording import record_version
from catalog.values import DiskMap
from catalog.versions import list_versions
from likeness.model.ids import DiskId
from likeness.store.read.index import known_packs
from likeness.store.read.versions import map_runs
from tests.unit.test_limits import ODD, with_text
from tests.unit.workshop import CHUNK, Workshop, noise

NAMES = [*ODD, "\\N", "", " \t ", "\r\n", "a\rb\nc", '"', '""\r', "a,b", "\ufeffbom", "\u2028"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_is_recorded_as_it_is(catalog: CatalogLocation, tmp_path: Path, name: str) -> None:
    workshop = Workshop(tmp_path)
    version = workshop.commit(with_text(workshop.transfer(noise(1, 3 * CHUNK)), name))
    maps = [
        DiskMap(DiskId(disk.disk), whole=True, runs=map_runs(workshop.store, disk))
        for disk in version.record.disks
    ]

    record_version(catalog, version, maps, known_packs(workshop.store), workshop.clock())

    (row,) = list_versions(catalog, workshop.clock(), timedelta(days=30))
    assert row.vm_name == version.record.vm_name
