"""A lost catalog, made again of the store alone: all of it at once, and no dearer as it grows."""

from collections.abc import Callable
from pathlib import Path

import pytest

from blocks import CatalogFile, DataStoreShare, Site
from catalog.values import Verdict
from catalog.versions import list_versions
from likeness.clock import system_clock
from likeness.model.ids import DiskId, VersionId, VmId, random_name
from likeness.store.read.versions import Version, load_map
from likeness.transport.local import LocalTransport
from tasks.catch_up import bring_together
from tests.support.catalog_rows import map_of_version
from tests.support.faulty import FaultyTransport
from tests.unit.workshop import CHUNK, Workshop, changed, flipped, noise

Rebuilt = Callable[[], tuple[CatalogFile, int, tuple[str, ...], int]]


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path, transport=LocalTransport(tmp_path / "store", make=True))


@pytest.fixture
def rebuilt(shop: Workshop, tmp_path: Path) -> Rebuilt:
    """Makes a catalog of the store: how many versions, what was left out, and how often asked."""

    def made() -> tuple[CatalogFile, int, tuple[str, ...], int]:
        catalog = CatalogFile(folder=str(tmp_path / random_name()[:8]))
        catalog.ready(system_clock)
        share = DataStoreShare(place=str(tmp_path / "store"), key_file=str(shop.key_file))
        site = Site(xen_pool="none", data_store=share, catalog=catalog)
        asked = FaultyTransport(shop.transport, counting={"read", "size", "entries", "listing"})
        recorded, left_out = bring_together(site, shop.store.over(asked))
        return catalog, recorded, left_out, len(asked.operations)

    return made


def test_what_is_asked_of_the_store_grows_with_its_versions_and_no_faster(
    shop: Workshop, rebuilt: Rebuilt
) -> None:
    machines = [VmId(random_name()) for _ in range(2)]
    asked, made = {}, 0
    for wanted in (4, 8, 16):
        while made < wanted:
            disk = noise(made % 2, 3 * CHUNK)
            shop.back_up(changed(disk, (CHUNK, b"%d" % made)), vm=machines[made % 2])
            made += 1
        catalog, recorded, left_out, asked[wanted] = rebuilt()
        assert (recorded, left_out) == (wanted, ())
        rows = list_versions(catalog.file, system_clock(), None)
        assert len(rows) == wanted
        assert {row.verdict for row in rows} == {Verdict.UNCHECKED}

    assert asked[16] - asked[8] == 2 * (asked[8] - asked[4])


def test_a_record_that_is_not_whole_is_left_out_and_what_follows_it_is_not(
    shop: Workshop, rebuilt: Rebuilt, tmp_path: Path
) -> None:
    disk, versions = noise(1, 6 * CHUNK), []
    for night in range(4):
        disk = changed(disk, (night * CHUNK, b"%d" % night))
        if night == 3:
            disk = disk[: 3 * CHUNK + 9]  # it shrank
        versions.append(shop.back_up(disk))
    other = shop.back_up(noise(2, 2 * CHUNK), vm=VmId(random_name()))
    path = tmp_path / "store" / versions[1].name
    path.write_bytes(flipped(path.read_bytes(), 200))

    catalog, recorded, left_out, _ = rebuilt()

    assert recorded == 4
    assert len(left_out) == 1
    assert "version 2" in left_out[0]
    for version in (versions[0], *versions[2:], other):
        assert map_of_version(
            catalog.file, VersionId(version.version), DiskId(version.record.disks[0].disk)
        ) == map_in_the_store(shop, version, tmp_path)
    path.write_bytes(flipped(path.read_bytes(), 200))
    assert rebuilt()[1:3] == (5, ())


def map_in_the_store(shop: Workshop, version: Version, scratch: Path) -> dict[int, bytes]:
    with load_map(shop.store, version.record.disks[0], scratch / f"{random_name()}.map") as there:
        runs = list(there.runs_unlike(None, 0, there.positions))
    return {at: chunk[:16] for run in runs for at, chunk in run.each()}
